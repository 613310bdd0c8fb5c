"""The two public functions on tensors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import srdd
from srdd.errors import UsageError
from srdd.numerics.formats import ROUNDINGS
from srdd.numerics.metrics import METRICS

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (45,), (3, 64), (2, 3, 5, 40), (0, 32), (3, 0)])
def test_shape_and_dtype_are_kept(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = torch.randn(shape).to(dtype)
    y = srdd.fake_quantize(x, "mxfp4")
    assert (y.shape, y.dtype, y.device) == (x.shape, x.dtype, x.device)


def test_blocks_lie_along_the_last_axis() -> None:
    x = torch.tensor([[6.0, 1.2], [600.0, 1.2]])
    assert srdd.fake_quantize(x, "mxfp4").tolist() == [[6.0, 1.0], [512.0, 0.0]]
    assert srdd.fake_quantize(x.T, "mxfp4").tolist() == [[0.0, 512.0], [1.0, 1.0]]


def test_the_rule_is_the_one_named_and_floor_by_default() -> None:
    x = torch.tensor([7.0, 0.4])
    quantized = {
        rule: srdd.fake_quantize(x, f"mxfp4:{rule}").tolist() for rule in ("floor", "even")
    }
    assert quantized == {"floor": [6.0, 0.5], "even": [8.0, 0.0]}
    assert srdd.fake_quantize(x, "mxfp4").tolist() == quantized["floor"]


def test_the_rounding_is_the_one_named() -> None:
    x = torch.tensor([4.0, 2.5])
    found = {
        name: srdd.fake_quantize(x, "mxfp4", rounding=name)[1].item()
        for name in ("even", "half-away", "toward-zero")
    }
    assert found == {"even": 2.0, "half-away": 3.0, "toward-zero": 2.0}


def test_the_seed_decides_the_stochastic_rounding() -> None:
    x = torch.randn(20, 64)
    first, again, other = (
        srdd.fake_quantize(x, "mxfp4", "stochastic", seed=seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_strided_view_gives_what_its_copy_gives() -> None:
    x = torch.randn(6, 50, 4).transpose(1, 2)[::2]
    assert torch.equal(srdd.fake_quantize(x, "mxfp4"), srdd.fake_quantize(x.contiguous(), "mxfp4"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", ["even", "ceil", "rceil"])
def test_the_dtypes_largest_value_does_not_become_infinite(rule: str, dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    x = torch.tensor([largest, -largest, torch.inf, -torch.inf], dtype=dtype)
    y = srdd.fake_quantize(x, f"mxfp4:{rule}")
    assert y.tolist() == [largest, -largest, torch.inf, -torch.inf]


def test_nan_stays() -> None:
    y = srdd.fake_quantize(torch.tensor([math.nan, 3.2]), "mxfp4")
    assert math.isnan(y[0])
    assert y[1] == 3.0


def test_the_result_is_detached_and_the_input_untouched() -> None:
    x = torch.randn(2, 40, requires_grad=True)
    before = x.detach().clone()
    assert not srdd.fake_quantize(x, "mxfp4").requires_grad
    assert torch.equal(x, before)


@pytest.mark.parametrize("call", [srdd.fake_quantize, srdd.measure])
@pytest.mark.parametrize(
    ("x", "message", "hint"),
    [
        (torch.tensor(1.0), "single number", "x.reshape(1)"),
        (torch.ones(2, 3, dtype=torch.float64), "x is float64", "x.to(torch.float32)"),
        (torch.ones(3, dtype=torch.int64), "x is int64", "x.to(torch.float32)"),
    ],
    ids=["0-dim", "float64", "int64"],
)
def test_what_cannot_be_quantized_is_refused(call, x, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(x, "mxfp4")
    assert message in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("call", [srdd.fake_quantize, srdd.measure])
def test_wrong_names_are_refused(call) -> None:
    x = torch.ones(1, 2)
    for arguments, message in (
        ({"format": "mxfp3"}, "unknown format"),
        ({"format": "mxfp4:round"}, "unknown scale rule for mxfp4"),
        ({"format": "mxfp4", "rounding": "up"}, "unknown rounding"),
        ({"format": "mxfp4", "seed": -1}, "seed -1 is out of range"),
        ({"format": "mxfp4", "seed": 2**31}, "out of range"),
    ):
        with pytest.raises(UsageError, match=message):
            call(x, **arguments)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_measuring_is_about_the_values_that_fake_quantize_returns(rounding: str) -> None:
    x = torch.randn(8, 7, 100)
    y = srdd.fake_quantize(x, "mxfp4:rceil", rounding, seed=3)
    found = srdd.measure(x, "mxfp4:rceil", rounding, seed=3)
    a, b = x.double().numpy(), y.double().numpy()
    error = np.abs(b - a)
    expected = {
        "tokens": 56,
        "elements": a.size,
        "nonfinite": 0,
        "sqnr_db": 10 * np.log10((a**2).sum() / (error**2).sum()),
        "deadzone": ((a != 0) & (b == 0)).mean(),
        "saturation": 0.0,
        "clipping_share": 0.0,
        "relative_error": (error / np.abs(a)).mean(),
        "relative_l1": error.sum() / np.abs(a).sum(),
    }
    assert found == pytest.approx(expected, rel=1e-6)


def test_every_metric_is_there_as_a_plain_number() -> None:
    found = srdd.measure(torch.randn(3, 64), "mxfp4")
    assert list(found) == ["tokens", "elements", "nonfinite", *METRICS]
    assert {type(value) for value in found.values()} == {float}


def test_an_exact_result_has_no_sqnr() -> None:
    found = srdd.measure(torch.tensor([[6.0, 4.0, -0.5]]), "mxfp4")
    assert found["sqnr_db"] is None
    assert (found["deadzone"], found["relative_error"], found["relative_l1"]) == (0.0, 0.0, 0.0)


def test_nonfinite_values_are_reported_and_left_out() -> None:
    found = srdd.measure(torch.tensor([[math.inf, 5.0], [math.nan, math.nan]]), "mxfp4")
    assert (found["tokens"], found["elements"], found["nonfinite"]) == (2, 1, 3)
    assert found["relative_error"] == pytest.approx(0.2)


def test_an_empty_tensor_has_no_metrics() -> None:
    found = srdd.measure(torch.zeros(0, 5), "mxfp4")
    assert [found[name] for name in METRICS] == [None] * len(METRICS)


def test_gaussian_data_gets_the_figures_of_ideal_gaussian_data() -> None:
    """As in the literature on MXFP4 with the floor rule: 18.8 dB, 8.8 %, 2.3 %, 21 %."""
    x = torch.randn(2000, 1024, generator=torch.Generator().manual_seed(0))
    found = srdd.measure(x, "mxfp4:floor")
    assert found["sqnr_db"] == pytest.approx(18.8, abs=0.05)
    assert found["deadzone"] == pytest.approx(0.088, abs=0.001)
    assert found["saturation"] == pytest.approx(0.023, abs=0.001)
    assert found["relative_error"] == pytest.approx(0.21, abs=0.001)


@pytest.mark.parametrize(
    "x",
    [
        [[6.0, 1.2], [600.0, 1.2]],
        ((6, 1.2), (600, 1.2)),
        np.array([[6.0, 1.2], [600.0, 1.2]]),
        np.array([[6.0, 1.2], [600.0, 1.2]], dtype=np.float16),
    ],
)
def test_lists_and_arrays_become_float32(x: object) -> None:
    assert srdd.fake_quantize(x, "mxfp4").tolist() == [[6.0, 1.0], [512.0, 0.0]]
    tensor = torch.tensor([[6.0, 1.2], [600.0, 1.2]])
    assert srdd.measure(x, "mxfp4")["sqnr_db"] == pytest.approx(
        srdd.measure(tensor, "mxfp4")["sqnr_db"], abs=0.01
    )


@pytest.mark.parametrize("x", ["text", [[1.0], [1.0, 2.0]], {"a": 1}, [1 + 2j]])
def test_what_is_no_block_of_numbers_says_what_is_taken(x: object) -> None:
    with pytest.raises(UsageError) as caught:
        srdd.measure(x, "mxfp4")
    assert type(x).__name__ in caught.value.message
    assert "torch tensor, a numpy array" in caught.value.hint


def test_measure_checks_the_rounding() -> None:
    with pytest.raises(UsageError, match="unknown rounding 'evn'"):
        srdd.measure([1.0], "mxfp4", rounding="evn")
