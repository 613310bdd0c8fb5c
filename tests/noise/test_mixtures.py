"""Noise on the linears of mixtures, and on weights that several modules share."""

from __future__ import annotations

from typing import Any

import families
import pytest
import torch
from torch import nn
from transformers import PreTrainedTokenizerFast

import srdd
from srdd.noise import suggest
from srdd.noise.targets import targets_of
from srdd.rin import noisy

STACKED = ("mixtral", "qwen2_moe", "gpt_oss", "deepseek_v3")


def scan_of(model: nn.Module, tokenizer: Any) -> srdd.Scan:
    return srdd.scan_model(model, tokenizer, ["one two three", "four"], sites=["weight"])


def linears_and_experts(model: nn.Module) -> dict[str, int]:
    """Weights of decoder layers with two or three axes, without routers, by their own names."""
    return {
        name.removesuffix(".weight"): weight.numel()
        for name, weight in model.named_parameters()
        if ".layers." in name
        and weight.ndim in (2, 3)
        and not name.removesuffix(".weight").endswith((".gate", ".router", "_gate"))
        and not name.endswith("_bias")
    }


@pytest.mark.parametrize("name", STACKED)
def test_linear_noise_reaches_every_expert_and_spares_routers(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = families.new(name)
    expected = linears_and_experts(model)
    assert any(weight.ndim == 3 for weight in model.parameters())
    config = suggest(scan_of(model, tokenizer), "uniform", layer_type="linear", sigma_start=0.001)
    named = {m.name: m.size for entry in config.layers for m in entry.modules}
    assert named == expected
    assert config.energy.weights == sum(expected.values())
    assert any("router" in text and "no noise" in text for text in config.warnings)
    assert config.excluded
    assert not set(config.excluded) & set(named)
    before = {key: weight.clone() for key, weight in model.state_dict().items()}
    with noisy(model, config, step=4, total_steps=30) as report:
        changed = {
            key.removesuffix(".weight")
            for key, weight in model.state_dict().items()
            if not torch.equal(weight, before[key])
        }
    assert changed == set(expected)
    assert {m.name for m in report.modules} == changed
    assert report.energy == pytest.approx(config.energy.first_stage)
    assert all(".gate" in n or "router" in n or "_gate" in n for n in report.left_out)
    assert set(report.left_out) == set(config.excluded)
    assert all(torch.equal(weight, before[key]) for key, weight in model.state_dict().items())


def test_a_configuration_without_experts_reports_them_as_left_out(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    model = families.new("mixtral")
    config = suggest(scan_of(model, tokenizer), "uniform", layer_type="linear", exclude=["experts"])
    with noisy(model, config, step=4, total_steps=30) as report:
        pass
    stacks = {n for n, weight in model.named_parameters() if weight.ndim == 3}
    assert stacks <= set(report.left_out)


def test_a_mixture_is_found_by_layer_index_too(tokenizer: PreTrainedTokenizerFast) -> None:
    model = families.new("mixtral")
    config = suggest(scan_of(model, tokenizer), "uniform", layer_type="linear", sigma_start=0.001)
    bare = config.model_dump()
    for tier in bare["tiers"]:
        for entry in tier["layers"]:
            entry["modules"] = []
    with noisy(model, config, step=4, total_steps=30) as named:
        expected = {key: weight.clone() for key, weight in model.state_dict().items()}
    with noisy(model, srdd.RinConfig.model_validate(bare), step=4, total_steps=30) as actual:
        assert all(torch.equal(w, expected[key]) for key, w in model.state_dict().items())
    assert actual.left_out == named.left_out


def test_tied_norms_count_their_energy_once(tokenizer: PreTrainedTokenizerFast) -> None:
    model = families.new("llama")
    layers: Any = model.model.layers  # type: ignore[union-attr]
    layers[2].input_layernorm.weight = layers[0].input_layernorm.weight
    scan = scan_of(model, tokenizer)
    tied = [n.tied_to for layer in scan.model.layers for n in layer.norms if n.tied_to]
    assert tied == ["model.layers.0.input_layernorm"]
    config = suggest(scan, "uniform")
    assert config.energy.weights == 5 * 64
    assert config.energy.first_stage == pytest.approx(5 * 64 * 0.05**2)
    with noisy(model, config, step=4, total_steps=30) as report:
        assert report.energy == pytest.approx(config.energy.first_stage)
    # Where the first of the two gets no noise, the other counts.
    targets = targets_of(scan, "rmsnorm", ())
    assert targets.sizes({0, 2}) == [128, 0, 64]
    assert targets.sizes({2}) == [0, 0, 128]
