"""Quantize and read back on the CPU: one fused pass that writes values, compiled by numba.

It is to kernels.cpu what eager.quantize is to eager.row_sums: the same scales, the same
rounding, the same threads, but what goes out is values, in x's dtype, and no sums. They are the
reference's bit for bit, rounded once more to x's dtype:

    y = sign(x) * min(q * s, largest of x's dtype)

A product q * s of float32 numbers is rounded as the reference rounds its float64 product: once. For
bfloat16 and float16 its bits are then rounded to even, by adding half of what is cut off, and to
float16's subnormals by adding a number whose last place is theirs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import types
from torch import Tensor

from srdd.numerics.formats import ROUNDINGS, ROW, FormatSpec
from srdd.numerics.kernels import cpu, threads
from srdd.numerics.kernels.compiling import LAYOUTS, array_of, as_words, compiled_once, word_type
from srdd.numerics.kernels.cpu import (
    CHUNK,
    E4M3,
    E8M0,
    FP32,
    FP32_OF_ROW,
    STOCHASTIC,
    _draw,
    _exactly,
    _float32_scale,
    _largest,
    _product,
    _quotient,
    _row_hash,
    _scale_exponent,
    _to_grid,
    _two_levels,
    _value,
)
from srdd.numerics.kernels.eager import COLUMN_SALT, KEY_SALT, MULTIPLIERS


def quantize(x: Tensor, spec: FormatSpec, rounding: str, keys: Tensor) -> Tensor:
    """See srdd.numerics.kernels.quantize, for a format without rotation; everything is on the CPU.

    Returns:
        (tokens, channels) of x's dtype.
    """
    tokens, channels = x.shape
    tile = spec.format.tile
    if channels % tile:
        x = torch.nn.functional.pad(x, (0, -channels % tile))
    if x.stride(1) != 1:
        x = x.contiguous()
    words, stride = as_words(x), x.stride(0)
    y = torch.empty((tokens, x.shape[1]), dtype=x.dtype)
    written = as_words(y).reshape(y.shape)

    element = spec.format.element
    grid = (
        element.max_exponent,
        np.uint32(round((2 * spec.round_up_above - 1) * 2**23)),  # as bits of a mantissa
        np.uint32((element.min_exponent + 127) << 23),
        element.mantissa_bits,
        np.float32(element.largest),
        np.float32(torch.finfo(x.dtype).max),
        _largest(x) if spec.scale_rule == "tensor" else np.float32(-1),
    )
    scaling = {"e8m0": E8M0, "e4m3": E4M3, "fp32": FP32}[spec.format.scale]
    if spec.format.block == ROW:
        scaling = FP32_OF_ROW
    run = _kernel(tile, ROUNDINGS.index(rounding), x.dtype, scaling)
    names = keys.contiguous().numpy()
    starts = range(0, tokens, max(1, CHUNK // max(1, channels)))

    def work(mine: Iterator[int]) -> None:
        for start in mine:
            rows = slice(start, start + starts.step)
            run(words, start * stride, stride, names[rows], grid, written[rows])

    threads.share(work, starts)
    return y if y.shape[1] == channels else y[:, :channels].contiguous()


@functools.cache
def _kernel(block: int, rounding: int, dtype: torch.dtype, scaling: int) -> Callable[..., None]:
    """The compiled pass over rows, for what is constant to the compiler, as in kernels.cpu."""
    column_salt, key_salt, multipliers = COLUMN_SALT, KEY_SALT, MULTIPLIERS
    _, mask, limit, shift, factor = LAYOUTS[dtype]
    word = word_type(dtype)
    sign = mask + 1
    whole, halves = dtype is torch.float32, dtype is torch.float16
    # Numba would not notice when functions in another file change, but for this constant.
    called = Path(cpu.__file__).stat().st_mtime_ns

    def run(
        words: Any, first: Any, stride: Any, keys: Any, grid: Any, written: Any
    ) -> None:  # pragma: no cover
        salts = (np.uint32(column_salt), np.uint32(multipliers[0]), np.uint32(multipliers[1]))
        least, mantissa_bits, largest, most = grid[2:6]
        zero: Any = np.float32(0 * called)
        blocks = written.shape[1] // block
        scales = np.zeros(blocks, np.float32)
        inverses = np.zeros(blocks, np.float32)
        for token in range(keys.size):
            start = first + token * stride
            widest = grid[6]  # of the whole tensor; below 0 where each row is on its own
            for at in range(blocks):
                top = word(0)
                for place in range(block):
                    bits = word(words[np.uintp(start + at * block + place)] & word(mask))
                    top = max(top, bits if bits < word(limit) else word(0))
                amax = _value(top, shift, factor)
                if scaling == E8M0:
                    exponent = _scale_exponent(amax, grid)
                    # By way of float64, which holds them as normal numbers.
                    inverses[at] = np.int64((1023 - exponent) << 52).view(np.float64)
                    scales[at] = np.int64((1023 + exponent) << 52).view(np.float64)
                else:
                    scales[at] = amax
            if scaling in (E4M3, FP32_OF_ROW) and widest < zero:
                for at in range(blocks):
                    widest = max(widest, scales[at])
            if scaling == E4M3:
                for at in range(blocks):
                    scales[at], inverses[at] = _two_levels(scales[at], widest, largest)
            elif scaling != E8M0:
                for at in range(blocks):
                    scales[at] = _float32_scale(
                        widest if scaling == FP32_OF_ROW else scales[at], largest
                    )

            row = _row_hash(np.uint64(keys[token]), np.uint32(key_salt), salts)
            for at in range(blocks):
                scale, inverse = scales[at], inverses[at]
                for place in range(block):
                    given = words[np.uintp(start + at * block + place)]
                    bits = word(given & word(mask))
                    finite = bits < word(limit)
                    value = _value(bits if finite else word(0), shift, factor)
                    if scaling in (E8M0, E4M3):
                        v = _product(value, inverse)
                    else:
                        v = _quotient(value, scale)
                    draw = zero
                    if rounding == STOCHASTIC:
                        draw = _draw(row, at * block + place, salts)
                    q = min(_to_grid(v, least, mantissa_bits, rounding, draw), largest)
                    y = min(_product(q, scale), most)
                    if whole:
                        found = np.float32(y).view(np.uint32)
                    elif halves:
                        found = _float16_bits(y)
                    else:
                        found = _bfloat16_bits(y)
                    signed = word(word(found) | word(given & word(sign)))
                    written[token, at * block + place] = signed if finite else given

    numbers = types.Tuple(
        (types.int64, types.uint32, types.uint32, types.int64, *(3 * [types.float32]))
    )
    places = (types.int64, types.int64)
    return compiled_once(
        run, array_of(word), *places, array_of(np.int64), numbers, array_of(word, 2)
    )


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
