"""Figures over some tokens only: each against a model run by hand on one prompt at a time."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import families
import numpy as np
import pytest
import torch
from torch import nn

import srdd
from srdd.documents.records import replicate_of
from srdd.measurement.activations import measure_activations
from srdd.measurement.labels import check_predicted, predicted
from srdd.measurement.listener import Listener
from srdd.measurement.plan import Plan
from srdd.measurement.sensitivity import measure_sensitivity
from srdd.model.structure import find_structure
from srdd.numerics.formats import parse_spec
from srdd.numerics.quantize import fake_quantize
from srdd.numerics.sums import INDEX
from srdd.prompts.batches import TokenizedPrompts, make_batches, split
from srdd.simulation import predictions
from srdd.simulation.direct import Change, measure_directly
from srdd.simulation.pieces import predictable

LENGTHS = (9, 4, 17, 6, 12)


def some(seed: int = 0) -> TokenizedPrompts:
    """Five prompts; of each, tokens that count are drawn at random, of the last but one none."""
    random = np.random.default_rng(seed)
    ids = tuple(tuple(int(i) for i in random.integers(3, 200, n)) for n in LENGTHS)
    scored = [tuple(bool(b) for b in random.random(n) < 0.5) for n in LENGTHS]
    scored[3] = (False,) * LENGTHS[3]
    logprobs = tuple(tuple(-float(x) for x in random.random(n)) for n in LENGTHS)
    index = tuple(range(7, 12))
    return TokenizedPrompts("test", index, ids, 0, (), scored=tuple(scored), logprobs=logprobs)


def logits_by_hand(model: nn.Module, ids: tuple[int, ...]) -> torch.Tensor:
    """(tokens, vocabulary) in float64, of a prompt that runs alone."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].double()


def test_batches_and_their_halves_keep_what_belongs_to_each_token() -> None:
    tokenized = some()
    parts = [half for batch in make_batches(tokenized, 3) for half in split(batch)]
    seen = Counter[int]()
    for batch in parts:
        assert batch.scored is not None
        assert batch.logprobs is not None
        for row, number in enumerate(batch.index):
            place = tokenized.index.index(number)
            length = LENGTHS[place]
            assert tokenized.scored is not None
            assert tokenized.logprobs is not None
            assert batch.scored[row, :length].tolist() == list(map(int, tokenized.scored[place]))
            assert batch.logprobs[row, :length].tolist() == list(tokenized.logprobs[place])
            assert not batch.scored[row, length:].any()
            assert batch.logprobs[row, length:].isnan().all()
            seen[number] += 1
    assert seen == Counter(tokenized.index)


def test_another_choice_of_tokens_is_another_prompt() -> None:
    one = some()
    everything = TokenizedPrompts("test", one.index, one.ids, 0, ())
    other = TokenizedPrompts("test", one.index, one.ids, 0, (), scored=some(1).scored)
    assert len({*one.fingerprints, *other.fingerprints, *everything.fingerprints}) >= 13
    assert one.fingerprint != everything.fingerprint


@pytest.mark.parametrize("skip_first", [False, True])
def test_site_sums_are_over_the_rows_of_scored_tokens(skip_first: bool) -> None:
    model, tokenized = families.shared("llama"), some()
    assert tokenized.scored is not None
    structure = find_structure(model)
    plan = Plan.of(batch_size=3, skip_first_token=skip_first)
    measured, missing = measure_activations(model, structure, tokenized, plan, Listener())
    assert not missing
    kept: dict[str, list[torch.Tensor]] = {}

    def keep(name: str, x: torch.Tensor, rows: list[bool]) -> None:
        kept.setdefault(name, []).append(x.reshape(-1, x.shape[-1])[torch.tensor(rows)].detach())

    modules = dict(model.named_modules())
    for ids, scored in zip(tokenized.ids, tokenized.scored, strict=True):
        rows = list(scored)
        rows[0] = rows[0] and not skip_first
        handles = [
            modules[name].register_forward_pre_hook(
                lambda module, given, name=name, rows=rows: keep(name, given[0], rows)
            )
            for name in {each.tensor for each in measured if each.site == "input"}
        ]
        handles += [
            modules[name].register_forward_hook(
                lambda module, given, output, name=name, rows=rows: keep(
                    name, output if isinstance(output, torch.Tensor) else output[0], rows
                )
            )
            for name in {each.tensor for each in measured if each.site == "output"}
        ]
        logits_by_hand(model, ids)
        for handle in handles:
            handle.remove()
    for each in measured:
        x = torch.cat(kept[each.tensor]).double()
        error = fake_quantize(x.float(), "mxfp4:floor").double() - x
        sums = each.replicates.sum(0)
        assert sums[INDEX["elements"]] == x.numel()
        assert sums[INDEX["x2"]] == pytest.approx(float(x.square().sum()), rel=1e-5)
        assert sums[INDEX["e2"]] == pytest.approx(float(error.square().sum()), rel=1e-4)


def test_predictions_are_those_of_scored_tokens() -> None:
    model, tokenized = families.shared("llama"), predictable(some())
    assert tokenized.scored is not None
    assert len(tokenized.ids) == 4  # one has nothing to predict
    got = {}
    with srdd.simulate(model, "mxfp4", "mxfp4") as simulation, torch.no_grad():
        for batch in make_batches(tokenized, 3):
            given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            with simulation.paused():
                plain = model(**given).logits
            sums = predictions.sums(plain, model(**given).logits, batch)
            got |= dict(zip(batch.index, sums.tolist(), strict=True))
    for number, ids, scored in zip(tokenized.index, tokenized.ids, tokenized.scored, strict=True):
        p = logits_by_hand(model, ids).log_softmax(-1)
        with srdd.simulate(model, "mxfp4", "mxfp4"):
            q = logits_by_hand(model, ids).log_softmax(-1)
        wanted = [0.0, 0.0, 0.0]
        for place in range(1, len(ids)):
            if scored[place]:
                wanted[0] -= float(p[place - 1, ids[place]])
                wanted[1] -= float(q[place - 1, ids[place]])
                wanted[2] += float((p[place - 1].exp() * (p - q)[place - 1]).sum())
        assert got[number] == pytest.approx(wanted, rel=1e-4)
    assert list(tokenized.predicted) == [sum(scored[1:]) for scored in tokenized.scored]


@pytest.mark.parametrize("skip_first", [False, True])
def test_direct_kl_of_each_group_is_of_scored_tokens(skip_first: bool) -> None:
    model, tokenized = families.shared("llama"), some()
    assert tokenized.scored is not None
    change = Change(None, 0, "mxfp4:floor", "both")
    found = measure_directly(
        model, find_structure(model), tokenized, [change], skip_first_token=skip_first
    )[change]
    wanted = np.zeros_like(found)
    for ids, scored, name in zip(
        tokenized.ids, tokenized.scored, tokenized.fingerprints, strict=True
    ):
        p = logits_by_hand(model, ids).log_softmax(-1)
        with srdd.simulate(model, "mxfp4", "mxfp4", include=["*"]):
            q = logits_by_hand(model, ids).log_softmax(-1)
        rows = [n - 1 for n in range(1 + skip_first, len(ids)) if scored[n]]
        wanted[replicate_of(name)] += float((p.exp() * (p - q))[rows].sum())
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-12)


def test_sensitivity_counts_scored_tokens_and_estimates_their_kl() -> None:
    """A small change is estimated exactly up to sampling: here against its direct measurement."""
    model, tokenized = families.new("llama").double(), some()
    assert tokenized.scored is not None
    structure, spec = find_structure(model), parse_spec("mxint8")
    estimate = measure_sensitivity(model, structure, tokenized, [spec], samples=400)
    assert estimate.tokens.sum() == sum(tokenized.predicted)
    change = Change(None, 0, str(spec), "both")
    direct = measure_directly(model, structure, tokenized, [change])[change].sum()
    wanted = direct / sum(tokenized.predicted)
    assert math.isclose(estimate.joint_kl(spec, "both"), wanted, rel_tol=0.25)
    everything = TokenizedPrompts("test", tokenized.index, tokenized.ids, 0, ())
    other = measure_directly(model, structure, everything, [change])[change].sum()
    assert not math.isclose(direct, other, rel_tol=0.3)


def test_nothing_to_predict_is_refused_before_anything_runs(tokenizer: Any) -> None:
    nothing = TokenizedPrompts("t", (0,), ((5, 6),), 0, (), scored=((True, False),))
    for call in (lambda: predictable(nothing), lambda: check_predicted(nothing, False)):
        with pytest.raises(srdd.SrddError, match="no rollout has a response token"):
            call()
    only_second = TokenizedPrompts("t", (0,), ((5, 6),), 0, (), scored=((False, True),))
    check_predicted(only_second, skip_first=False)
    with pytest.raises(srdd.SrddError):
        check_predicted(only_second, skip_first=True)
    assert predicted(make_batches(only_second)[0]).counts.tolist() == [1]
