"""The rotation of `+hadamardN` on the CPU: rows turned on their way into the fused pass.

A thread turns a few rows into a float32 scratch that stays in its cache, and measures them there.
Each value comes of the same sums and differences, in the same order, as in kernels.rotation,
and is the same to the last bit:

1. Values become float32, with their column's sign. One that is not finite becomes NaN.
2. The first four steps pair values that are 1, 2, 4 and 8 apart. They work on LANES values in one
   register: the values change places, half of those that stood there change sign, and the two are
   added. No loop says this to the compiler, so its instructions are put together here: as loops,
   the whole pass of mxfp4+hadamard32 took 1.3 times as long.
3. Further steps pair values in different registers: plain loops.

A row is padded with zeros to whole registers; where N is less than LANES, one holds several groups.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from srdd.numerics.kernels import rotation
from srdd.numerics.kernels.compiling import LAYOUTS, array_of, compiled_once, word_type

LANES = 16
"""The values of one register; processors with shorter ones use several for it."""

llvm = cgutils.ir
"""By way of numba, because the two have to fit."""


@functools.lru_cache(maxsize=64)
def flips(columns: int) -> NDArray[np.uint32]:
    """For each column the bit that its sign changes."""
    negative = rotation.signs(columns, torch.device("cpu")) < 0
    return negative.numpy().astype(np.uint32) << np.uint32(31)


@functools.cache
def kernel(size: int, dtype: torch.dtype) -> Callable[..., None]:
    """The compiled rotation of rows, for N and a dtype.

    Its arguments: the words of a tensor, the place of its first value, the distance between rows,
    their length, `flips`, and float32 (rows, at least that length, a multiple of LANES), which are
    zeros beyond that length, and where the result goes.
    """
    _, mask, limit, shift, factor = LAYOUTS[dtype]
    word = word_type(dtype)
    to_sign = 32 - 8 * np.dtype(word).itemsize
    unit = np.float32(size**-0.5)

    def run(
        words: Any, first: Any, stride: Any, channels: Any, flips: Any, z: Any
    ) -> None:  # pragma: no cover
        for token in range(z.shape[0]):
            start = first + token * stride
            row = z[token]
            for column in range(channels):
                given = words[np.uintp(start + column)]
                bits = word(given & word(mask))
                value = np.uint32(np.uint32(bits) << np.uint32(shift)).view(np.float32)
                value = value * np.float32(factor) if bits < word(limit) else np.float32(np.nan)
                sign = np.uint32(word(given ^ bits)) << np.uint32(to_sign)
                sign = np.uint32(sign ^ flips[np.uintp(column)])
                turned = np.uint32(np.float32(value).view(np.uint32) ^ sign)
                row[np.uintp(column)] = turned.view(np.float32)
            for at in range(0, channels, LANES):
                _turn_register(row, np.uintp(at), size)
            if size > LANES:
                for group in range(0, channels, size):
                    half = LANES
                    while half < size:
                        for pair in range(group, group + size, 2 * half):
                            for left in range(pair, pair + half):
                                a, b = row[np.uintp(left)], row[np.uintp(left + half)]
                                row[np.uintp(left)] = a + b
                                row[np.uintp(left + half)] = a - b
                        half *= 2
            for column in range(channels):
                row[np.uintp(column)] *= unit

    return compiled_once(
        run,
        array_of(word),
        *(3 * [types.int64]),
        array_of(np.uint32),
        array_of(np.float32, 2),
    )


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _turn_register(typing: Any, row: Any, at: Any, size: Any) -> Any:
    """The steps of a Hadamard transform of `size` within the LANES values of `row` from `at` on."""

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        floats = llvm.VectorType(llvm.FloatType(), LANES)
        words = llvm.VectorType(llvm.IntType(32), LANES)
        place = builder.bitcast(builder.gep(array.data, [arguments[1]]), floats.as_pointer())
        values = builder.load(place, align=4)
        half = 1
        while half < min(signature.args[2].literal_value, LANES):
            partners = llvm.Constant(words, [lane ^ half for lane in range(LANES)])
            second = llvm.Constant(words, [(lane & half != 0) << 31 for lane in range(LANES)])
            other = builder.shuffle_vector(values, values, partners)
            bits = builder.xor(builder.bitcast(values, words), second)
            values = builder.fadd(other, builder.bitcast(bits, floats))
            half *= 2
        builder.store(values, place, align=4)
        return context.get_dummy_value()

    return types.void(row, at, size), build
