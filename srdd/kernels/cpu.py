"""The CPU kernel: one fused pass over the rows, compiled by numba, on torch's number of threads.

The arithmetic is that of srdd.kernels.eager. What is different:

- A value is read as bits. Shifted left, the bits of a bfloat16 or float16 are those of a float32,
  but for a factor of 2^112 that float16's smaller exponent bias leaves. So one code reads all
  three types, and comparisons that decide what is finite or zero are between integers.
- Nearest-even rounding adds and takes away a `magic` number 2^(k + 23 - mantissa_bits), where 2^k
  starts the value's binade: in between, float32 keeps just the element's bits, rounded to even.
- A block's length and the rounding are constants to the compiler, so that the loop over a block is
  unrolled into a few vector instructions. They vectorise only where the order of additions may
  change; the functions that must round exactly as written are compiled without that licence.

Threads are Python's, each running compiled code without the interpreter lock and taking rows off a
common list. Numba's own would start a second OpenMP pool next to torch's, in which idle threads
spin: for a while after each call, the one would take the cores from the other.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from numba import types
from torch import Tensor

from srdd.formats import MAX_SCALE_EXPONENT, MIN_SCALE_EXPONENT, ROUNDINGS, FormatSpec
from srdd.kernels.eager import COLUMN_SALT, KEY_SALT, MULTIPLIERS
from srdd.sums import FIELDS

Compiled = TypeVar("Compiled", bound=Callable[..., Any])

EVEN, HALF_AWAY, STOCHASTIC = map(ROUNDINGS.index, ("even", "half-away", "stochastic"))

LAYOUTS = {
    torch.bfloat16: (torch.int16, 16, 0x7FFF0000, 0x7F800000, 1.0),
    torch.float16: (torch.int16, 13, 0x0FFFE000, 0x0F800000, 2.0**112),
    torch.float32: (torch.int32, 0, 0x7FFFFFFF, 0x7F800000, 1.0),
}
"""dtype -> integers of its size, left shift to float32's fields, mask of the magnitude, first
magnitude that is not finite, and the factor that makes the bits' float32 the value."""

CHUNK = 1 << 18
"""Values that a thread takes at a time: a fraction of a millisecond, far above the overhead."""

_EXPONENT_BITS = np.uint32(0x7F800000)
_MANTISSA_BITS = np.uint32(0x007FFFFF)
_REORDER = {"reassoc", "nsz", "contract"}


def row_sums(x: Tensor, spec: FormatSpec, rounding: str, keys: Tensor) -> Tensor:
    """See srdd.kernels.row_sums; `keys` is not optional here, and everything is on the CPU."""
    tokens, channels = x.shape
    sums = np.zeros((tokens, len(FIELDS)), dtype=np.float64)
    if x.stride(1) != 1 or x.stride(0) < 0:
        x = x.contiguous()
    integer, shift, mask, limit, factor = LAYOUTS[x.dtype]
    # All from the first value to the last as one line; rows may overlap or leave gaps.
    length = (tokens - 1) * x.stride(0) + channels if x.numel() else 0
    line = x.detach().as_strided((length,), (1,)).view(integer).numpy()
    words = line.view(np.uint16 if integer is torch.int16 else np.uint32)

    element = spec.format.element
    layout = (shift, np.uint32(mask), np.uint32(limit), np.float32(factor))
    grid = (
        element.max_exponent,
        np.uint32(round((2 * spec.round_up_above - 1) * 2**23)),  # as bits of a mantissa
        np.uint32((element.min_exponent + 127) << 23),
        element.mantissa_bits,
        np.float32(element.largest),
    )
    run = _kernel(spec.format.block, ROUNDINGS.index(rounding), words.dtype.name)
    step = max(1, CHUNK // max(1, channels))
    todo = deque(range(0, tokens, step))
    names = keys.contiguous().numpy()

    def work() -> None:
        while True:
            try:
                start = todo.popleft()
            except IndexError:
                return
            rows = slice(start, start + step)
            at = start * x.stride(0)
            run(words, at, x.stride(0), channels, names[rows], layout, grid, sums[rows])

    threads = torch.get_num_threads()
    helpers = min(threads, len(todo)) - 1
    futures = [_pool(os.getpid(), threads).submit(work) for _ in range(helpers)]
    work()
    for future in futures:
        future.result()
    return torch.from_numpy(sums)


@functools.lru_cache(maxsize=1)
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Helping threads. Of `process`, because a fork does not inherit its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="srdd-kernel")


@functools.cache
def _kernel(block: int, rounding: int, word: str) -> Callable[..., None]:
    """The compiled pass over rows, for a block's length, an index of ROUNDINGS and a word's type.

    What the inner function takes from here is constant to the compiler and part of the name under
    which numba keeps the result, next to this file or, if that is read-only, in the user's cache.
    """
    column_salt, key_salt, multipliers = COLUMN_SALT, KEY_SALT, MULTIPLIERS

    def run(
        words: Any,
        first: Any,
        stride: Any,
        channels: Any,
        keys: Any,
        layout: Any,
        grid: Any,
        sums: Any,
    ) -> None:  # pragma: no cover
        salts = (np.uint32(column_salt), np.uint32(multipliers[0]), np.uint32(multipliers[1]))
        ragged = channels % block
        rest = np.zeros(block, words.dtype)
        for token in range(keys.size):
            at = first + token * stride
            key = np.uint64(keys[token])
            row = _hash(np.uint32(key) + np.uint32(key_salt), salts)
            row = _hash(row ^ np.uint32(key >> np.uint64(32)), salts)
            total = sums[token]
            total[0] = 1
            for column in range(0, channels, block):
                source, place = words, at + column
                if column + block > channels:
                    rest[:ragged] = words[at + column : at + channels]
                    source, place = rest, 0
                _add_block(source, place, layout, grid, block, rounding, row, column, salts, total)
            total[1] = channels - total[2]

    integers = types.Tuple((types.int64, types.uint32, types.uint32, types.float32))
    numbers = types.Tuple((types.int64, types.uint32, types.uint32, types.int64, types.float32))
    signature = types.void(
        types.Array(getattr(types, word), 1, "C"),
        types.int64,
        types.int64,
        types.int64,
        types.Array(types.int64, 1, "C"),
        integers,
        numbers,
        types.Array(types.float64, 2, "C"),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", numba.NumbaWarning)
        try:
            return _compiled(signature, fastmath=_REORDER, cache=True)(run)
        except Exception:
            # No place to cache in, or a cache that is damaged or cannot be written: do without.
            return _compiled(signature, fastmath=_REORDER)(run)


def _compiled(*signature: Any, **options: Any) -> Callable[[Compiled], Compiled]:
    """numba.njit with what every function here needs, and a type."""
    jit = numba.njit(*signature, error_model="numpy", nogil=True, **options)
    return cast("Callable[[Compiled], Compiled]", jit)


@_compiled(forceinline=True, fastmath=False)
def _hash(word: Any, salts: Any) -> Any:  # pragma: no cover
    """srdd.kernels.eager._hash of a uint32."""
    word = np.uint32(word)
    word = np.uint32((word ^ (word >> np.uint32(16))) * salts[1])
    word = np.uint32((word ^ (word >> np.uint32(15))) * salts[2])
    return np.uint32(word ^ (word >> np.uint32(16)))


@_compiled(forceinline=True, fastmath=False)
def _draw(row: Any, column: Any, salts: Any) -> Any:  # pragma: no cover
    """srdd.kernels.eager._uniform of one value, from its row's hash."""
    word = _hash(_hash(np.uint32(column) + salts[0], salts) ^ row, salts)
    return np.float32(np.int32((word >> np.uint32(8)) | np.uint32(1))) * np.float32(2.0**-24)


@_compiled(forceinline=True, fastmath=False)
def _scaled(bits: Any, factor: Any, scale: Any) -> Any:  # pragma: no cover
    """The magnitude with these bits in units of its block's scale, |x| * 2^-E."""
    return np.uint32(bits).view(np.float32) * factor * scale


@_compiled(forceinline=True, fastmath=False)
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


@_compiled(inline="always")
def _add_block(
    words: Any,
    at: Any,
    layout: Any,
    grid: Any,
    block: Any,
    rounding: Any,
    row: Any,
    column: Any,
    salts: Any,
    total: Any,
) -> None:  # pragma: no cover
    """Add one block's sums to its row's `total`, (fields,).

    Arguments:
        words: the values' bits, one line of them.
        at: where in it the block starts.
        layout: shift, mask, limit and factor of LAYOUTS.
        grid: max_exponent, the least mantissa that rounds the scale up, 2^min_exponent's bits,
            mantissa_bits, largest.
        block: how many values.
        rounding: an index of ROUNDINGS.
        row: the hash of the row's key.
        column: that of the block's first value.
        salts: the hash's constants.
        total: in the order of srdd.sums.FIELDS.
    """
    shift, mask, limit, factor = layout
    max_exponent, round_up_from, least, mantissa_bits, largest = grid
    zero, one, tiny = np.float32(0), np.float32(1), np.float32(2.0**-126)

    top, nonfinite = np.uint32(0), zero
    for place in range(block):
        bits = np.uint32(np.uint32(words[np.uintp(at) + np.uintp(place)]) << shift) & mask
        top = max(top, np.uint32(bits) if bits < limit else np.uint32(0))
        nonfinite += np.float32(bits >= limit)
    total[2] += nonfinite
    if top == 0:
        return

    amax = _scaled(top, factor, one)
    exponent = 0
    if amax < tiny:  # subnormal: its exponent field says nothing
        amax, exponent = amax * np.float32(2.0**24), -24
    amax_bits = np.float32(amax).view(np.uint32)
    exponent += np.int64(amax_bits >> np.uint32(23)) - 127 - max_exponent
    if amax_bits & _MANTISSA_BITS >= round_up_from:
        exponent += 1
    exponent = max(MIN_SCALE_EXPONENT, min(MAX_SCALE_EXPONENT, exponent))
    scale = np.float32(np.int64((1023 - exponent) << 52).view(np.float64))

    nonzero = kept = saturated = zero
    v2 = e2 = clipped = v1 = e1 = relative = zero
    for place in range(block):
        bits = np.uint32(np.uint32(words[np.uintp(at) + np.uintp(place)]) << shift) & mask
        bits = np.uint32(bits) if bits < limit else np.uint32(0)
        v = _scaled(bits, factor, scale)
        draw = zero
        if rounding == STOCHASTIC:
            draw = _draw(row, column + place, salts)
        q = min(_to_grid(v, least, mantissa_bits, rounding, draw), largest)
        error = abs(v - q)
        # As numbers, for the compiler to keep the loop free of branches.
        some, keep, over = np.float32(bits != 0), np.float32(q > zero), np.float32(v > largest)
        nonzero += some
        kept += keep
        saturated += over
        v2 += v * v
        e2 += error * error
        clipped += over * (error * error)
        v1 += v
        e1 += error
        relative += keep * (error / max(v, tiny))
    # float64 has room for the square of any scale and for its product with a block's sum.
    wide = np.int64((1023 + exponent) << 52).view(np.float64)
    total[3] += nonzero
    total[4] += nonzero - kept
    total[5] += saturated
    total[6] += v2 * wide * wide
    total[7] += e2 * wide * wide
    total[8] += clipped * wide * wide
    total[9] += v1 * wide
    total[10] += e1 * wide
    total[11] += relative + (nonzero - kept)  # a flushed value is off by exactly all of itself
