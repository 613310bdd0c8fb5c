"""Every format: its truth table by hand, every bfloat16 against the oracle, both kernels alike."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch

from srdd.numerics.formats import FORMATS, ROUNDINGS, FormatSpec, parse_spec
from srdd.numerics.kernels import DTYPES, eager, row_sums

LARGEST = float(np.finfo(np.float32).max)
SPECS = [f"{name}:{rule}" for name, each in FORMATS.items() for rule in each.scale_rules]
OTHERS = [spec for spec in SPECS if not spec.startswith("mxfp4:")]
"""Those that the tests of mxfp4 do not know."""

# In scales of 1, which a second value of `anchor` fixes: magnitude -> nearest with ties to even.
# fmt: off
TRUTH_TABLES = {
    "mxfp6_e2m3": (4.0, [
        (0.0625, 0.0), (0.0626, 0.125), (0.1875, 0.25), (0.875, 0.875), (0.9375, 1.0),
        (1.0625, 1.0), (1.1875, 1.25), (2.125, 2.0), (2.375, 2.5), (3.875, 4.0), (4.25, 4.0),
        (6.75, 7.0), (7.25, 7.0), (7.3, 7.5), (7.75, 7.5), (7.99, 7.5),
    ]),
    "mxfp6_e3m2": (16.0, [
        (0.03125, 0.0), (0.032, 0.0625), (0.09375, 0.125), (0.1875, 0.1875), (0.25, 0.25),
        (0.28125, 0.25), (0.34375, 0.375), (1.125, 1.0), (1.375, 1.5), (7.5, 8.0), (17.9, 16.0),
        (18.0, 16.0), (22.0, 24.0), (26.0, 24.0), (26.1, 28.0), (31.9, 28.0),
    ]),
    "mxfp8_e4m3": (256.0, [
        (2.0**-10, 0.0), (1.01 * 2.0**-10, 2.0**-9), (3 * 2.0**-10, 2.0**-8), (2.0**-6, 2.0**-6),
        (1.0625, 1.0), (1.1875, 1.25), (15.5, 16.0), (17.0, 16.0), (248.0, 256.0), (272.0, 256.0),
        (304.0, 320.0), (432.0, 448.0), (464.0, 448.0), (465.0, 448.0), (511.0, 448.0),
    ]),
    "mxfp8_e5m2": (32768.0, [
        (2.0**-17, 0.0), (1.01 * 2.0**-17, 2.0**-16), (3 * 2.0**-17, 2.0**-15),
        (2.0**-14, 2.0**-14), (1.125, 1.0), (1.375, 1.5), (3.75, 4.0), (36864.0, 32768.0),
        (45056.0, 49152.0), (53248.0, 49152.0), (57344.0, 57344.0), (61440.0, 57344.0),
        (65535.0, 57344.0),
    ]),
    "mxint8": (1.0, [
        (1 / 128, 0.0), (1.01 / 128, 1 / 64), (3 / 128, 2 / 64), (5 / 128, 2 / 64), (0.5, 0.5),
        (1.0078125, 1.0), (1.0234375, 66 / 64), (126.5 / 64, 126 / 64), (126.6 / 64, 127 / 64),
        (127 / 64, 127 / 64), (1.999, 127 / 64),
    ]),
    # The row's largest value is 6 * 448, so g is 1; a block with 6 * s has the scale s.
    "nvfp4": (6.0, [
        (0.25, 0.0), (0.26, 0.5), (0.75, 1.0), (1.25, 1.0), (2.5, 2.0), (3.5, 4.0), (5.0, 4.0),
        (5.1, 6.0), (6.0, 6.0),
    ]),
    # The row's largest value is 6 * 256, so g is 1; a block with 6.0 has the scale 1, or 1.5 and so
    # the grid 0, 0.75, 1.5, 2.25, 3, 4.5, 6 where that is closer to the other value.
    "nvfp4_46": (6.0, [
        (0.25, 0.0), (0.26, 0.5), (0.6, 0.5), (0.7, 0.75), (0.75, 0.75), (1.0, 1.0), (1.2, 1.0),
        (2.2, 2.25), (2.5, 2.25), (3.6, 4.0), (4.2, 4.0), (4.3, 4.5), (5.0, 4.5), (5.1, 4.5),
        (5.3, 6.0), (6.0, 6.0),
    ]),
    "int4_g32": (7.0, [
        (0.5, 0.0), (0.51, 1.0), (1.5, 2.0), (2.5, 2.0), (3.0, 3.0), (5.5, 6.0), (6.5, 6.0),
        (6.51, 7.0), (7.0, 7.0),
    ]),
    "int8_token": (127.0, [
        (0.5, 0.0), (0.51, 1.0), (1.5, 2.0), (63.5, 64.0), (64.5, 64.0), (126.5, 126.0),
        (126.6, 127.0),
    ]),
    "fp8_e4m3_token": (448.0, [
        (2.0**-10, 0.0), (1.01 * 2.0**-10, 2.0**-9), (1.0625, 1.0), (1.1875, 1.25), (432.0, 448.0),
        (447.9, 448.0),
    ]),
}
TRUTH_TABLES["int4_g128"] = TRUTH_TABLES["int4_g32"]
# fmt: on


@pytest.mark.parametrize("name", TRUTH_TABLES)
def test_elements_round_as_the_table_written_by_hand(name: str) -> None:
    anchor, table = TRUTH_TABLES[name]
    spec = parse_spec(f"{name}:{FORMATS[name].scale_rules[0]}")
    for sign in (1, -1):
        x = torch.tensor([[sign * v, anchor] for v, _ in table])
        if name in ("nvfp4", "nvfp4_46"):
            x = torch.nn.functional.pad(x, (0, 15))
            x[:, 16] = 6 * (448.0 if name == "nvfp4" else 256.0)
        y = eager.quantize(x, spec, "even", torch.arange(len(x)))
        assert (y[:, 0] * sign).tolist() == [q for _, q in table]
        assert y[:, 1].tolist() == [anchor] * len(table)


def _constants(name: str) -> tuple[oracle.Grid, int]:
    element, block = oracle.FORMATS[name]
    return oracle.GRIDS[element], block


@pytest.mark.parametrize("name", FORMATS)
def test_the_constants_are_those_of_an_independent_table(name: str) -> None:
    grid, block = _constants(name)
    element = FORMATS[name].element
    assert FORMATS[name].block == block
    assert element.largest == grid.largest == oracle.magnitudes(grid)[-1]
    assert (element.mantissa_bits, element.max_exponent) == (grid.mantissa_bits, grid.max_exponent)
    assert len(oracle.magnitudes(grid)) <= 2 ** (element.bits - 1)
    first = oracle.magnitudes(grid)[1]
    assert first == 2.0 ** (element.min_exponent - element.mantissa_bits)


def _bfloat16(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16)


def _check(x: torch.Tensor, spec: FormatSpec) -> None:
    """Values and sums of both kernels are the oracle's."""
    grid, block = _constants(spec.format.name)
    expected = oracle.quantize(x.double().numpy(), spec.scale_rule, grid, block)
    y = eager.quantize(x, spec, "even", torch.zeros(len(x), dtype=torch.int64)).double().numpy()
    in_range = np.where(np.isfinite(expected.y), np.clip(expected.y, -LARGEST, LARGEST), expected.y)
    np.testing.assert_array_equal(y, in_range)
    # Scales that are no power of two leave |x| / s inexact, and errors with its last places.
    inexact = 0.0 if spec.format.scale == "e8m0" else 2e-6
    for kernel in ("eager", "cpu"):
        sums = row_sums(x, spec, kernel=kernel).numpy()
        np.testing.assert_array_equal(sums[:, :6], expected.sums[:, :6])
        off = np.abs(sums - expected.sums)[:, 6:]
        room = 1e-6 * expected.sums[:, 6:]
        # What is under 2^-126 scales underflows, and so do squares under 2^-63 of them.
        x2, abs_x = expected.sums[:, 6:7], expected.sums[:, 9:10]
        room[:, :3] += inexact * np.sqrt(expected.sums[:, 6:9] * x2) + inexact**2 * x2
        room[:, 3:5] += inexact * abs_x
        if spec.scale_rule == "tensor":  # then the scale may come from another row
            x2, abs_x = np.maximum(x2, x2.max() / 2), np.maximum(abs_x, abs_x.max() / 2)
        room[:, :3] += 1e-36 * x2
        room[:, 3:5] += 2.0**-126 * abs_x
        room[:, 5:] += inexact * expected.sums[:, 3:4]
        assert (off <= room).all()


@pytest.mark.parametrize("spec", OTHERS)
def test_every_bfloat16_in_a_block_of_its_own(spec: str) -> None:
    x = _bfloat16(oracle.all_bfloat16())[:, None]
    if parse_spec(spec).scale_rule == "tensor":
        x = x[x.abs().flatten() <= 1e4]  # one infinitely wide tensor would flush nearly all
    _check(x, parse_spec(spec))


@pytest.mark.parametrize("amax", [2.0**-126, 0.875, 3.3e38])
@pytest.mark.parametrize("spec", OTHERS)
def test_every_bfloat16_in_a_block_with_a_given_maximum(spec: str, amax: float) -> None:
    block = parse_spec(spec).format.tile
    bits = oracle.all_bfloat16()
    top = _bfloat16(bits[:1]).fill_(amax)
    x = _bfloat16(bits)
    x = x[~(x.abs() > top)]  # larger values would set the scale themselves; NaN may stay
    x = torch.nn.functional.pad(x, (0, -len(x) % (block - 1))).reshape(-1, block - 1)
    _check(torch.cat([x, top.expand(len(x), 1)], dim=-1), parse_spec(spec))


@pytest.mark.parametrize("spec", OTHERS)
def test_block_maxima_next_to_every_power_of_two_and_every_threshold(spec: str) -> None:
    element = parse_spec(spec).format.element
    marks = np.array([0.5, element.largest / 2 ** (element.max_exponent + 1)])
    marks = np.float32([*marks, 1 - 2.0 ** -(element.mantissa_bits + 2)])
    near = np.concatenate([marks, *(np.nextafter(marks, np.float32(side)) for side in (0, 1))])
    amax = np.ldexp(near, np.arange(-100, 128)[:, None]).ravel()
    fractions = torch.tensor([1.0, -0.9, 0.7, 0.5, -0.3, 0.2, 0.1, 0.0625, -0.03, 1e-3, 1e-20])
    _check(torch.from_numpy(amax)[:, None] * fractions, parse_spec(spec))


def _tensors(dtype: torch.dtype) -> list[torch.Tensor]:
    """Ragged ends, heavy tails, wide ranges, strides, odd values."""
    generator = torch.Generator().manual_seed(11)
    found = []
    for shape in ((1, 1), (3, 33), (17, 256), (5, 1000)):
        x = torch.randn(shape, generator=generator)
        found += [x, x.pow(5), x * 2.0 ** torch.randint(-24, 15, shape, generator=generator)]
    found = [x.to(dtype) for x in found]
    wide = torch.randn(40, 3, 200, generator=generator).to(dtype)
    found += [wide[:, 1], wide[0].T, wide[0, :1].expand(6, 200)]
    strange = torch.randn(8, 70, generator=generator)
    strange[0, 3], strange[1, 40], strange[2, 69] = torch.nan, torch.inf, -torch.inf
    strange[3], strange[4, :40] = -0.0, 0.0
    found.append(strange.to(dtype))
    found.append((torch.randn(4, 64, generator=generator) * torch.finfo(dtype).tiny).to(dtype))
    return found


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("spec", OTHERS)
def test_the_fused_kernel_agrees_with_the_reference(spec: str, rounding: str) -> None:
    place = OTHERS.index(spec) + ROUNDINGS.index(rounding)
    for dtype in (DTYPES[place % 3],):
        for x in _tensors(dtype):
            keys = torch.arange(len(x)) * 7_919_000_011 - 3
            found, expected = (
                row_sums(x, parse_spec(spec), rounding, keys, kernel) for kernel in ("cpu", "eager")
            )
            assert torch.equal(found[:, :6], expected[:, :6]), "counts differ"
            np.testing.assert_allclose(found[:, 6:].numpy(), expected[:, 6:].numpy(), rtol=1e-6)
