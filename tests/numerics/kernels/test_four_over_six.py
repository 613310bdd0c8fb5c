"""NVFP4 with two scales tried on each block: the choice, by brute force over what is read back."""

from __future__ import annotations

import itertools

import ml_dtypes
import numpy as np
import pytest
import torch

from srdd.numerics.formats import ROUNDINGS, parse_spec
from srdd.numerics.kernels import DTYPES, codes, quantize, row_sums
from srdd.numerics.quantize import fake_quantize, measure

MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def _data(kind: str) -> torch.Tensor:
    """(rows, 64): normal values, heavy tails, blocks of very different sizes, values on a grid."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(24, 64, generator=generator)
    if kind == "heavy":
        return x.pow(5)
    if kind == "wide":
        return x * 2.0 ** torch.randint(-18, 3, (24, 4), generator=generator).repeat_interleave(
            16, 1
        )
    if kind == "grid":
        return (x * 4).round() / 4
    return x


def _read_back(block: list[float], top: int, g: float) -> list[float]:
    """A block with its largest magnitude on `top`: each value becomes the nearest of all eight."""
    amax = max(map(abs, block))
    wanted = min(max(amax / top / g, 2.0**-6), 448.0)
    scale = g * float(ml_dtypes.float8_e4m3fn(wanted))
    return [min((abs(abs(x) - m * scale), m * scale) for m in MAGNITUDES)[1] for x in block]


def _squares(block: list[float], y: list[float]) -> float:
    return sum((abs(x) - abs(z)) ** 2 for x, z in zip(block, y, strict=True))


@pytest.mark.parametrize("rule", ["token", "tensor"])
@pytest.mark.parametrize("kind", ["normal", "heavy", "wide", "grid"])
def test_each_block_gets_the_scale_with_the_smaller_squared_error(kind: str, rule: str) -> None:
    x = _data(kind)
    y = fake_quantize(x, f"nvfp4_46:{rule}").tolist()
    scales = codes(x, parse_spec(f"nvfp4_46:{rule}"))[0].squeeze(-1).tolist()
    everywhere = float(x.abs().max())
    chosen = dict.fromkeys((4, 6), 0)
    for row, values in enumerate(x.tolist()):
        g = (everywhere if rule == "tensor" else max(map(abs, values))) / (256 * 6)
        for at in range(0, 64, 16):
            block = values[at : at + 16]
            tried = {top: _squares(block, _read_back(block, top, g)) for top in (6, 4)}
            least, size = min(tried.values()), sum(v * v for v in block)
            assert _squares(block, y[row][at : at + 16]) == pytest.approx(
                least, rel=1e-5, abs=1e-12 * size
            )
            if abs(tried[4] - tried[6]) > 1e-5 * max(tried.values()):
                top = min(tried, key=lambda top: tried[top])
                chosen[top] += 1
                amax = max(map(abs, block))
                wanted = float(ml_dtypes.float8_e4m3fn(min(max(amax / top / g, 2.0**-6), 448.0)))
                assert scales[row][at // 16] == pytest.approx(g * wanted, rel=1e-6)
    assert min(chosen.values()) >= 3, f"both are chosen: {chosen}"


def test_a_tie_takes_the_larger_grid_and_zeros_stay_zeros() -> None:
    x = torch.zeros(2, 16)
    x[1] = 1536.0  # exact by both
    scale = codes(x, parse_spec("nvfp4_46"))[0].flatten()
    assert scale[1] == 256.0
    assert torch.equal(fake_quantize(x, "nvfp4_46"), x)


def test_the_choice_is_that_of_nearest_rounding_whatever_the_rounding() -> None:
    """Then each value is one of the two grid points of the chosen scale that enclose it."""
    x = _data("normal")
    scale, v, _, _ = codes(x, parse_spec("nvfp4_46"))
    grid = torch.tensor(MAGNITUDES)
    # (rows, blocks, block): the code at or below each value and the one above.
    below = (torch.bucketize(v.contiguous(), grid, right=True) - 1).clamp(max=7)
    pair = [grid[below], grid[(below + 1).clamp(max=7)]]
    for rounding, kernel in itertools.product(ROUNDINGS, ("eager", "auto")):
        y = quantize(x, parse_spec("nvfp4_46"), rounding, torch.arange(len(x)), kernel)
        read = y.abs().reshape(v.shape)
        near = [torch.isclose(read, (each * scale).float(), rtol=1e-6, atol=0) for each in pair]
        assert (near[0] | near[1]).all(), (rounding, kernel)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_both_kernels_choose_alike(rounding: str, dtype: torch.dtype) -> None:
    x = torch.cat([_data(kind) for kind in ("normal", "heavy", "wide", "grid")]).to(dtype)
    spec, keys = parse_spec("nvfp4_46"), torch.arange(len(x)) * 7_919_000_011
    assert torch.equal(
        quantize(x, spec, rounding, keys), quantize(x, spec, rounding, keys, "eager")
    )
    found, expected = (row_sums(x, spec, rounding, keys, kernel) for kernel in ("cpu", "eager"))
    assert torch.equal(found[:, :6], expected[:, :6])
    np.testing.assert_allclose(found[:, 6:].numpy(), expected[:, 6:].numpy(), rtol=1e-6)


def test_a_rotation_comes_before_the_choice() -> None:
    x = _data("heavy")
    rotated, scale = measure(x, "nvfp4_46+hadamard32"), measure(x, "nvfp4+hadamard32")
    assert rotated["sqnr_db"] > scale["sqnr_db"]  # type: ignore[operator]
