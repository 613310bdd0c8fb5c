"""A tensor's rows on their way into the compiled kernels: as words, a chunk at a time, rotated.

Rows that are to be rotated pass through a scratch of the thread that reads them, which is small
enough to stay in its core's cache until they have been measured.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numba import types
from numpy.typing import NDArray
from torch import Tensor

from srdd.numerics.kernels import cpu_rotation, threads
from srdd.numerics.kernels.compiling import LAYOUTS, array_of, as_words, compiled_once, word_type

CHUNK = 1 << 18
"""Values that a thread takes at a time: a fraction of a millisecond, far above the overhead."""

ROTATED = 1 << 16
"""The same where they are rotated first: 256 KB, a part of what a core's own cache holds."""


def starts(x: Tensor, rotation: int = 0) -> range:
    """The first rows of chunks of `x` (tokens, channels)."""
    return range(0, x.shape[0], max(1, (ROTATED if rotation else CHUNK) // max(1, x.shape[1])))


def chunks(
    x: Tensor, rotation: int, tile: int, mine: Iterator[int]
) -> Iterator[tuple[int, NDArray[Any], int, int]]:
    """The chunks that begin at `mine`, some of `starts`, for one thread.

    Arguments:
        x: (tokens, channels), columns one apart, of whole tiles unless they are rotated.
        rotation: how many channels are rotated together, a power of two; 0 is none.
        tile: how many values are read together, a power of two.

    Yields:
        The start, an array of words, where in it the first row begins, and how far on the next
        does. Rotated rows are float32, zeros up to a whole tile, and stay until the next chunk.
    """
    words, stride = as_words(x), x.stride(0)
    if not rotation:
        for start in mine:
            yield start, words, start * stride, stride
        return
    tokens, channels = x.shape
    turn = cpu_rotation.kernel(rotation, x.dtype)
    flips = cpu_rotation.flips(channels)
    room = max(tile, cpu_rotation.LANES)
    width = -(-channels // room) * room
    scratch = np.zeros((min(starts(x, rotation).step, tokens), width), np.float32)
    for start in mine:
        turn(words, start * stride, stride, channels, flips, scratch[: tokens - start])
        yield start, scratch.reshape(-1).view(np.uint32), 0, width


def largest(x: Tensor, rotation: int = 0) -> np.float32:
    """The largest finite magnitude of `x`, as in `chunks`, once rotated; 0 if there is none."""
    tokens, channels = x.shape
    dtype = torch.float32 if rotation else x.dtype
    find = _largest_bits(dtype)
    every = starts(x, rotation)
    found = [0]

    def work(mine: Iterator[int]) -> None:
        for start, words, first, stride in chunks(x, rotation, 1, mine):
            rows = min(every.step, tokens - start)
            found.append(find(words, first, stride, channels, rows))

    threads.share(work, every)
    _, _, _, shift, factor = LAYOUTS[dtype]
    return np.float32(np.uint32(max(found) << shift).view(np.float32) * np.float32(factor))


@functools.cache
def _largest_bits(dtype: torch.dtype) -> Callable[..., int]:
    """The compiled search of some rows for their largest finite magnitude, as bits."""
    _, mask, limit, _, _ = LAYOUTS[dtype]
    word = word_type(dtype)

    def run(
        words: Any, first: Any, stride: Any, channels: Any, rows: Any
    ) -> Any:  # pragma: no cover
        top = word(0)
        for row in range(rows):
            start = first + row * stride
            for column in range(channels):
                bits = word(words[np.uintp(start + column)] & word(mask))
                top = max(top, bits if bits < word(limit) else word(0))
        return top

    return compiled_once(run, array_of(word), *(4 * [types.int64]), returns=types.int64)
