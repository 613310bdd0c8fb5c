"""The edges that the formats' description leaves open and this project decides."""

from __future__ import annotations

import math

import pytest
import torch

from srdd.numerics.formats import ROUNDINGS, SCALE_RULES, parse_spec
from srdd.numerics.kernels import eager, row_sums
from srdd.numerics.sums import FIELDS, INDEX

FLOOR = parse_spec("mxfp4:floor")
NAN, INF = math.nan, math.inf
LARGEST = torch.finfo(torch.float32).max


@pytest.fixture(params=["eager", "cpu"])
def kernel(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _sums(x: torch.Tensor, kernel: str, spec=FLOOR, rounding: str = "even") -> dict[str, float]:
    """Sums of all rows by name."""
    return dict(
        zip(FIELDS, row_sums(x, spec, rounding, kernel=kernel).sum(0).tolist(), strict=True)
    )


def _quantize(x: torch.Tensor, spec=FLOOR) -> torch.Tensor:
    return eager.quantize(x, spec, "even", torch.arange(len(x)))


def test_a_ragged_last_block_is_padded_with_zeros(kernel: str) -> None:
    x = torch.randn(9, 45)
    padded = torch.nn.functional.pad(x, (0, 19))
    ours, theirs = (row_sums(each, FLOOR, kernel=kernel) for each in (x, padded))
    assert ours[:, INDEX["elements"]].tolist() == [45] * 9
    ours[:, INDEX["elements"]] = theirs[:, INDEX["elements"]]
    assert torch.equal(ours, theirs)
    assert torch.equal(_quantize(x), _quantize(padded)[:, :45])


def test_blocks_do_not_cross_rows(kernel: str) -> None:
    x = torch.stack([torch.full((20,), 1000.0), torch.full((20,), 0.001)])
    both = row_sums(x, FLOOR, kernel=kernel)
    alone = torch.cat([row_sums(row[None], FLOOR, kernel=kernel) for row in x])
    assert torch.equal(both, alone)
    assert both[:, INDEX["flushed"]].tolist() == [0, 0]


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("rule", SCALE_RULES)
def test_an_all_zero_block_stays_zero(kernel: str, rule: str, rounding: str) -> None:
    x = torch.zeros(2, 70)
    x[:, 64:] = 1.0
    sums = _sums(x, kernel, parse_spec(f"mxfp4:{rule}"), rounding)
    assert (sums["elements"], sums["nonzero"], sums["flushed"], sums["e2"]) == (140, 12, 0, 0)
    assert _quantize(torch.zeros(2, 70)).count_nonzero() == 0


def test_a_block_under_the_smallest_scale_uses_the_smallest(kernel: str) -> None:
    """The least scale is 2^-127, so the least value but zero is 2^-128, and 2^-129 is a tie."""
    x = torch.tensor([[2.0**-128], [2.0**-129], [2.0**-129 + 2.0**-149], [2.0**-149]])
    y = [2.0**-128, 0.0, 2.0**-128, 0.0]
    assert _quantize(x)[:, 0].tolist() == y
    sums = row_sums(x, FLOOR, kernel=kernel)
    assert sums[:, INDEX["flushed"]].tolist() == [0, 1, 0, 1]
    expected = [abs(b - a) for a, b in zip(x[:, 0].double().tolist(), y, strict=True)]
    assert sums[:, INDEX["abs_e"]].tolist() == pytest.approx(expected, rel=1e-6)


def test_a_subnormal_counts_as_nonzero(kernel: str) -> None:
    x = torch.tensor([[2.0**-149, -(2.0**-149), 0.0]])
    assert _sums(x, kernel)["nonzero"] == 2


def test_squares_of_the_smallest_and_largest_values_are_kept(kernel: str) -> None:
    for magnitude in (2.0**-149, 2.0**-126, 2.0**100, LARGEST):
        sums = _sums(torch.full((1, 33), magnitude), kernel)
        assert sums["x2"] == pytest.approx(33 * magnitude**2, rel=1e-6)
        assert sums["abs_x"] == pytest.approx(33 * magnitude, rel=1e-6)


def test_the_largest_float32_clips_under_floor(kernel: str) -> None:
    sums = _sums(torch.tensor([[LARGEST]]), kernel)
    assert sums["saturated"] == 1
    assert sums["clipped_e2"] == sums["e2"] == pytest.approx((LARGEST - 1.5 * 2.0**127) ** 2)


def test_a_value_that_would_round_to_infinity_stays_finite() -> None:
    """Under `rceil`, 2^128 - 2^104 rounds to 4 * 2^126, which is 2^128."""
    assert _quantize(torch.tensor([[-LARGEST]]), parse_spec("mxfp4:rceil")).item() == -LARGEST


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_tiny_value_beside_a_huge_one_is_lost_whole(kernel: str, rounding: str) -> None:
    """In scales it underflows float32; it still is a non-zero value with a relative error of 1."""
    sums = _sums(torch.tensor([[3e38, 1e-45], [3e38, 1e-38]]), kernel, rounding=rounding)
    assert (sums["nonzero"], sums["flushed"]) == (4, 2)
    lone = _sums(torch.tensor([[3e38], [3e38]]), kernel, rounding=rounding)
    assert sums["relative"] == pytest.approx(2 + lone["relative"], rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("bad", [NAN, -NAN, INF, -INF])
def test_nonfinite_values_are_counted_and_left_out(
    kernel: str, bad: float, dtype: torch.dtype
) -> None:
    x = torch.randn(3, 40, generator=torch.Generator().manual_seed(2)).to(dtype)
    x[1, 7] = 0.0
    clean = _sums(x, kernel)
    x[1, 7] = bad
    dirty = _sums(x, kernel)
    assert dirty.pop("nonfinite") == clean.pop("nonfinite") + 1 == 1
    assert dirty.pop("elements") == clean.pop("elements") - 1
    assert dirty == clean


def test_a_row_without_a_finite_value_has_empty_sums(kernel: str) -> None:
    sums = _sums(torch.tensor([[NAN, INF, -INF]]), kernel)
    assert (sums.pop("tokens"), sums.pop("nonfinite")) == (1, 3)
    assert set(sums.values()) == {0}


def test_nonfinite_values_come_back_as_they_are() -> None:
    y = _quantize(torch.tensor([[NAN, INF, -INF, 3.3]]))[0].tolist()
    assert math.isnan(y[0])
    assert y[1:] == [INF, -INF, 3.0]


def test_minus_zero_counts_as_zero(kernel: str) -> None:
    sums = _sums(torch.tensor([[-0.0, 1.0]]), kernel)
    assert (sums["nonzero"], sums["flushed"]) == (1, 0)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_a_tensor_without_values_has_empty_sums(kernel: str, shape: tuple[int, int]) -> None:
    sums = row_sums(torch.zeros(shape), FLOOR, kernel=kernel)
    assert sums.shape == (shape[0], len(FIELDS))
    assert sums[:, INDEX["tokens"]].tolist() == [1] * shape[0]
    assert sums[:, 1:].count_nonzero() == 0
    assert _quantize(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize("bits", [0x0001, 0x03FF, 0x0400, 0x7BFF], ids=hex)
def test_float16_is_read_from_its_bits_down_to_the_subnormals(kernel: str, bits: int) -> None:
    x = torch.tensor([[bits]], dtype=torch.int16).view(torch.float16)
    assert _sums(x, kernel) == _sums(x.float(), "eager")
