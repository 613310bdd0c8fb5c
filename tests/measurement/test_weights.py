"""Site `weight`: every linear's weight, blocks along the input dimension."""

from __future__ import annotations

import families
import numpy as np
import pytest
import torch
from torch import nn

from srdd.documents.records import Measured
from srdd.measurement.listener import Listener
from srdd.measurement.plan import Plan
from srdd.measurement.weights import measure_weights
from srdd.model import linears
from srdd.model.structure import find_structure
from srdd.numerics import sums
from srdd.numerics.formats import parse_spec
from srdd.numerics.kernels import row_sums

SPEC = parse_spec("mxfp4:even")
PLAN = Plan.of(formats="mxfp4:even")


def measured(model: nn.Module) -> dict[str, Measured]:
    result, _ = measure_weights(model, find_structure(model), PLAN, Listener())
    return {one.tensor: one for one in result}


def pooled(one: Measured) -> sums.Sums:
    return one.replicates.sum(axis=0)


def by_hand(rows: torch.Tensor) -> sums.Sums:
    return row_sums(rows, SPEC, kernel="eager").sum(0).numpy()


@pytest.mark.parametrize("family", ["llama", "phi3", "falcon", "mamba"])
def test_a_linears_weight_is_measured_row_by_row(family: str) -> None:
    model = families.shared(family)
    result = measured(model)
    for layer in find_structure(model).layers:
        for linear in layer.linears:
            weight = model.get_submodule(linear.name).weight
            assert pooled(result[linear.name]) == pytest.approx(by_hand(weight), rel=1e-6)


def test_gpt2s_transposed_weights_have_their_blocks_along_the_input() -> None:
    model = families.shared("gpt2")
    one = measured(model)["transformer.h.0.mlp.c_fc"]
    weight = model.get_submodule("transformer.h.0.mlp.c_fc").weight
    assert pooled(one) == pytest.approx(by_hand(weight.t().contiguous()), rel=1e-6)
    assert pooled(one) != pytest.approx(by_hand(weight), rel=1e-6)


@pytest.mark.parametrize(("family", "transposed"), [("mixtral", False), ("gpt_oss", True)])
def test_stacked_experts_are_measured_all_together(family: str, transposed: bool) -> None:
    model = families.shared(family)
    experts = "model.layers.1.mlp.experts"
    weight = model.get_submodule(experts).down_proj
    rows = weight.transpose(1, 2) if transposed else weight
    one = measured(model)[f"{experts}.down_proj"]
    assert pooled(one) == pytest.approx(by_hand(rows.reshape(-1, rows.shape[-1])), rel=1e-6)


def test_slices_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = families.shared("llama")
    whole = measured(model)
    monkeypatch.setattr(linears, "SLICE", 200)
    for name, one in measured(model).items():
        assert pooled(one) == pytest.approx(pooled(whole[name]), rel=1e-12)
        np.testing.assert_array_equal(one.tokens_by_sqnr, whole[name].tokens_by_sqnr)


@pytest.mark.parametrize("spec", ["nvfp4:tensor", "nvfp4:token", "mxfp4:even"])
def test_a_scale_over_the_tensor_is_over_all_slices(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linears, "SLICE", 200)
    model = families.new("llama")
    with torch.no_grad():  # the first row's values are far larger than those of other slices
        model.get_submodule("model.layers.0.mlp.up_proj").weight[0] *= 1e5
    result, _ = measure_weights(model, find_structure(model), Plan.of(formats=spec), Listener())
    one = {one.tensor: one for one in result}["model.layers.0.mlp.up_proj"]
    weight = model.get_submodule("model.layers.0.mlp.up_proj").weight.detach()
    wanted = row_sums(weight, parse_spec(spec), kernel="eager").sum(0).numpy()
    assert pooled(one) == pytest.approx(wanted, rel=1e-6)


def test_experts_whose_axes_nobody_tells_are_not_measured() -> None:
    model = families.new("mixtral")
    experts = model.get_submodule("model.layers.0.mlp.experts")
    del experts.is_transposed
    result, missing = measure_weights(model, find_structure(model), PLAN, Listener())
    for key in ("gate_up_proj", "down_proj"):
        name = f"model.layers.0.mlp.experts.{key}"
        assert missing[name, "weight"] == "which of its axes is the input's is unknown"
        assert name not in {one.tensor for one in result}


def test_a_tied_weight_is_measured_once_and_names_its_other_readers() -> None:
    model = families.new("llama")
    first, second = (f"model.layers.{n}.mlp.gate_proj" for n in (0, 1))
    model.get_submodule(second).weight = model.get_submodule(first).weight
    result = measured(model)
    assert second not in result
    assert result[first].shared_with == (second,)


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (torch.empty(4, 64, device="meta"), "meta device"),
        (torch.empty(0, 64), "no elements"),
        (torch.zeros(4, 64, dtype=torch.int8), "quantized already"),
    ],
)
def test_what_cannot_be_measured_is_named_with_the_reason(
    weight: torch.Tensor, reason: str
) -> None:
    model = families.new("llama")
    name = "model.layers.0.mlp.up_proj"
    model.get_submodule(name).weight = nn.Parameter(weight, requires_grad=False)
    result, missing = measure_weights(model, find_structure(model), PLAN, Listener())
    assert name not in {one.tensor for one in result}
    assert list(missing) == [(name, "weight")]
    assert reason in missing[name, "weight"]


def test_a_weight_of_one_row_is_measured() -> None:
    model = families.new("llama")
    name = "model.layers.0.mlp.up_proj"
    model.get_submodule(name).weight = nn.Parameter(torch.randn(1, 64))
    assert pooled(measured(model)[name])[sums.INDEX["tokens"]] == 1
