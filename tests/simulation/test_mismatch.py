"""The mismatch of rollouts: figures, classes and the engine's share against loops in numpy."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import families
import numpy as np
import pytest
import torch

import srdd
from srdd.documents.mismatch import Mismatch
from srdd.errors import UsageError
from srdd.measurement.listener import Listener
from srdd.numerics.mismatch import check_clip, response_sums, token_sums
from srdd.numerics.mismatch_metrics import figures
from srdd.prompts.batches import TokenizedPrompts, make_batches
from srdd.prompts.rollouts import RolloutCounts
from srdd.simulation import mismatch as collecting
from srdd.simulation import token_figures
from srdd.simulation.mismatch import Collector
from srdd.simulation.variants import Runner, Variant

W4A4 = Variant("mxfp4:floor", "mxfp4:floor")
OWN = (0.9, 1.1)


def rollouts(seed: int = 0, sizes: tuple[int, ...] = (70, 12, 33, 5)) -> TokenizedPrompts:
    """Random prompts of 3 tokens with responses; the second has a tool's tokens in its middle."""
    rng = np.random.default_rng(seed)
    ids = tuple(tuple(map(int, rng.integers(5, 200, 3 + size))) for size in sizes)
    scored = [(False,) * 3 + (True,) * size for size in sizes]
    scored[1] = scored[1][:6] + (False,) * 4 + scored[1][10:]
    index = tuple(range(1, 2 * len(sizes), 2))
    return TokenizedPrompts(
        "made", index, ids, 0, (), scored=tuple(scored), rollouts=RolloutCounts()
    )


def log_softmax(logits: torch.Tensor, temperature: float = 1.0) -> np.ndarray:
    z = logits.double().numpy() / temperature
    z = z - z.max(-1, keepdims=True)
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def by_hand(tokenized: TokenizedPrompts, temperature: float = 1.0) -> list[list[dict[str, Any]]]:
    """For each response the figures of each of its tokens, run alone."""
    model = families.shared("llama")
    found = []
    for ids, scored in zip(tokenized.ids, tokenized.scored or (), strict=True):
        with torch.no_grad():
            plain = model(torch.tensor([ids])).logits[0]
            with srdd.simulate(model, W4A4.weights, W4A4.activations):
                other = model(torch.tensor([ids])).logits[0]
        p, q = log_softmax(plain, temperature), log_softmax(other, temperature)
        tokens = []
        for place in range(1, len(ids)):
            if not scored[place]:
                continue
            a, b, t = p[place - 1], q[place - 1], ids[place]
            ratio = np.exp(a - b)
            tokens.append(
                {
                    "place": place,
                    "train": a[t],
                    "rollout": b[t],
                    "kl_reversed": sum(math.exp(y) * (y - x) for x, y in zip(a, b, strict=True)),
                    "expected_chi2": sum(math.exp(2 * x - y) for x, y in zip(a, b, strict=True))
                    - 1,
                    "expected_mult_prob_error": sum(np.exp(b) * np.exp(np.abs(a - b))),
                    "expected_clipped": sum(np.exp(b)[(ratio < 0.8) | (ratio > 1.2)]),
                    "entropy": -sum(np.exp(a) * a),
                    "rank": 1 + int((a > a[t]).sum()),
                }
            )
        found.append(tokens)
    return found


def collected(tokenized: TokenizedPrompts, batch_size: int = 3) -> tuple[Collector, np.ndarray]:
    model = families.shared("llama")
    collector = Collector(tokenized, OWN)
    batches = make_batches(tokenized, batch_size)
    runner = Runner(model, tokenized, batches, None, (), (), Listener())
    with torch.no_grad():
        sums, _ = runner.run(W4A4, collector)
    return collector, sums


def decode(ids: Any) -> str:
    return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def section() -> Mismatch:
    return collected(rollouts())[0].section(decode)


CLOSE: dict[str, Any] = {"rel": 1e-5, "abs": 1e-7}


def test_figures_are_those_of_loops_over_tokens(section: Mismatch) -> None:
    tokens = by_hand(rollouts())
    flat = [token for response in tokens for token in response]
    assert section.tokens == len(flat) == 70 + 8 + 33 + 5
    for name in ("kl_reversed", "expected_chi2", "expected_mult_prob_error", "expected_clipped"):
        mean = sum(token[name] for token in flat) / len(flat)
        assert section.figures[name].value == pytest.approx(mean, **CLOSE), name
    # The text counts as the training policy's: its log-probabilities are the rollout policy's.
    assert section.written_by == "training"
    d = [[t["rollout"] - t["train"] for t in response] for response in tokens]
    k3 = sum(math.exp(x) - 1 - x for r in d for x in r) / len(flat)
    assert section.figures["k3"].value == pytest.approx(k3, **CLOSE)
    weights = [math.exp(sum(r)) for r in d]
    assert section.figures["chi2_seq"].value == pytest.approx(
        sum(w * w for w in weights) / len(weights) - 1, **CLOSE
    )
    own = sum(not 0.9 <= math.exp(x) <= 1.1 for r in d for x in r) / len(flat)
    assert section.figures["own_clipped"].value == pytest.approx(own)
    assert section.figures["k3"].value > 1e-5


def test_roles_are_exchanged_for_text_of_the_other_policy() -> None:
    collector, _ = collected(rollouts())
    section = collector.section(decode, "rollout")
    d = [t["train"] - t["rollout"] for response in by_hand(rollouts()) for t in response]
    k3 = sum(math.exp(x) - 1 - x for x in d) / len(d)
    assert section.figures["k3"].value == pytest.approx(k3, **CLOSE)
    assert section.written_by == "rollout"


def test_sums_of_prompts_are_those_of_an_evaluation_without_it() -> None:
    tokenized = rollouts()
    _, sums = collected(tokenized)
    model = families.shared("llama")
    runner = Runner(model, tokenized, make_batches(tokenized, 3), None, (), (), Listener())
    with torch.no_grad():
        plain, _ = runner.run(W4A4)
    np.testing.assert_allclose(sums, plain, rtol=1e-9)


def test_classes_have_their_own_tokens(section: Mismatch) -> None:
    tokens = by_hand(rollouts())
    flat = [token for response in tokens for token in response]
    names = [each.name for each in section.by_position]
    assert names == ["0 to 31", "32 to 63", "64 to 127"]
    for each, (low, high) in zip(section.by_position, ((0, 32), (32, 64), (64, 128)), strict=True):
        chosen = [t for r in tokens for t in r[low:high]]
        assert each.tokens == len(chosen)
        mean = sum(t["kl_reversed"] for t in chosen) / len(chosen)
        assert each.kl.value == pytest.approx(mean, **CLOSE)
        errors = [math.exp(abs(t["train"] - t["rollout"])) for t in chosen]
        assert each.prob_error.value == pytest.approx(sum(errors) / len(errors), **CLOSE)
        reach = [r[:high] for r in tokens if len(r) > low]
        assert each.responses == len(reach)
        weights = [math.exp(sum(t["rollout"] - t["train"] for t in r)) for r in reach]
        ess = sum(weights) ** 2 / sum(w * w for w in weights) / len(weights)
        assert each.ess_seq == pytest.approx(ess, **CLOSE)
    bounds = {"1": (1, 1), "2": (2, 2), "3 to 5": (3, 5), "6 to 20": (6, 20), "above 20": (21, 999)}
    for each in section.by_rank:
        low, high = bounds[each.name]
        chosen = [t for t in flat if low <= t["rank"] <= high]
        assert each.tokens == len(chosen)
        total = sum(t["kl_reversed"] for t in flat)
        assert each.share == pytest.approx(sum(t["kl_reversed"] for t in chosen) / total, **CLOSE)
    assert sum(each.tokens for each in section.by_entropy) == len(flat)
    for each in section.by_entropy:
        low, high = (float(end) for end in each.name.split(" to "))
        near = [t for t in flat if low * 0.97 <= t["entropy"] <= high * 1.03]
        assert each.tokens <= len(near)


def test_the_worst_responses_can_be_read(section: Mismatch) -> None:
    tokenized = rollouts()
    tokens = by_hand(tokenized)
    totals = [sum(t["kl_reversed"] for t in response) for response in tokens]
    order = sorted(range(4), key=lambda place: -totals[place])
    assert [each.index for each in section.worst] == [tokenized.index[place] for place in order]
    for each, place in zip(section.worst, order, strict=True):
        assert each.kl == pytest.approx(totals[place], **CLOSE)
        d = [t["train"] - t["rollout"] for t in tokens[place]]
        position = max(range(len(d)), key=lambda n: abs(d[n]))
        assert (each.position, each.tokens) == (position, len(d))
        assert each.log_ratio == pytest.approx(d[position], **CLOSE)
        at, ids = tokens[place][position]["place"], tokenized.ids[place]
        assert each.token == str(ids[at])
        assert each.before == decode(ids[max(0, at - 16) : at])
        assert each.after == decode(ids[at + 1 : at + 5])


def with_engine(noise: float, of: str) -> tuple[TokenizedPrompts, list[tuple[float, float, float]]]:
    """Rollouts whose engine logged a policy's log-probabilities, off by noise; and (p, q, e)."""
    tokenized = rollouts(3, (40, 40, 40, 40, 40, 40))
    rng = np.random.default_rng(1)
    logprobs, known = [], []
    for ids, response in zip(tokenized.ids, by_hand(tokenized), strict=True):
        row = [math.nan] * len(ids)
        for token in response[:-2]:  # the engine's log ends early
            row[token["place"]] = token[of] + noise * rng.standard_normal()
            known.append((token["train"], token["rollout"], row[token["place"]]))
        logprobs.append(tuple(row))
    return replace(tokenized, logprobs=tuple(logprobs)), known


@pytest.mark.parametrize(("of", "writer"), [("rollout", "rollout"), ("train", "training")])
def test_what_an_engine_logged_is_split_into_the_simulated_part_and_the_rest(
    of: str, writer: str
) -> None:
    tokenized, known = with_engine(0.002, of)
    section = collected(tokenized)[0].section(decode)
    assert section.written_by == writer
    measured = section.measured
    assert measured is not None
    assert measured.tokens == len(known)
    for side, found in ((0, measured.figures), (1, measured.left)):
        d = [row[side] - row[2] for row in known]
        k3 = sum(math.exp(x) - 1 - x for x in d) / len(d)
        assert found["k3"].value == pytest.approx(k3, rel=1e-3)
    squares = [sum((row[side] - row[2]) ** 2 for row in known) for side in (0, 1)]
    assert measured.explained.value == pytest.approx(1 - squares[1] / squares[0], rel=1e-3)
    low, high = measured.explained.interval
    assert low < measured.explained.value < high
    assert (measured.explained.value > 0.9) == (writer == "rollout")
    assert (measured.explained.value < 0) == (writer == "training")


def test_a_temperature_scales_both_policies() -> None:
    tokenized = replace(rollouts(), rollouts=RolloutCounts(temperature=0.7))
    section = collected(tokenized)[0].section(decode)
    flat = [t for response in by_hand(tokenized, 0.7) for t in response]
    mean = sum(t["kl_reversed"] for t in flat) / len(flat)
    assert section.figures["kl_reversed"].value == pytest.approx(mean, **CLOSE)
    plain = collected(rollouts())[1]
    np.testing.assert_allclose(collected(tokenized)[1], plain, rtol=1e-9)


def test_chunks_and_batches_do_not_show(section: Mismatch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_figures, "CHUNK", 264 * 3)
    other = collected(rollouts(), batch_size=1)[0].section(decode)
    for name, figure in section.figures.items():
        assert other.figures[name].value == pytest.approx(figure.value, rel=1e-4, abs=1e-7)


def test_what_is_kept_does_not_grow_with_the_length_of_responses() -> None:
    def size(collector: Collector) -> int:
        arrays = [v for v in vars(collector).values() if isinstance(v, np.ndarray)]
        for each in vars(collector).values():
            arrays += each.values() if isinstance(each, dict) else ()
        return sum(array.nbytes for array in arrays)

    short, long = (Collector(rollouts(0, (n, n))) for n in (13, 2000))
    assert size(short) == size(long)


def test_policies_without_a_token_in_common() -> None:
    """A token that one policy rules out: divergences are infinite, and nothing is NaN."""
    p = torch.tensor([[[0.0, -torch.inf, 0.0], [0.0, 0.0, 0.0]]])
    q = torch.tensor([[[0.0, -torch.inf, -torch.inf], [0.0, 0.0, 0.0]]])
    tokenized = TokenizedPrompts("", (0,), ((1, 0),), 0, (), scored=((False, True),))
    batch = make_batches(tokenized)[0]
    values = token_figures.token_figures(p, q, batch).values
    assert values["kl"] == [math.inf]
    assert values["kl_reversed"] == pytest.approx([math.log(2)])
    assert values["entropy"] == pytest.approx([math.log(2)])
    assert np.isfinite([values[n][0] for n in ("expected_chi2", "expected_apart_exp")]).all()


def test_a_clipping_range_holds_one() -> None:
    check_clip((0.0, 5.0))
    for bad in ((1.1, 1.2), (0.8, 0.9), (-0.1, 1.2), (0.8, math.inf), (math.nan, 2.0)):
        with pytest.raises(UsageError, match="does not hold the ratio 1"):
            check_clip(bad)


def test_sampled_and_expected_figures_agree_where_the_writer_sampled() -> None:
    """Tokens drawn from a policy: sampled figures cover what is expected of them."""
    rng = np.random.default_rng(0)
    vocabulary, inside, runs = 50, 0, 200
    for _ in range(runs):
        sums, exact = [], []
        for _ in range(40):
            z = rng.standard_normal((20, vocabulary)) * 2
            a, b = (
                log_softmax(torch.tensor(x)) for x in (z, z + 0.3 * rng.standard_normal(z.shape))
            )
            drawn = [rng.choice(vocabulary, p=np.exp(row)) for row in b]
            places = np.arange(20)
            sums.append(token_sums(a[places, drawn], b[places, drawn]).sum(axis=0))
            exact.append((np.exp(b) * (b - a)).sum(-1).mean())
        low, high = figures(response_sums(np.stack(sums)), ("k3",))["k3"][1] or (0, 0)
        inside += low <= np.mean(exact) <= high
    # Contexts of one run count as its population, so the interval is wider than this needs.
    assert inside / runs >= 0.94


def test_names_of_ranks_follow_their_ends() -> None:
    assert collecting._rank_names() == ["1", "2", "3 to 5", "6 to 20", "above 20"]
