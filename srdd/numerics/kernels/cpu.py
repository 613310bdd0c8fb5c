"""The CPU kernel: one fused pass over the rows, compiled by numba, on torch's number of threads.

It has two modes: SUMS measures each row, VALUES writes what each value is read back as. The
arithmetic is that of kernels.eager. What is different:

- A value is read as bits (kernels.compiling). Comparisons that find a block's largest value,
  or what is finite or zero, are between integers of the value's own size.
- Nearest-even rounding adds and takes away a `magic` number 2^(k + 23 - mantissa_bits), where 2^k
  starts the value's binade: in between, float32 keeps just the element's bits, rounded to even.
- A block's length, the rounding, the dtype and the mode are constants to the compiler, so that the
  loop over a block becomes straight vector code. For sums, the compiler may reorder additions; what
  has to be computed as written is kept out of its reach (`_exactly`).
- A ragged last block is padded before, in a copy; no model's width comes to that. Rows that are
  rotated come from a scratch that has room for it (kernels.cpu_rows).

Written values are the reference's bit for bit, rounded once more to x's dtype:

    y = sign(x) * min(q * s, largest of x's dtype)

A product q * s of float32 numbers is rounded as the reference rounds its float64 product: once. For
bfloat16 and float16 its bits are then rounded to even, by adding half of what is cut off, and to
float16's subnormals by adding a number whose last place is theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from srdd.numerics.formats import (
    LOWERED_BLOCK_SCALE,
    MAX_BLOCK_SCALE,
    MAX_SCALE_EXPONENT,
    MIN_BLOCK_SCALE,
    MIN_GLOBAL_SCALE,
    MIN_SCALE,
    MIN_SCALE_EXPONENT,
    ROUNDINGS,
    ROW,
    FormatSpec,
)
from srdd.numerics.kernels import cpu_rows, threads
from srdd.numerics.kernels.compiling import (
    LAYOUTS,
    array_of,
    as_words,
    compiled,
    compiled_once,
    word_type,
)
from srdd.numerics.kernels.cpu_rotation import llvm
from srdd.numerics.kernels.eager import COLUMN_SALT, KEY_SALT, MULTIPLIERS
from srdd.numerics.sums import FIELDS

SUMS, VALUES = range(2)
"""What a pass gives."""

E8M0, E4M3, FP32, FP32_OF_ROW, E4M3_OF_TWO = range(5)
"""How a scale is found: three of formats.SCALE_BITS, float32 over a whole row, and the better of
two `e4m3` scales."""

EVEN, HALF_AWAY, STOCHASTIC = map(ROUNDINGS.index, ("even", "half-away", "stochastic"))

_EXPONENT_BITS = np.uint32(0x7F800000)
_MANTISSA_BITS = np.uint32(0x007FFFFF)
_REORDER = {"reassoc", "nsz", "contract"}


def row_sums(x: Tensor, spec: FormatSpec, rounding: str, keys: Tensor) -> Tensor:
    """See kernels.row_sums; `keys` is not optional here, and everything is on the CPU.

    A rotation is done here, too.
    """
    sums = np.zeros((x.shape[0], len(FIELDS)), dtype=np.float64)
    rotated = spec.format.rotation > 0  # such rows are padded in their scratch
    padded = x if rotated else _padded(x, spec.format.tile)
    _run(SUMS, padded, x.shape[1], spec, rounding, keys, sums)
    return torch.from_numpy(sums)


def quantize(x: Tensor, spec: FormatSpec, rounding: str, keys: Tensor) -> Tensor:
    """See kernels.quantize; everything is on the CPU. A format's rotation is left to the caller.

    Returns:
        (tokens, channels) of x's dtype.
    """
    channels = x.shape[1]
    x = _padded(x, spec.format.tile)
    y = torch.empty(x.shape, dtype=x.dtype)
    _run(VALUES, x, x.shape[1], spec, rounding, keys, as_words(y).reshape(y.shape))
    return y if y.shape[1] == channels else y[:, :channels].contiguous()


def _padded(x: Tensor, tile: int) -> Tensor:
    """`x` with whole tiles in a row."""
    return torch.nn.functional.pad(x, (0, -x.shape[1] % tile)) if x.shape[1] % tile else x


def _run(
    mode: int, x: Tensor, channels: int, spec: FormatSpec, rounding: str, keys: Tensor, out: Any
) -> None:
    """One pass over `x` on all threads into `out` (rows, ...); `channels` of a row are data."""
    x = x if x.stride(1) == 1 else x.contiguous()
    element = spec.format.element
    rotation = spec.format.rotation if mode == SUMS else 0
    dtype = torch.float32 if rotation else x.dtype
    limit = spec.format.clips_above if mode == SUMS else torch.finfo(x.dtype).max
    grid = (
        element.max_exponent,
        np.uint32(round((2 * spec.round_up_above - 1) * 2**23)),  # as bits of a mantissa
        np.uint32((element.min_exponent + 127) << 23),
        element.mantissa_bits,
        np.float32(element.largest),
        np.float32(limit),
        cpu_rows.largest(x, rotation) if spec.scale_rule == "tensor" else np.float32(-1),
        np.float32(spec.format.lowered),
    )
    scaling = {"e8m0": E8M0, "e4m3": E4M3, "fp32": FP32}[spec.format.scale]
    if spec.format.block == ROW:
        scaling = FP32_OF_ROW
    if spec.format.lowered:
        scaling = E4M3_OF_TWO
    run = _kernel(spec.format.tile, ROUNDINGS.index(rounding), dtype, scaling, mode)
    names = keys.contiguous().numpy()
    starts = cpu_rows.starts(x, rotation)

    def work(mine: Iterator[int]) -> None:
        for start, words, first, stride in cpu_rows.chunks(x, rotation, spec.format.tile, mine):
            rows = slice(start, start + starts.step)
            run(words, first, stride, channels, names[rows], grid, out[rows])

    threads.share(work, starts)


@functools.cache
def _kernel(
    block: int, rounding: int, dtype: torch.dtype, scaling: int = E8M0, mode: int = SUMS
) -> Callable[..., None]:
    """The compiled pass over rows, for a block's length, an index of ROUNDINGS, a dtype, a scaling.

    Where the block is a whole row, `block` is its part that is summed together in float32.

    What the inner function takes from here is constant to the compiler and part of the name under
    which numba keeps the result, next to this file or, if that is read-only, in the user's cache.
    """
    if block > 255:
        raise ValueError(
            f"a block of {block} values: it is counted in bytes, which add up quickest"
        )
    column_salt, key_salt, multipliers = COLUMN_SALT, KEY_SALT, MULTIPLIERS
    _, mask, limit, shift, factor = LAYOUTS[dtype]
    word = word_type(dtype)
    sign = mask + 1
    full, half = dtype is torch.float32, dtype is torch.float16

    def run(
        words: Any, first: Any, stride: Any, channels: Any, keys: Any, grid: Any, out: Any
    ) -> None:  # pragma: no cover
        salts = (np.uint32(column_salt), np.uint32(multipliers[0]), np.uint32(multipliers[1]))
        least, mantissa_bits, largest, most = grid[2:6]
        zero: Any = np.float32(0)
        one, tiny = np.float32(1), np.float32(2.0**-126)
        blocks = -(-channels // block)
        tops = np.zeros(blocks, np.float32)
        scales = np.zeros(blocks, np.float64)
        inverses = np.zeros(blocks, np.float32)
        errors, other_errors = np.zeros(block, np.float32), np.zeros(block, np.float32)
        for token in range(keys.size):
            start = first + token * stride
            # 1. What the scales follow from. Scales are found apart from the sums, because nothing
            #    of a block can start before; the scales of many blocks are found at once.
            nonfinite = 0.0
            for at in range(blocks):
                top = _top(words, np.uintp(start + at * block), block, mask, limit)
                tops[at] = _value(word(top), shift, factor)
                nonfinite += top >> np.uint64(32)
            widest = grid[6]  # of the whole tensor; below 0 where each row is on its own
            if scaling in (E4M3, E4M3_OF_TWO, FP32_OF_ROW) and widest < zero:
                for at in range(blocks):
                    widest = max(widest, tops[at])

            # 2. The scales.
            for at in range(blocks):
                if scaling == E8M0:
                    exponent = _scale_exponent(tops[at], grid)
                    inverses[at] = np.int64((1023 - exponent) << 52).view(np.float64)
                    scales[at] = np.int64((1023 + exponent) << 52).view(np.float64)
                elif scaling == E4M3:
                    whole = _global_scale(widest, np.float32(MAX_BLOCK_SCALE) * largest)
                    scales[at], inverses[at] = _two_levels(tops[at], whole, largest)
                elif scaling == E4M3_OF_TWO:
                    whole = _global_scale(widest, np.float32(LOWERED_BLOCK_SCALE) * largest)
                    scale, inverse = _two_levels(tops[at], whole, largest)
                    other, other_inverse = _two_levels(tops[at], whole, grid[7])
                    for place in range(block):
                        bits = word(words[np.uintp(start + at * block + place)] & word(mask))
                        bits = bits if bits < word(limit) else word(0)
                        value = _value(bits, shift, factor)
                        v = _product(value, inverse)
                        q = min(_to_grid(v, least, mantissa_bits, EVEN, zero), largest)
                        errors[place] = v - q
                        v = _product(value, other_inverse)
                        q = min(_to_grid(v, least, mantissa_bits, EVEN, zero), largest)
                        other_errors[place] = v - q
                    # Apart from the errors: additions in a fixed order are no vector code.
                    squares = other_squares = 0.0
                    for place in range(block):
                        squares = _plus_square(squares, errors[place])
                        other_squares = _plus_square(other_squares, other_errors[place])
                    better = _smaller(other_squares, other, squares, scale)
                    scales[at] = other if better else scale
                    inverses[at] = other_inverse if better else inverse
                else:  # it is no inverse: compressed-tensors divides
                    inverses[at] = _float32_scale(
                        widest if scaling == FP32_OF_ROW else tops[at], largest
                    )
                    scales[at] = inverses[at]

            row = _row_hash(np.uint64(keys[token]), np.uint32(key_salt), salts)
            nonzero = flushed = saturated = 0.0
            x2 = e2 = clipped_e2 = abs_x = abs_e = relative = 0.0
            for at in range(blocks):
                # 3. A block, value by value; its sums in float32 and in units of its scale.
                scale, inverse = scales[at], inverses[at]
                some = kept = over = np.uint8(0)
                v2 = d2 = clipped = v1 = d1 = ratio = zero
                for place in range(block):
                    given = words[np.uintp(start + at * block + place)]
                    bits = word(given & word(mask))
                    finite = bits < word(limit)
                    bits = bits if finite else word(0)
                    value = _value(bits, shift, factor)
                    if scaling in (E8M0, E4M3, E4M3_OF_TWO):
                        v = _product(value, inverse)
                    else:
                        v = _quotient(value, inverse)
                    draw = zero
                    if rounding == STOCHASTIC:
                        draw = _draw(row, at * block + place, salts)
                    q = min(_to_grid(v, least, mantissa_bits, rounding, draw), largest)
                    if mode == VALUES:
                        y = min(_product(q, np.float32(scale)), most)
                        if full:
                            written = np.float32(y).view(np.uint32)
                        elif half:
                            written = _float16_bits(y)
                        else:
                            written = _bfloat16_bits(y)
                        signed = word(word(written) | word(given & word(sign)))
                        out[token, at * block + place] = signed if finite else given
                    else:
                        d = abs(v - q)
                        some = np.uint8(some + (bits != word(0)))
                        kept = np.uint8(kept + (q > zero))
                        over = np.uint8(over + (v > most))
                        # As numbers, for the compiler to keep the loop free of branches.
                        keep = one if q > zero else zero
                        beyond = one if v > most else zero
                        v2 += v * v
                        d2 += d * d
                        clipped += beyond * (d * d)
                        v1 += v
                        d1 += d
                        ratio += keep * (d / max(v, tiny))

                # 4. The sums of the row, in float64, which has room for the square of any scale.
                if mode == SUMS:
                    lost = np.float64(some) - np.float64(kept)
                    nonzero += some
                    flushed += lost
                    saturated += over
                    x2 += v2 * (scale * scale)
                    e2 += d2 * (scale * scale)
                    clipped_e2 += clipped * (scale * scale)
                    abs_x += v1 * scale
                    abs_e += d1 * scale
                    relative += ratio + lost  # a flushed value is off by all of itself
            if mode == SUMS:
                counts = (1.0, channels - nonfinite, nonfinite, nonzero, flushed, saturated)
                powers = (x2, e2, clipped_e2, abs_x, abs_e, relative)
                for place in range(6):
                    out[token, place] = counts[place]
                    out[token, 6 + place] = powers[place]

    numbers = types.Tuple(
        (types.int64, types.uint32, types.uint32, types.int64, *(4 * [types.float32]))
    )
    return compiled_once(
        run,
        array_of(word),
        *(3 * [types.int64]),
        array_of(np.int64),
        numbers,
        array_of(np.float64 if mode == SUMS else word, 2),
        fastmath=_REORDER if mode == SUMS else False,
    )


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _top(typing: Any, words: Any, at: Any, block: Any, mask: Any, limit: Any) -> Any:
    """Of `block` words from `at` on: the largest finite magnitude, plus 2^32 for each not finite.

    Written as a loop, the compiler takes blocks of 16 together and picks their values one by one:
    measured, nvfp4's sums took 1.15 to 1.2 times as long, and values of mxfp4 3 times.
    """

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        values, magnitudes, first_odd = (each.literal_value for each in signature.args[2:])
        item, long = array.data.type.pointee, llvm.IntType(64)
        vector = llvm.VectorType(item, values)
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), vector.as_pointer())
        bits = builder.load(place, align=item.width // 8)
        bits = builder.and_(bits, llvm.Constant(vector, [magnitudes] * values))
        odd = builder.icmp_unsigned(">=", bits, llvm.Constant(vector, [first_odd] * values))
        finite = builder.select(odd, llvm.Constant(vector, [0] * values), bits)
        largest = cgutils.get_or_insert_function(
            builder.module,
            llvm.FunctionType(item, [vector]),
            f"llvm.vector.reduce.umax.v{values}i{item.width}",
        )
        top = builder.zext(builder.call(largest, [finite]), long)
        count = builder.ctpop(builder.bitcast(odd, llvm.IntType(values)))
        count = builder.zext(count, long) if values < 64 else builder.trunc(count, long)
        return builder.or_(top, builder.shl(count, llvm.Constant(long, 32)))

    return types.uint64(words, at, block, mask, limit), build


_exactly = compiled(forceinline=True, fastmath=False)
"""For what must be computed as written, and be one with its caller all the same."""


@_exactly
def _value(bits: Any, shift: Any, factor: Any) -> Any:  # pragma: no cover
    """The float32 that a magnitude's bits mean."""
    return np.uint32(np.uint32(bits) << np.uint32(shift)).view(np.float32) * np.float32(factor)


@_exactly
def _product(a: Any, b: Any) -> Any:  # pragma: no cover
    """A * b, not to be merged with other products, which might leave float32's range."""
    return a * b


@_exactly
def _quotient(a: Any, b: Any) -> Any:  # pragma: no cover
    """A / b, not to become a product."""
    return a / b


@_exactly
def _float32_scale(amax: Any, largest: Any) -> Any:  # pragma: no cover
    """The scale of `fp32` formats."""
    return max(np.float32(amax / largest), np.float32(MIN_SCALE))


@_exactly
def _global_scale(widest: Any, full: Any) -> Any:  # pragma: no cover
    """The g of `e4m3` formats with which the largest value becomes `full`."""
    return max(np.float32(widest / full), np.float32(MIN_GLOBAL_SCALE))


@_exactly
def _two_levels(amax: Any, whole: Any, largest: Any) -> Any:  # pragma: no cover
    """The scale of `e4m3` formats over g, `whole`, and what stands in for its inverse."""
    block = np.float32(np.float32(amax / largest) / whole)
    block = max(np.float32(MIN_BLOCK_SCALE), min(np.float32(MAX_BLOCK_SCALE), block))
    block = _to_grid(block, np.uint32(121 << 23), 3, EVEN, np.float32(0))
    return whole * block, np.float32(np.float32(1) / whole) / block


@_exactly
def _plus_square(total: Any, error: Any) -> Any:  # pragma: no cover
    """A block's sum of squared errors in float64, one value on."""
    d = np.float64(error)
    return total + d * d


@_exactly
def _smaller(squares: Any, scale: Any, than: Any, its_scale: Any) -> Any:  # pragma: no cover
    """Whether such a sum in units of one scale is below one in units of another."""
    scale, its_scale = np.float64(scale), np.float64(its_scale)
    return squares * (scale * scale) < than * (its_scale * its_scale)


@_exactly
def _scale_exponent(amax: Any, grid: Any) -> Any:  # pragma: no cover
    """E of a block with this largest magnitude; of 0, the least E."""
    max_exponent, round_up_from = grid[0], grid[1]
    exponent = -127 - max_exponent
    if amax < np.float32(2.0**-126):  # subnormal: its exponent field says nothing
        amax, exponent = amax * np.float32(2.0**24), exponent - 24
    bits = np.float32(amax).view(np.uint32)
    exponent += np.int64(bits >> np.uint32(23))
    if bits & _MANTISSA_BITS >= round_up_from:
        exponent += 1
    return max(MIN_SCALE_EXPONENT, min(MAX_SCALE_EXPONENT, exponent))


@_exactly
def _to_grid(
    v: Any, least: Any, mantissa_bits: Any, rounding: Any, draw: Any
) -> Any:  # pragma: no cover
    """Round a scaled magnitude; `least` is 2^min_exponent's bits, `draw` is for STOCHASTIC."""
    one = np.float32(1)
    binade = max(np.uint32(np.float32(v).view(np.uint32) & _EXPONENT_BITS), least)
    if rounding == EVEN:
        magic = np.uint32(binade + ((23 - mantissa_bits) << 23)).view(np.float32)
        return (v + magic) - magic
    step = np.uint32(binade - (mantissa_bits << 23))
    steps = v * np.uint32(np.uint32(254 << 23) - step).view(np.float32)
    whole = np.floor(steps)
    if rounding == HALF_AWAY:
        whole += one if steps - whole >= np.float32(0.5) else np.float32(0)
    if rounding == STOCHASTIC:
        whole += one if draw < steps - whole else np.float32(0)
    return whole * step.view(np.float32)


@_exactly
def _hash(word: Any, salts: Any) -> Any:  # pragma: no cover
    """kernels.eager.hash_word of a uint32."""
    word = np.uint32(word)
    word = np.uint32((word ^ (word >> np.uint32(16))) * salts[1])
    word = np.uint32((word ^ (word >> np.uint32(15))) * salts[2])
    return np.uint32(word ^ (word >> np.uint32(16)))


@_exactly
def _row_hash(key: Any, salt: Any, salts: Any) -> Any:  # pragma: no cover
    """The row's part of kernels.eager._uniform."""
    return _hash(_hash(np.uint32(key) + salt, salts) ^ np.uint32(key >> np.uint64(32)), salts)


@_exactly
def _draw(row: Any, column: Any, salts: Any) -> Any:  # pragma: no cover
    """kernels.eager._uniform of one value, from its row's hash."""
    word = _hash(_hash(np.uint32(column) + salts[0], salts) ^ row, salts)
    return np.float32(np.int32((word >> np.uint32(8)) | np.uint32(1))) * np.float32(2.0**-24)


@_exactly
def _bfloat16_bits(y: Any) -> Any:  # pragma: no cover
    """Bits of the nearest bfloat16 to a finite float32 >= 0 that does not exceed its largest."""
    bits = np.float32(y).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)


@_exactly
def _float16_bits(y: Any) -> Any:  # pragma: no cover
    """The same for float16, whose subnormals are multiples of 2^-24, the last place of 0.5."""
    bits = np.float32(y).view(np.uint32)
    odd = (bits >> np.uint32(13)) & np.uint32(1)
    normal = np.uint32(bits - np.uint32(112 << 23) + np.uint32(0xFFF) + odd) >> np.uint32(13)
    tiny = np.uint32(
        np.float32(np.float32(y) + np.float32(0.5)).view(np.uint32) - np.uint32(126 << 23)
    )
    return tiny if bits < np.uint32(113 << 23) else normal
