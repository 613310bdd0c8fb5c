"""The reference kernel: plain torch, one line a step, on any device that has float64.

For scales that are powers of two, with a block's largest magnitude amax = m * 2^e, m in [0.5, 1),
and the element's parameters (srdd.numerics.formats):

    E = e - 1 - max_exponent, plus 1 where m >= round_up_above, clamped to -127 ... 127
    s, v = 2^E, |x| * 2^-E
    step = 2^(max(floor(log2 v), min_exponent) - mantissa_bits)
    q = min(round(v / step) * step, largest)
    y = sign(x) * q * s

Every step is a product with a power of two, a comparison or a rounding to a few bits, so float32
holds each result exactly. One product can leave its range: v underflows when |x| is less than
2^-126 scales. Such an x is still seen as non-zero, from its bits, and rounds to zero as it would.

Other scales are float32 arithmetic in the order of the packages that are followed, and round at
every step: torchao's for `e4m3`, g being the global scale, and compressed-tensors' for `fp32`.

    e4m3    b = E4M3(amax / largest / g), v = |x| * ((1 / g) / b), s = g * b
    fp32    s = amax / largest, v = |x| / s

Where the format has a second choice (`lowered`), b is computed with it in place of `largest`, too,
and a block takes it if s^2 * sum((v - q)^2) is smaller. So that every kernel takes the same, this
is float64 arithmetic, whose squares are exact, and the sum goes from the first value to the last.

Errors are s * (v - q), as if v were exact: they carry v's rounding, of at most 2^-22 of |x|.

Powers of two are put together from their exponent bits: exp2 and pow may be off in the last place
on some devices, and log2 is wrong just below powers of two.

Stochastic rounding draws u in (0, 1) from a hash of the row's key and the column, not from a
generator with state: a value gets the same draw in any batch, on any device and in any kernel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from srdd.numerics.formats import (
    E4M3,
    MAX_BLOCK_SCALE,
    MAX_SCALE_EXPONENT,
    MIN_BLOCK_SCALE,
    MIN_GLOBAL_SCALE,
    MIN_SCALE,
    MIN_SCALE_EXPONENT,
    ROW,
    Element,
    FormatSpec,
)

WORD = 0xFFFFFFFF
COLUMN_SALT, KEY_SALT = 0x9E3779B9, 0x7F4A7C15
"""Added before hashing, because the hash maps zero to zero."""
MULTIPLIERS = (0x7FEB352D, 0x846CA68B)
"""Of the 32-bit hash `lowbias32` (Chris Wellons, "Prospecting for Hash Functions", 2018)."""


class Blocks(NamedTuple):
    """A tensor cut into blocks, or tiles of a block as long as the row, before and after rounding.

    Attributes:
        scale: float64 (tokens, blocks, 1).
        v: scaled magnitudes, float32 (tokens, blocks, block); 0 for padding and non-finite values.
        q: the same, rounded to the grid.
        nonzero: whether x != 0, bool, the same shape.
    """

    scale: Tensor
    v: Tensor
    q: Tensor
    nonzero: Tensor


def row_sums(x: Tensor, spec: FormatSpec, rounding: str, keys: Tensor) -> Tensor:
    """See srdd.numerics.kernels.row_sums; `keys` is not optional here."""
    scale, v, q, nonzero = _round_blocks(x, spec, rounding, keys)
    finite = torch.isfinite(x)
    error = (v - q).abs()
    flushed = nonzero & (q == 0)
    saturated = v > spec.format.clips_above
    # A flushed value is off by all of itself, whatever float32 made of a tiny v.
    relative = torch.where(q > 0, error / v, flushed.float())

    scale = scale.squeeze(-1)  # (tokens, blocks)

    def count(found: Tensor) -> Tensor:
        return found.flatten(1).sum(-1, dtype=torch.int32).double()

    def total(terms: Tensor, factor: Tensor | float = 1.0) -> Tensor:
        return (terms.sum(-1).double() * factor).sum(-1)

    return torch.stack(
        [
            torch.ones_like(keys, dtype=torch.float64),
            count(finite),
            count(~finite),
            count(nonzero),
            count(flushed),
            count(saturated),
            total(v.square(), scale.square()),
            total(error.square(), scale.square()),
            total(error.square() * saturated, scale.square()),
            total(v, scale),
            total(error, scale),
            total(relative),
        ],
        dim=-1,
    )


def quantize(x: Tensor, spec: FormatSpec, rounding: str, keys: Tensor) -> Tensor:
    """The values that `x` is read back as, for arguments as in `row_sums`.

    Returns:
        float32 (tokens, channels). Non-finite values come back as they are, zeros with their sign.
        A value that rounds to 2^128 becomes the largest float32.
    """
    scale, _, q, _ = _round_blocks(x, spec, rounding, keys)
    y = (q * scale).clamp(max=torch.finfo(torch.float32).max).float()  # rounds once, like float32
    y = y.flatten(1)[:, : x.shape[1]]
    return torch.where(torch.isfinite(x), y.copysign(x), x)


def codes(x: Tensor, spec: FormatSpec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What `x` (tokens, channels) is stored as, rounded to even.

    Returns:
        Scales, float64 (tokens, blocks, 1); scaled magnitudes, float32 (tokens, blocks, block);
        elements with their sign, the same; and the values, the same. A ragged last block is filled
        up with NaN values. Non-finite values have the element 0.
    """
    scale, v, q, _ = _round_blocks(x, spec, "even", torch.arange(len(x), device=x.device))
    missing = v.shape[1] * v.shape[2] - x.shape[1]
    values = torch.nn.functional.pad(x.float(), (0, missing), value=torch.nan).reshape(v.shape)
    return scale, v, q.copysign(values), values


def spacing(v: Tensor, element: Element) -> Tensor:
    """The distance of an element's codes at scaled magnitudes `v`, float32 of the same shape."""
    return _power_of_two(_exponent(v, element))


def _round_blocks(x: Tensor, spec: FormatSpec, rounding: str, keys: Tensor) -> Blocks:
    """Scale and round `x` (tokens, channels), one of the supported dtypes."""
    tokens, channels = x.shape
    tile = spec.format.tile
    count = -(-channels // tile)
    magnitude = torch.where(torch.isfinite(x), x.abs(), 0.0).float()
    magnitude = torch.nn.functional.pad(magnitude, (0, count * tile - channels))
    magnitude = magnitude.reshape(tokens, count, tile)

    amax = magnitude.amax(-1, keepdim=True)
    if spec.format.block == ROW and count:
        amax = amax.amax(1, keepdim=True).expand_as(amax)
    v, scale = _SCALED[spec.format.scale](magnitude, amax, spec)

    draws = None
    if rounding == "stochastic":
        draws = _uniform(keys, count * tile).reshape(tokens, count, tile)
    nonzero = magnitude.view(torch.int32) != 0
    q = _to_grid(v, spec.format.element, rounding, draws)
    return Blocks(scale, v, q, nonzero)


def _by_power_of_two(magnitude: Tensor, amax: Tensor, spec: FormatSpec) -> tuple[Tensor, Tensor]:
    """`e8m0`: (tokens, blocks, block) and maxima (tokens, blocks, 1) -> v and float64 scales."""
    mantissa, exponent = torch.frexp(amax)
    exponent = exponent - 1 - spec.format.element.max_exponent
    exponent = exponent + (mantissa >= spec.round_up_above).int()
    exponent = exponent.clamp(MIN_SCALE_EXPONENT, MAX_SCALE_EXPONENT)
    # In two factors: 2^127 and 2^-127 are not both normal float32.
    half = exponent // 2
    v = magnitude * _power_of_two(-half) * _power_of_two(half - exponent)
    return v, _power_of_two_64(exponent)


def _by_two_levels(magnitude: Tensor, amax: Tensor, spec: FormatSpec) -> tuple[Tensor, Tensor]:
    """`e4m3`, for the same."""
    element, lowered = spec.format.element, spec.format.lowered
    over = (0, 1) if spec.scale_rule == "tensor" else (1,)
    widest = amax.amax(over, keepdim=True) if amax.numel() else amax
    # Dividing by a plain number, torch multiplies by its rounded inverse on some devices.
    full = widest.new_full((), spec.format.largest_block_scale * element.largest)
    whole = (widest / full).clamp(min=MIN_GLOBAL_SCALE)

    def scaled(top: float) -> tuple[Tensor, Tensor]:
        wanted = amax / amax.new_full((), top) / whole
        block = _to_grid(wanted.clamp(MIN_BLOCK_SCALE, MAX_BLOCK_SCALE), E4M3, "even", None)
        v = magnitude * (whole.new_ones(()) / whole / block)
        return v, (whole * block).double()

    v, scale = scaled(element.largest)
    if not lowered:
        return v, scale
    other, other_scale = scaled(lowered)
    better = _squared_error(other, other_scale, element) < _squared_error(v, scale, element)
    return torch.where(better, other, v), torch.where(better, other_scale, scale)


def _squared_error(v: Tensor, scale: Tensor, element: Element) -> Tensor:
    """Of each block, rounded to even; for v and scale of Blocks, float64 (tokens, blocks, 1)."""
    squares = (v - _to_grid(v, element, "even", None)).double().square()
    total = torch.zeros_like(scale)
    for place in range(v.shape[-1]):
        total = total + squares[..., place : place + 1]
    return total * scale.square()


def _by_float32(magnitude: Tensor, amax: Tensor, spec: FormatSpec) -> tuple[Tensor, Tensor]:
    """`fp32`, for the same."""
    scale = (amax / amax.new_full((), spec.format.element.largest)).clamp(min=MIN_SCALE)
    return magnitude / scale, scale.double()


_SCALED = {"e8m0": _by_power_of_two, "e4m3": _by_two_levels, "fp32": _by_float32}


def _to_grid(v: Tensor, element: Element, rounding: str, draws: Tensor | None) -> Tensor:
    """Round scaled magnitudes to the element's grid; `draws` are for `stochastic`, else None."""
    exponent = _exponent(v, element)
    steps = v * _power_of_two(-exponent)
    whole = steps.floor()
    if rounding == "even":
        whole = steps.round()
    elif rounding == "half-away":
        whole = whole + (steps - whole >= 0.5)  # not floor(steps + 0.5): that sum may round up
    elif draws is not None:
        whole = whole + (draws < steps - whole)
    return (whole * _power_of_two(exponent)).clamp(max=element.largest)


def _exponent(v: Tensor, element: Element) -> Tensor:
    """Of the distance between codes at magnitudes `v`, as a power of two."""
    exponent = (v.view(torch.int32) >> 23) - 127  # of a subnormal, -127: below any grid's least
    return exponent.clamp(min=element.min_exponent) - element.mantissa_bits


def _power_of_two(exponent: Tensor) -> Tensor:
    """2^exponent as float32, for int32 exponents in -126 ... 127."""
    return ((exponent + 127) << 23).view(torch.float32)


def _power_of_two_64(exponent: Tensor) -> Tensor:
    """2^exponent as float64, for int32 exponents in -1022 ... 1023."""
    return ((exponent.long() + 1023) << 52).view(torch.float64)


def _uniform(keys: Tensor, columns: int) -> Tensor:
    """Draws in (0, 1), float32 (rows, columns), for int64 keys (rows,).

    They are odd multiples of 2^-24, so that their mean is exactly one half and none is 0: a value
    rounds up with the probability that it should, to within 2^-24.
    """
    row = hash_word(hash_word((keys + KEY_SALT) & WORD) ^ ((keys >> 32) & WORD))
    column = hash_word((torch.arange(columns, device=keys.device) + COLUMN_SALT) & WORD)
    return ((hash_word(row[:, None] ^ column) >> 8) | 1).float() * 2.0**-24


def hash_word(word: Tensor) -> Tensor:
    """A bijection of 32-bit words that leaves no pattern; words are int64 in 0 ... 2^32 - 1."""
    first, second = MULTIPLIERS
    word = word ^ (word >> 16)
    word = (word * first) & WORD
    word = word ^ (word >> 15)
    # Taken below zero, where it has less than 31 bits, the factor cannot overflow 64-bit products.
    word = (word * (second - 2**32)) & WORD
    return word ^ (word >> 16)
