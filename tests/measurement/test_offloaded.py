"""Models that accelerate keeps elsewhere and brings in module by module while they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import pytest
import torch
from accelerate import cpu_offload, disk_offload
from accelerate.hooks import AlignDevicesHook, ModelHook, SequentialHook, add_hook_to_module
from torch import nn

from srdd import scan_model, simulate
from srdd.documents.scan import Record, Scan
from srdd.errors import InputError, UsageError
from srdd.model.running import device_of
from srdd.simulation.evaluator import evaluate_model

PROMPTS = ["one two three", "a somewhat longer prompt than the first", "x = 1"]
REASON = "its weight is offloaded or on the meta device"
CPU = torch.device("cpu")


@pytest.fixture(params=["cpu", "disk"])
def place(request: pytest.FixtureRequest) -> str:
    """Where weights are kept."""
    return str(request.param)


def offloaded(family: str, place: str, folder: Path) -> nn.Module:
    """A model of a family, no weight of which is in memory."""
    model = families.new(family)
    model = cpu_offload(model, CPU) if place == "cpu" else disk_offload(model, folder, CPU)
    assert all(parameter.is_meta for parameter in model.parameters())
    return model


def figures(scan: Scan) -> dict[tuple[str, str, str | None], Record]:
    return {(record.site, record.tensor, record.operands): record for record in scan.records}


def unmeasured(scan: Scan) -> dict[tuple[str, str], str]:
    return {(each.module, each.site): each.reason for each in scan.not_measured}


@pytest.mark.parametrize("family", ["llama", "gpt2", "mixtral"])
def test_activations_are_those_of_the_same_model_in_memory(
    family: str, place: str, tmp_path: Path, tokenizer: Any
) -> None:
    sites = ["output", "input"]
    result = scan_model(offloaded(family, place, tmp_path), tokenizer, PROMPTS, sites=sites)
    wanted = scan_model(families.shared(family), tokenizer, PROMPTS, sites=sites)
    assert {record.site for record in wanted.records} == set(sites)
    assert figures(result) == figures(wanted)
    assert unmeasured(result) == unmeasured(wanted) == {}
    assert result.run.device == "cpu"


def test_weights_are_named_as_not_measured(place: str, tmp_path: Path, tokenizer: Any) -> None:
    sites = ["output", "weight", "linear"]
    result = scan_model(offloaded("llama", place, tmp_path), tokenizer, PROMPTS, sites=sites)
    assert {record.site for record in result.records} == {"output"}
    linears = [
        f"model.layers.{layer}.{name}"
        for layer in range(families.LAYERS)
        for name in families.FAMILIES["llama"].linears
    ]
    assert unmeasured(result) == {
        (name, site): REASON for name in linears for site in ("weight", "linear")
    }


def test_a_scan_of_weights_only_says_that_none_was_measured(place: str, tmp_path: Path) -> None:
    result = scan_model(offloaded("llama", place, tmp_path), sites=["weight"])
    assert result.records == []
    assert set(unmeasured(result).values()) == {REASON}


def test_what_needs_weights_in_memory_says_so(place: str, tmp_path: Path, tokenizer: Any) -> None:
    model = offloaded("llama", place, tmp_path)
    with pytest.raises(UsageError, match=REASON) as caught, simulate(model, "mxfp4", "mxfp4"):
        pass
    assert "into memory" in caught.value.hint
    with pytest.raises(UsageError, match=REASON):
        evaluate_model(model, tokenizer, PROMPTS)


def test_weights_that_are_nowhere_are_reported(tokenizer: Any) -> None:
    model = families.new("llama").to("meta")
    with pytest.raises(InputError) as caught:
        scan_model(model, tokenizer, PROMPTS)
    assert caught.value.message == "the model has no weights in memory"
    assert caught.value.hint == "load it before scanning it"


@pytest.mark.parametrize("place", ["cuda:1", torch.device("cuda", 1), "meta"])
def test_the_device_is_the_one_that_weights_are_brought_to(place: Any) -> None:
    model = families.new("llama").to("meta")
    add_hook_to_module(model, AlignDevicesHook(io_same_device=True))  # it names no device
    hooks = SequentialHook(ModelHook(), AlignDevicesHook(place))
    add_hook_to_module(model.get_submodule("model.layers.1"), hooks)
    if place == "meta":
        with pytest.raises(InputError, match="no weights in memory"):
            device_of(model)
    else:
        assert device_of(model) == torch.device("cuda:1")


def test_a_weight_in_memory_tells_the_device_first() -> None:
    model = families.new("llama").to("meta")
    add_hook_to_module(model.get_submodule("model.layers.1"), AlignDevicesHook("cuda:1"))
    model.get_submodule("model.norm").weight = nn.Parameter(torch.ones(families.HIDDEN))
    assert device_of(model) == CPU


def test_what_costs_depend_on_weights_that_are_not_in_memory(
    place: str, tmp_path: Path, tokenizer: Any
) -> None:
    with pytest.raises(InputError, match="sensitivity of no linear can be measured"):
        scan_model(offloaded("llama", place, tmp_path), tokenizer, PROMPTS, kl=True)
