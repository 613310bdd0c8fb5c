"""Noise of every stage, injected: against noise by hand, and against what a scan predicts."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import families
import numpy as np
import pytest
import torch
from torch import nn

import srdd
from srdd.documents.evaluation import NoiseStages
from srdd.documents.records import replicate_of
from srdd.errors import UsageError
from srdd.measurement.forward import tokenize_for
from srdd.model.checkpoint import find
from srdd.model.load import load_model, load_tokenizer
from srdd.prompts.reading import builtin
from srdd.simulation.evaluator import StagedNoise
from srdd.simulation.noise_stages import DRAWS, measure_noise

TEXTS = ["What is 12 times 12?", "Once upon a time.", "def add(a, b):", "Hello there"]
SIGMAS = (0.1, 0.05, 0.01)


def norms_of(model: nn.Module) -> list[nn.Module]:
    return [m for name, m in model.named_modules() if name.endswith("layernorm")]


def kl_by_hand(model: nn.Module, ids: Sequence[torch.Tensor], sigma: float, draws: int) -> Any:
    """KL a token of noise on the layers' norms, for each draw; plain torch, in float64."""
    generator = torch.Generator().manual_seed(7)
    norms = norms_of(model)
    clean = [norm.weight.detach().clone() for norm in norms]
    found = []
    with torch.no_grad():
        plain = [model(input_ids=one[None]).logits[0, :-1].double().log_softmax(-1) for one in ids]
        for _ in range(draws):
            for norm, weight in zip(norms, clean, strict=True):
                norm.weight.copy_(weight + sigma * torch.randn(weight.shape, generator=generator))
            total = 0.0
            for one, p in zip(ids, plain, strict=True):
                q = model(input_ids=one[None]).logits[0, :-1].double().log_softmax(-1)
                total += float((p.exp() * (p - q)).sum())
            found.append(total / sum(len(one) - 1 for one in ids))
        for norm, weight in zip(norms, clean, strict=True):
            norm.weight.copy_(weight)
    return np.array(found)


@pytest.fixture(scope="module")
def demo() -> tuple[nn.Module, Any, list[str], srdd.Scan]:
    checkpoint = find("demo")
    model = load_model(checkpoint, dtype="float32", device="cpu").model
    reader = load_tokenizer(checkpoint)
    texts = [prompt.plain() for prompt in builtin().prompts[:40]]
    scan = srdd.scan_model(
        model, reader, texts, sites=("input",), kl=True, kl_check=0, max_length=48
    )
    return model, reader, texts, scan


def test_noise_put_in_by_hand_costs_what_the_scan_predicts_at_three_sigmas(
    demo: tuple[nn.Module, Any, list[str], srdd.Scan],
) -> None:
    model, reader, texts, scan = demo
    tokenized = tokenize_for(model, reader, texts, 48, None)
    ids = [torch.tensor(each) for each in tokenized.ids if len(each) > 1]
    for sigma in SIGMAS:
        config = srdd.suggest(scan, "uniform", sigma_start=sigma, sigma_end=sigma, num_stages=3)
        (row,) = scan.noise_kl(config, stage=1)
        draws = kl_by_hand(model, ids, sigma, 6)
        # Student's t with 5 degrees of freedom, for the draws; the scan's interval is over prompts.
        spread = 2.571 * draws.std(ddof=1) / math.sqrt(len(draws))
        low, high = row["kl_interval"]
        assert low - spread <= draws.mean() <= high + spread, sigma
        assert row["kl"] == pytest.approx(draws.mean(), rel=0.25), sigma


def staged(demo: tuple[nn.Module, Any, list[str], srdd.Scan], **more: Any) -> NoiseStages:
    model, reader, texts, scan = demo
    config = srdd.suggest(scan, "uniform", sigma_start=0.1, sigma_end=0.01, num_stages=4)
    found = srdd.evaluate(
        model,
        reader,
        texts,
        noise=StagedNoise(config, "rin.json", scan),
        max_length=48,
        **more,
    ).noise_stages
    assert found is not None
    return found


def test_an_evaluation_compares_every_stage_with_its_prediction(
    demo: tuple[nn.Module, Any, list[str], srdd.Scan],
) -> None:
    model = demo[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = staged(demo)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert found.same_prompts
    assert found.measured_in == "float32"
    assert found.draws >= DRAWS
    assert [round(one.sigma, 4) for one in found.stages] == [0.1, 0.0316, 0.01]
    for one in found.stages:
        assert one.ratio == pytest.approx(one.predicted / one.measured)
        assert one.ratio_interval is not None
        assert one.agrees is True, one
        # A single prompt bears much of the cost here, and its draws scatter widely.
        assert 0.5 < one.ratio < 1.5
    # Quadratic: a tenth of sigma costs a hundredth.
    assert 50 < found.stages[0].measured / found.stages[2].measured < 200
    other = copy.deepcopy(model)
    with torch.no_grad():
        norms_of(other)[0].weight[0] += 1
    with pytest.raises(UsageError, match="of other weights"):
        staged((other, *demo[1:]))


def test_what_is_measured_is_what_noise_by_hand_costs(tokenizer: Any) -> None:
    """A tiny model, many draws: the same mean from other draws of the noise."""
    model = families.new("llama").float()
    with torch.no_grad():
        model.get_submodule("lm_head").weight.mul_(20)  # so that noise shows
    scan = srdd.scan_model(model, tokenizer, TEXTS, sites=("input",), kl=True, kl_check=0)
    config = srdd.suggest(scan, "uniform", sigma_start=0.1, sigma_end=0.1, num_stages=3)
    tokenized = tokenize_for(model, tokenizer, TEXTS, None, None)
    found = measure_noise(model, tokenized, config)
    assert found.nats.shape == (3, 64)
    assert not found.nats[0].any()
    groups = {replicate_of(name) for name in tokenized.fingerprints}
    assert set(np.flatnonzero(found.tokens)) == groups
    assert found.tokens.sum() == sum(len(each) - 1 for each in tokenized.ids)
    by_hand = kl_by_hand(model, [torch.tensor(each) for each in tokenized.ids], 0.1, 40)
    mean = (found.nats[1] + found.nats[2]).sum() / 2 / found.tokens.sum()
    assert mean == pytest.approx(by_hand.mean(), rel=0.15)


def test_noise_of_a_bfloat16_model_is_rounded_to_it_and_measured_in_float32(tokenizer: Any) -> None:
    model = families.new("llama").to(torch.bfloat16)
    scan = srdd.scan_model(model, tokenizer, TEXTS, sites=("input",), kl=True, kl_check=0)
    # Gains of 1 have neighbours at 1 - 2^-8: nothing of a sigma of 0.0001 arrives.
    config = srdd.suggest(scan, "uniform", sigma_start=1e-4, sigma_end=1e-4, num_stages=3)
    tokenized = tokenize_for(model, tokenizer, TEXTS, None, None)
    found = measure_noise(model, tokenized, config)
    assert found.dtype == "float32"
    assert found.nats.sum() == 0
    louder = srdd.suggest(scan, "uniform", sigma_start=0.1, sigma_end=0.1, num_stages=3)
    assert (measure_noise(model, tokenized, louder).nats[1:].sum(1) > 0).all()
    assert all((norm.weight == 1).all() for norm in norms_of(model))
