"""What a quantizer must give, without torch and without the code under test.

Scales come from numpy's frexp in float64, elements from the casts of ml_dtypes (nearest, ties to
even), sums from plain float64 arithmetic on x and y: float64 holds the square of every float32.
Everything here is written from the definitions, the slow and obvious way.
"""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Grid(NamedTuple):
    """An element: its ml_dtypes cast, bits of mantissa, largest exponent, largest magnitude.

    A block's largest value becomes the largest magnitude or, where `lowered` is not 0 and the
    block's squared error is smaller that way, `lowered`.

    Integers have no such cast; their values are multiples of 2^(max_exponent - mantissa_bits).
    """

    dtype: type | None
    mantissa_bits: int
    max_exponent: int
    largest: float
    lowered: float = 0.0


GRIDS = {
    "E2M1": Grid(ml_dtypes.float4_e2m1fn, 1, 2, 6.0),
    "E2M1, 6 or 4": Grid(ml_dtypes.float4_e2m1fn, 1, 2, 6.0, lowered=4.0),
    "E2M3": Grid(ml_dtypes.float6_e2m3fn, 3, 2, 7.5),
    "E3M2": Grid(ml_dtypes.float6_e3m2fn, 2, 4, 28.0),
    "E4M3": Grid(ml_dtypes.float8_e4m3fn, 3, 8, 448.0),
    "E5M2": Grid(ml_dtypes.float8_e5m2, 2, 15, 57344.0),
    "MXINT8": Grid(None, 6, 0, 127 / 64),
    "INT4": Grid(None, 2, 2, 7.0),
    "INT8": Grid(None, 6, 6, 127.0),
}

ROW = 0

FORMATS = {
    "mxfp4": ("E2M1", 32),
    "mxfp6_e2m3": ("E2M3", 32),
    "mxfp6_e3m2": ("E3M2", 32),
    "mxfp8_e4m3": ("E4M3", 32),
    "mxfp8_e5m2": ("E5M2", 32),
    "mxint8": ("MXINT8", 32),
    "nvfp4": ("E2M1", 16),
    "nvfp4_46": ("E2M1, 6 or 4", 16),
    "int4_g32": ("INT4", 32),
    "int4_g128": ("INT4", 128),
    "int8_token": ("INT8", ROW),
    "fp8_e4m3_token": ("E4M3", ROW),
}
"""Format -> its element and how many values share a scale."""


def cast(v: Array, grid: Grid) -> Array:
    """Magnitudes to the nearest of the grid; clamped first, because some casts overflow to NaN."""
    clamped = np.minimum(v, grid.largest)
    if grid.dtype is None:
        step = 2.0 ** (grid.max_exponent - grid.mantissa_bits)
        return np.rint(clamped / step) * step
    return clamped.astype(np.float32).astype(grid.dtype).astype(np.float64)


def magnitudes(grid: Grid) -> Array:
    """Every magnitude of a grid, ascending."""
    if grid.dtype is None:
        step = 2.0 ** (grid.max_exponent - grid.mantissa_bits)
        return np.arange(round(grid.largest / step) + 1) * step
    bits = ml_dtypes.finfo(grid.dtype).bits
    codes = np.arange(2 ** (bits - 1), dtype=np.uint8).view(grid.dtype).astype(np.float64)
    return np.unique(codes[np.isfinite(codes)])


def scale_exponent(amax: Array, rule: str, grid: Grid) -> NDArray[np.int64]:
    """E of blocks with these largest magnitudes; of an all-zero block, any."""
    mantissa, exponent = np.frexp(amax)
    floor = exponent.astype(np.int64) - 1 - grid.max_exponent
    if rule == "floor":
        up = np.zeros(amax.shape, bool)
    elif (
        rule == "even"
    ):  # amax, rounded to the element's bits, half up, reaches the next power of two
        bits = grid.mantissa_bits + 1
        up = np.floor(mantissa * 2**bits + 0.5) >= 2**bits
    elif rule == "ceil":
        up = mantissa > 0.5
    elif rule == "rceil":  # the least power of two with which nothing clips
        up = np.ldexp(amax, -floor) > grid.largest
    else:
        raise ValueError(rule)
    return np.clip(floor + up, -127, 127)


class Scaled(NamedTuple):
    """Blocks (tokens, blocks, block) as magnitudes over their scale, and the scale (..., 1)."""

    v: Array
    scale: Array
    clips_above: float


def power_of_two(blocks: Array, rule: str, grid: Grid) -> Scaled:
    """MX: everything is exact."""
    exponent = scale_exponent(blocks.max(-1, keepdims=True, initial=0), rule, grid)
    return Scaled(np.ldexp(blocks, -exponent), np.ldexp(1.0, exponent), grid.largest)


def two_level(blocks: Array, rule: str) -> Scaled:
    """NVFP4, in float32 in the order of torchao's nvfp4_quantize (release 0.18)."""
    a = blocks.astype(np.float32)
    whole = (0, 1, 2) if rule == "tensor" else (1, 2)
    g = a.max(whole, keepdims=True, initial=0) / np.float32(448 * 6)
    g = np.maximum(g, np.float32(2.0**-120))
    wanted = a.max(-1, keepdims=True, initial=0) / np.float32(6) / g
    block_scale = np.clip(wanted, 2.0**-6, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
    v = a * (np.float32(1) / g / block_scale)
    return Scaled(v.astype(np.float64), (g * block_scale).astype(np.float64), 6 * (1 + 2**-16))


def four_over_six(blocks: Array, rule: str, grid: Grid) -> Scaled:
    """NVFP4 with both scales tried on each block (arXiv:2512.02010); 1.5 * 256 still is an FP8."""
    a = blocks.astype(np.float32)
    whole = (0, 1, 2) if rule == "tensor" else (1, 2)
    g = a.max(whole, keepdims=True, initial=0) / np.float32(256 * 6)
    g = np.maximum(g, np.float32(2.0**-120))
    tried = []
    for top in (6, 4):
        wanted = a.max(-1, keepdims=True, initial=0) / np.float32(top) / g
        b = np.clip(wanted, 2.0**-6, 448).astype(ml_dtypes.float8_e4m3fn).astype(np.float32)
        v, s = (a * (np.float32(1) / g / b)).astype(np.float64), (g * b).astype(np.float64)
        squares = np.square(v - cast(v, grid)).cumsum(-1)[..., -1:]  # one after the other
        tried.append((v, s, squares * np.square(s)))
    (v6, s6, e6), (v4, s4, e4) = tried
    return Scaled(np.where(e4 < e6, v4, v6), np.where(e4 < e6, s4, s6), 6 * (1 + 2**-16))


def absmax(blocks: Array, grid: Grid) -> Scaled:
    """A float32 scale with which the largest value becomes the grid's largest."""
    a = blocks.astype(np.float32)
    s = a.max(-1, keepdims=True, initial=0) / np.float32(grid.largest)
    s = np.maximum(s, np.float32(2.0**-126))
    return Scaled((a / s).astype(np.float64), s.astype(np.float64), grid.largest * (1 + 2**-16))


def scaled(blocks: Array, rule: str, grid: Grid) -> Scaled:
    """By the rule's name."""
    if grid.lowered:
        return four_over_six(blocks, rule, grid)
    if rule in ("token", "tensor"):
        return two_level(blocks, rule)
    return absmax(blocks, grid) if rule == "absmax" else power_of_two(blocks, rule, grid)


class Result(NamedTuple):
    """Dequantized values (tokens, channels), and sums (tokens, 12) in the order of FIELDS."""

    y: Array
    sums: Array


FIELDS = (
    *("tokens", "elements", "nonfinite", "nonzero", "flushed", "saturated"),
    *("x2", "e2", "clipped_e2", "abs_x", "abs_e", "relative"),
)


def quantize(x: Array, rule: str, grid: Grid = GRIDS["E2M1"], block: int = 32) -> Result:
    """Quantize x (tokens, channels), float64 holding values of a narrower type."""
    tokens, channels = x.shape
    block = block or max(1, channels)
    finite = np.isfinite(x)
    padded = np.zeros((tokens, -(-channels // block) * block))
    padded[:, :channels] = np.where(finite, np.abs(x), 0)
    v, scale, clips_above = scaled(padded.reshape(tokens, -1, block), rule, grid)
    y = (cast(v, grid) * scale).reshape(tokens, -1)[:, :channels]
    if rule not in ("floor", "even", "ceil", "rceil"):
        y = y.astype(np.float32).astype(np.float64)
    over = (v > clips_above).reshape(tokens, -1)[:, :channels]

    a = np.where(finite, np.abs(x), 0)
    e = np.where(finite, np.abs(y - a), 0)
    some = a != 0
    relative = np.divide(e, a, out=np.zeros_like(a), where=some)
    columns = (
        *(np.ones_like(a[:, :1]), finite, ~finite, some, some & (y == 0), over),
        *(a**2, e**2, e**2 * over, a, e, relative),
    )
    sums = np.stack([column.sum(-1, dtype=np.float64) for column in columns], axis=-1)
    return Result(np.where(finite, np.copysign(y, x), x), sums)


def all_bfloat16() -> NDArray[np.uint16]:
    """The bits of every bfloat16: 65,536 of them, NaNs and infinities among them."""
    return np.arange(2**16, dtype=np.uint32).astype(np.uint16)


def value_of_bfloat16(bits: NDArray[np.uint16]) -> Array:
    """Bits to values."""
    return bits.view(ml_dtypes.bfloat16).astype(np.float64)


def around_powers_of_two() -> NDArray[np.float32]:
    """Every power of two that float32 holds, 2^-149 to 2^127, each with both its neighbours."""
    powers = np.ldexp(np.float32(1), np.arange(-149, 128)).astype(np.float32)
    infinity = np.float32(np.inf)
    return np.concatenate([powers, np.nextafter(powers, infinity), np.nextafter(powers, -infinity)])
