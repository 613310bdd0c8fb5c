"""Evaluation: figures against float64 arithmetic by hand, intervals, what is said and refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import families
import numpy as np
import pytest
import torch
from torch import nn

import srdd
from srdd.documents.evaluation import Evaluation
from srdd.errors import InputError, UsageError
from srdd.measurement import forward
from srdd.measurement.listener import Listener
from srdd.model.checkpoint import find
from srdd.model.load import load_model, load_tokenizer
from srdd.prompts.reading import builtin
from srdd.simulation import predictions
from srdd.simulation.evaluator import Noise, Variant, evaluate_model
from srdd.simulation.pieces import pieces_of
from srdd.simulation.results import result_of
from srdd.simulation.simulator import Simulation

PROMPTS = [
    "one two three",
    "a somewhat longer prompt than the first, to make padding",
    "x = 1",
    "def f(x):\n    return x",
    "Zwölf Boxkämpfer",
]
W4A4 = Variant("mxfp4:floor", "mxfp4:floor")


def by_hand(
    model: nn.Module, tokenizer: Any, prompts: list[str], variant: Variant
) -> list[tuple[int, float, float, float]]:
    """(predicted tokens, plain nll, nll, kl) of each prompt run alone, with numpy in float64."""
    found = []
    for prompt in prompts:
        ids = tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            plain = model(torch.tensor([ids])).logits[0].double().numpy()
            with srdd.simulate(model, variant.weights, variant.activations):
                other = model(torch.tensor([ids])).logits[0].double().numpy()
        p, q = (
            z
            - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))
            - z.max(-1, keepdims=True)
            for z in (plain, other)
        )
        nll_p = nll_q = kl = 0.0
        for place, following in enumerate(ids[1:]):
            nll_p -= p[place, following]
            nll_q -= q[place, following]
            kl += float((np.exp(p[place]) * (p[place] - q[place])).sum())
        found.append((len(ids) - 1, nll_p, nll_q, kl))
    return found


@pytest.fixture(scope="module")
def evaluation(tokenizer: Any) -> Evaluation:
    return evaluate_model(
        families.shared("llama"),
        tokenizer,
        PROMPTS,
        variants=[W4A4, Variant("nvfp4")],
        batch_size=3,
    )


def test_figures_are_those_of_float64_arithmetic_by_hand(
    evaluation: Evaluation, tokenizer: Any
) -> None:
    model = families.shared("llama")
    for variant, result in zip((W4A4, Variant("nvfp4:token")), evaluation.results[1:], strict=True):
        assert (result.weights, result.activations) == (variant.weights, variant.activations)
        rows = by_hand(model, tokenizer, PROMPTS, variant)
        predicted, plain, nll, kl = map(np.array, zip(*rows, strict=True))
        assert evaluation.text.predicted == predicted.tolist()
        total = predicted.sum()
        close = {"rel": 1e-6, "abs": 1e-7}  # padding changes sums of the model in the last places
        assert evaluation.results[0].loss == pytest.approx(plain.sum() / total, **close)
        assert result.loss == pytest.approx(nll.sum() / total, **close)
        assert result.perplexity == pytest.approx(math.exp(nll.sum() / total), **close)
        assert result.loss_difference == pytest.approx((nll - plain).sum() / total, **close)
        assert result.kl == pytest.approx(kl.sum() / total, **close)
        assert result.loss_by_prompt == pytest.approx((nll / predicted).tolist(), **close)
        assert result.kl_by_prompt == pytest.approx((kl / predicted).tolist(), **close)
        assert result.kl > 1e-5
        assert result.simulated == 21


def test_the_first_result_is_the_model_as_it_is(evaluation: Evaluation) -> None:
    plain = evaluation.results[0]
    assert plain.is_plain
    assert (plain.kl, plain.loss_difference, plain.simulated) == (None, None, 0)


def test_the_batches_do_not_show(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.shared("llama")
    whole = evaluate_model(model, tokenizer, PROMPTS)
    monkeypatch.setattr(predictions, "LOGITS", 264 * 20)
    monkeypatch.setattr(predictions, "CHUNK", 264 * 3)
    parts = evaluate_model(model, tokenizer, PROMPTS)
    for one, other in zip(whole.results, parts.results, strict=True):
        assert one.loss_by_prompt == pytest.approx(other.loss_by_prompt, rel=1e-6)
        if one.kl_by_prompt is not None:
            assert one.kl_by_prompt == pytest.approx(other.kl_by_prompt, rel=1e-4, abs=1e-9)


def test_logits_are_never_kept_beyond_a_batch(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc
    import weakref

    alive: list[weakref.ref[torch.Tensor]] = []
    most = [0]
    inner = forward.logits_of

    def watch(*given: Any) -> torch.Tensor:
        found = inner(*given)
        alive.append(weakref.ref(found))
        gc.collect()
        most[0] = max(most[0], sum(ref() is not None for ref in alive))
        return found

    monkeypatch.setattr(forward, "logits_of", watch)
    evaluate_model(families.shared("llama"), tokenizer, PROMPTS, batch_size=1)
    assert len(alive) == 2 * len(PROMPTS)
    assert most[0] <= 4  # two of this batch, and two that the loop has not let go of yet


def test_running_out_of_memory_halves_the_batch(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = forward.logits_of

    def scarce(model: nn.Module, batch: Any, device: torch.device) -> torch.Tensor:
        if len(batch.index) > 2:
            raise torch.OutOfMemoryError
        return inner(model, batch, device)

    model = families.shared("llama")
    expected = evaluate_model(model, tokenizer, PROMPTS, batch_size=2)
    monkeypatch.setattr(forward, "logits_of", scarce)
    found = evaluate_model(model, tokenizer, PROMPTS, batch_size=5)
    assert found.results[1].loss == pytest.approx(expected.results[1].loss, rel=1e-6)


# Intervals


def test_intervals_are_those_of_a_ratio_of_sums_over_prompts() -> None:
    rng = np.random.default_rng(1)
    count = 400
    predicted = rng.integers(5, 50, count).astype(float)
    nll = predicted * rng.normal(3.0 + predicted / 20, 0.5)  # longer prompts lose more
    sums = np.stack([nll, nll, np.zeros(count)], axis=1)
    low, high = result_of(Variant(), predicted, sums, Simulation()).loss_interval
    mean = nll.sum() / predicted.sum()
    # The linearised standard error of a ratio of sums.
    error = np.sqrt(((nll - mean * predicted) ** 2).sum()) / predicted.sum()
    assert (high - low) / 2 == pytest.approx(1.96 * error, rel=0.02)
    assert low < mean < high


def test_a_difference_is_paired() -> None:
    """A shift that is the same in every prompt has an interval of no width, whatever they are."""
    predicted = np.array([10.0, 20.0, 30.0, 15.0])
    plain = predicted * np.array([1.0, 5.0, 2.0, 9.0])
    sums = np.stack([plain, plain + 0.25 * predicted, np.zeros(4)], axis=1)
    result = result_of(W4A4, predicted, sums, Simulation())
    assert result.loss_difference == pytest.approx(0.25)
    assert result.loss_difference_interval == pytest.approx((0.25, 0.25))
    low, high = result.loss_interval
    assert high - low > 1


def test_one_prompt_has_no_interval(tokenizer: Any) -> None:
    found = evaluate_model(families.shared("llama"), tokenizer, ["one prompt"])
    assert all(result.loss_interval is None for result in found.results)
    assert any("no intervals" in sentence for sentence in found.warnings)


def test_a_perplexity_is_the_exponential_of_its_loss(evaluation: Evaluation) -> None:
    for result in evaluation.results:
        assert result.perplexity == pytest.approx(math.exp(result.loss))
        assert result.perplexity_interval == pytest.approx(
            tuple(map(math.exp, result.loss_interval))
        )


# Texts


def test_a_text_is_cut_into_pieces(tokenizer: Any) -> None:
    text = "abcdefghij" * 5
    found = pieces_of(families.shared("llama"), tokenizer, [text], 16)
    ids = tuple(tokenizer(text)["input_ids"])
    assert [len(piece) for piece in found.ids] == [16, 16, 16, 2]
    assert sum(found.ids, ()) == ids
    evaluation = evaluate_model(
        families.shared("llama"), tokenizer, [text], as_text=True, max_length=16, limit=3
    )
    assert evaluation.text.form == "text"
    assert evaluation.text.predicted == [15, 15, 15]


def test_prompts_of_one_token_are_left_out(tokenizer: Any) -> None:
    found = evaluate_model(families.shared("llama"), tokenizer, ["a", "bc", "def"])
    assert found.text.indices == [1, 2]
    assert found.text.left_out == 1
    assert any("left out 1 prompt: no token to predict" in line for line in found.warnings)


def test_a_text_with_nothing_to_predict_is_refused(tokenizer: Any) -> None:
    model = families.shared("llama")
    with pytest.raises(InputError, match="no prompt has a token to predict") as caught:
        evaluate_model(model, tokenizer, ["a"])
    assert "two tokens" in caught.value.hint
    with pytest.raises(UsageError, match="`max_length` is 1"):
        evaluate_model(model, tokenizer, ["abc"], as_text=True, max_length=1)
    with pytest.raises(
        InputError, match="the text has 3 tokens, fewer than one piece of 16"
    ) as few:
        evaluate_model(model, tokenizer, ["abc"], as_text=True, max_length=16)
    assert few.value.hint.endswith("`max_length` of at most 3")
    with pytest.raises(UsageError, match="more than the model's context"):
        evaluate_model(model, tokenizer, ["abc"], as_text=True, max_length=10**6)


def test_nothing_to_quantize_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UsageError, match="nothing to quantize"):
        evaluate_model(families.shared("llama"), tokenizer, PROMPTS, variants=[Variant()])


def test_a_model_without_logits_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="no logits"):
        evaluate_model(families.shared("llama").model, tokenizer, PROMPTS)


# What is said


def test_the_model_is_as_before(tokenizer: Any, llama: nn.Module) -> None:
    llama.train()
    before = {key: value.clone() for key, value in llama.state_dict().items()}
    evaluate_model(llama, tokenizer, PROMPTS)
    assert all(module.training for module in llama.modules())
    assert not any("forward" in module.__dict__ for module in llama.modules())
    assert all(torch.equal(value, before[key]) for key, value in llama.state_dict().items())


def test_what_was_not_simulated_is_told(tokenizer: Any, llama: nn.Module) -> None:
    class Bypass(nn.Linear):
        """Reads nothing of its own: stands for an architecture that does not call a linear."""

    mlp = llama.model.layers[0].mlp
    mlp.spare = Bypass(64, 64)
    said: list[str] = []
    found = evaluate_model(llama, tokenizer, PROMPTS, listener=Listener(warned=said.append))
    result = found.results[1]
    assert [each.module for each in result.not_simulated] == ["model.layers.0.mlp.spare"]
    assert result.simulated == 21
    assert any("1 linear computed in full precision" in sentence for sentence in said)


def test_routers_stay_as_they_are_unless_they_are_included(tokenizer: Any) -> None:
    model = families.shared("mixtral")
    spared = evaluate_model(model, tokenizer, PROMPTS)
    names = [each.module for each in spared.results[1].not_simulated]
    assert names == [f"model.layers.{n}.mlp.gate" for n in range(families.LAYERS)]
    assert any("routers are quantized only where" in sentence for sentence in spared.warnings)
    all_of_it = evaluate_model(model, tokenizer, PROMPTS, include=["*"])
    assert all_of_it.results[1].not_simulated == []
    assert all_of_it.results[1].simulated == spared.results[1].simulated + families.LAYERS


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float64), ("cuda", torch.float64), ("mps", torch.float32)]
)
def test_figures_use_float64_where_the_device_has_it(device: str, dtype: torch.dtype) -> None:
    assert predictions.working_dtype(torch.device(device)) == dtype


def test_predictions_that_are_not_finite_are_told(tokenizer: Any, llama: nn.Module) -> None:
    with torch.no_grad():
        llama.lm_head.weight.fill_(3e38)  # finite, but its products are not
    found = evaluate_model(llama, tokenizer, PROMPTS)
    assert [result.loss for result in found.results] == [None, None]
    assert any("NON-FINITE" in sentence for sentence in found.warnings)
    assert found.to_json()


def test_a_rule_over_whole_tensors_is_told(tokenizer: Any) -> None:
    found = evaluate_model(
        families.shared("llama"), tokenizer, PROMPTS, variants=[Variant("mxfp4", "nvfp4:tensor")]
    )
    assert any("depend on the batch size" in sentence for sentence in found.warnings)


def test_the_document_comes_back_from_its_file(evaluation: Evaluation, tmp_path: Any) -> None:
    evaluation.save(tmp_path / "eval.json")
    assert Evaluation.load(tmp_path / "eval.json") == evaluation


def _shorter(found: dict[str, Any]) -> None:
    found["results"][1]["loss_by_prompt"].pop()


def _other_first(found: dict[str, Any]) -> None:
    found["results"].reverse()


def _twice(found: dict[str, Any]) -> None:
    found["results"].append(found["results"][1])


def _backwards(found: dict[str, Any]) -> None:
    found["results"][1]["kl_interval"] = [2.0, 1.0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_shorter, "another number of prompts"),
        (_other_first, "not the model as it is"),
        (_twice, "occurs twice"),
        (_backwards, "ends before it begins"),
    ],
)
def test_a_document_that_does_not_hold_together_is_refused(
    evaluation: Evaluation, damage: Callable[[dict[str, Any]], None], message: str
) -> None:
    found = evaluation.model_dump(mode="json")
    damage(found)
    with pytest.raises(InputError, match=message):
        Evaluation.from_object(found, "eval.json")


# The demo model, end to end


@pytest.fixture(scope="module")
def demo() -> tuple[nn.Module, Any]:
    checkpoint = find("demo")
    return load_model(checkpoint).model, load_tokenizer(checkpoint)


def test_more_bits_diverge_less_on_the_demo_model(demo: tuple[nn.Module, Any]) -> None:
    variants = [Variant(name, name) for name in ("mxfp4", "nvfp4", "mxfp8_e4m3")]
    variants += [Variant("mxfp4", None), Variant(None, "mxfp4")]
    found = evaluate_model(*demo, builtin(limit=8), variants=variants, max_length=64)
    both, nvfp4, mxfp8, weights, activations = (result.kl for result in found.results[1:])
    assert both > nvfp4 > 4 * mxfp8 > 0
    assert both > max(weights, activations)
    assert {result.simulated for result in found.results[1:]} == {84}


def test_with_noise_every_variant_is_run_twice(demo: tuple[nn.Module, Any]) -> None:
    model, tokenizer = demo
    scan = srdd.scan_model(model, tokenizer, ["some text to scan"])
    config = srdd.suggest(scan, strategy="uniform")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    found = evaluate_model(
        *(model, tokenizer, builtin(limit=4)),
        noise=Noise(config, "rin.json", step=40, total_steps=100, seed=5),
        max_length=48,
    )
    variants = [(result.weights, result.noise) for result in found.results]
    assert variants == [(None, False), (None, True), ("mxfp4:floor", False), ("mxfp4:floor", True)]
    kl = [result.kl for result in found.results]
    assert kl[0] is None
    assert kl[1] > 0
    assert kl[3] != kl[2]
    assert found.settings.noise is not None
    assert (found.settings.noise.step, found.settings.noise.strategy) == (40, "uniform")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    first = evaluate_model(
        *(model, tokenizer, builtin(limit=4)),
        noise=Noise(config, "rin.json", step=0, total_steps=100),
        max_length=48,
    )
    assert first.results[1].kl == 0
    assert any("has no noise" in sentence for sentence in first.warnings)
    last = evaluate_model(
        *(model, tokenizer, builtin(limit=4)),
        noise=Noise(config, "rin.json", step=99, total_steps=100),
        max_length=48,
    )
    # bfloat16's neighbours around 1 lie eight times as far apart as this sigma.
    lost = [sentence for sentence in last.warnings if sentence.startswith("noise of sigma 0.0005")]
    assert len(lost) == 1
    assert lost[0].endswith("% of the noisy weights as they were")
    assert int(lost[0].partition(" %")[0].split()[-1]) > 90
    loudest = evaluate_model(
        *(model, tokenizer, builtin(limit=1)),
        noise=Noise(config, "rin.json", step=10, total_steps=100),
        max_length=8,
    )
    assert not any(sentence.startswith("noise of sigma") for sentence in loudest.warnings)
