"""An element's grid: by hand for E2M1, then every other kind of grid against ml_dtypes."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch

from srdd.numerics.formats import (
    FORMATS,
    MXINT8,
    ROUNDINGS,
    SCALE_RULES,
    Element,
    Format,
    FormatSpec,
    parse_spec,
)
from srdd.numerics.kernels import eager, row_sums
from srdd.numerics.sums import INDEX

ELEMENTS = {
    each.element.name: each.element
    for each in FORMATS.values()
    if each.scale == "e8m0" and each.element != MXINT8
}

JUST_UNDER = {v: float(np.nextafter(np.float32(v), np.float32(0))) for v in (0.25, 0.75, 3.5, 8)}
JUST_OVER = {v: float(np.nextafter(np.float32(v), np.float32(9))) for v in (0.25, 2.5, 5, 6)}

# |x| / scale -> nearest with ties to the even code, ties away from zero, towards zero
TRUTH_TABLE = [
    (0.0, 0.0, 0.0, 0.0),
    (0.125, 0.0, 0.0, 0.0),
    (JUST_UNDER[0.25], 0.0, 0.0, 0.0),  # adding a half in float32 would reach the next step
    (0.25, 0.0, 0.5, 0.0),
    (JUST_OVER[0.25], 0.5, 0.5, 0.0),
    (0.5, 0.5, 0.5, 0.5),
    (JUST_UNDER[0.75], 0.5, 0.5, 0.5),
    (0.75, 1.0, 1.0, 0.5),
    (1.0, 1.0, 1.0, 1.0),
    (1.25, 1.0, 1.5, 1.0),
    (1.5, 1.5, 1.5, 1.5),
    (1.75, 2.0, 2.0, 1.5),
    (2.0, 2.0, 2.0, 2.0),
    (2.5, 2.0, 3.0, 2.0),
    (JUST_OVER[2.5], 3.0, 3.0, 2.0),
    (3.0, 3.0, 3.0, 3.0),
    (JUST_UNDER[3.5], 3.0, 3.0, 3.0),
    (3.5, 4.0, 4.0, 3.0),
    (4.0, 4.0, 4.0, 4.0),
    (5.0, 4.0, 6.0, 4.0),
    (JUST_OVER[5], 6.0, 6.0, 4.0),
    (6.0, 6.0, 6.0, 6.0),
    (JUST_OVER[6], 6.0, 6.0, 6.0),
    (7.0, 6.0, 6.0, 6.0),
    (JUST_UNDER[8], 6.0, 6.0, 6.0),
]


def _spec(element: Element, rule: str = "floor", block: int = 32) -> FormatSpec:
    return FormatSpec(Format("ad hoc", element, block, SCALE_RULES, "this test"), rule)


def _keys(x: torch.Tensor) -> torch.Tensor:
    return torch.arange(len(x))


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("column", [1, 2, 3], ids=["even", "half-away", "toward-zero"])
def test_e2m1_rounds_as_the_table_written_by_hand(column: int, sign: float) -> None:
    rounding = {1: "even", 2: "half-away", 3: "toward-zero"}[column]
    v = torch.tensor([row[0] for row in TRUTH_TABLE]) * sign
    # 4 beside each value keeps the block's scale at 1.
    x = torch.stack([v, torch.full_like(v, 4.0)], dim=-1)
    y = eager.quantize(x, parse_spec("mxfp4:floor"), rounding, _keys(x))[:, 0]
    assert (y * sign).tolist() == [row[column] for row in TRUTH_TABLE]


@pytest.mark.parametrize("kernel", ["eager", "cpu"])
@pytest.mark.parametrize("column", [1, 2, 3], ids=["even", "half-away", "toward-zero"])
def test_the_sums_see_what_the_table_says(column: int, kernel: str) -> None:
    rounding = {1: "even", 2: "half-away", 3: "toward-zero"}[column]
    x = torch.tensor([[row[0], 4.0] for row in TRUTH_TABLE])
    sums = row_sums(x, parse_spec("mxfp4:floor"), rounding, kernel=kernel)
    for row, found in zip(TRUTH_TABLE, sums.numpy(), strict=True):
        v, q = row[0], row[column]
        assert found[INDEX["flushed"]] == (v > 0 and q == 0), v
        assert found[INDEX["saturated"]] == (v > 6), v
        assert found[INDEX["abs_e"]] == pytest.approx(abs(v - q), rel=1e-6), v
        assert found[INDEX["clipped_e2"]] == pytest.approx((v - 6) ** 2 if v > 6 else 0), v


def _probes(values: np.ndarray, largest: float) -> torch.Tensor:
    """Every grid value and every midpoint, with both neighbours, and some beyond the largest."""
    marks = np.unique(np.concatenate([values, (values[1:] + values[:-1]) / 2, [largest * 1.1]]))
    marks = marks.astype(np.float32)
    near = [np.nextafter(marks, np.float32(side)) for side in (0, np.inf)]
    return torch.from_numpy(np.concatenate([marks, *near]))


@pytest.mark.parametrize("name", list(ELEMENTS))
def test_any_float_element_rounds_as_ml_dtypes_casts(name: str) -> None:
    grid, element = oracle.GRIDS[name], ELEMENTS[name]
    codes = np.arange(2 ** (element.bits - 1), dtype=np.uint8).view(grid.dtype).astype(np.float64)
    values = np.unique(codes[np.isfinite(codes)])
    assert values[-1] == element.largest
    v = _probes(values, element.largest)
    v = v[v < 2 ** (element.max_exponent + 1)]
    x = torch.stack([v, torch.full_like(v, 2.0**element.max_exponent)], dim=-1)
    y = eager.quantize(x, _spec(element), "even", _keys(x))[:, 0]
    np.testing.assert_array_equal(y.numpy(), oracle.cast(v.double().numpy(), grid))


def test_an_integer_grid_is_the_element_whose_values_are_all_subnormal() -> None:
    v = torch.linspace(0, 1.999, 4001)
    x = torch.stack([v, torch.ones_like(v)], dim=-1)
    y = eager.quantize(x, _spec(MXINT8), "even", _keys(x))[:, 0]
    expected = np.minimum(np.rint(v.double().numpy() * 64), 127) / 64
    np.testing.assert_array_equal(y.numpy(), expected)


@pytest.mark.parametrize("kernel", ["eager", "cpu"])
@pytest.mark.parametrize(("rule", "q"), [("floor", 127 / 64), ("ceil", 127 / 64)])
def test_the_largest_scale_is_in_reach(rule: str, q: float, kernel: str) -> None:
    """2^127, whose inverse is no normal float32. (`ceil` asks for 2^128, which is not.)"""
    largest = torch.finfo(torch.float32).max
    x = torch.tensor([[largest, 1.0]])
    assert eager.quantize(x, _spec(MXINT8, rule), "even", _keys(x)).tolist() == [
        [q * 2.0**127, 0.0]
    ]
    sums = row_sums(x, _spec(MXINT8, rule), kernel=kernel)[0]
    assert sums[INDEX["saturated"]] == 1
    assert sums[INDEX["abs_e"]] == pytest.approx(largest - q * 2.0**127, rel=1e-6)


@pytest.mark.parametrize("block", [16, 32])
@pytest.mark.parametrize("rule", SCALE_RULES)
@pytest.mark.parametrize("name", list(ELEMENTS))
def test_the_cpu_kernel_serves_any_element_and_block(name: str, rule: str, block: int) -> None:
    x = torch.randn(20, 100, generator=torch.Generator().manual_seed(1)) * 3
    spec = _spec(ELEMENTS[name], rule, block)
    expected = oracle.quantize(x.double().numpy(), rule, oracle.GRIDS[name], block)
    for kernel in ("eager", "cpu"):
        sums = row_sums(x, spec, kernel=kernel).numpy()
        np.testing.assert_array_equal(sums[:, :6], expected.sums[:, :6])
        np.testing.assert_allclose(sums[:, 6:], expected.sums[:, 6:], rtol=1e-6)
    y = eager.quantize(x, spec, "even", _keys(x))
    np.testing.assert_array_equal(y.numpy(), expected.y)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_what_rounds_beyond_the_largest_is_clamped_to_it(rounding: str) -> None:
    # In scales of 1: 7.9 and 7.0 both clamp to 6, however they round.
    y = eager.quantize(
        torch.tensor([[7.9, 7.0, -7.9]]), parse_spec("mxfp4"), rounding, torch.zeros(1).long()
    )
    assert y.tolist() == [[6.0, 6.0, -6.0]]
