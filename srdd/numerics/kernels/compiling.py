"""What the CPU's compiled kernels share: how values are read as bits, and numba's settings.

Kernels take a tensor as one line of unsigned integers of the values' size (`as_words`). Shifted
left, the bits of a bfloat16 or float16 are those of a float32, but for a factor of 2^112 that
float16's smaller exponent bias leaves. So one code reads all three types.

Numba keeps what it has compiled next to the file that the function is in or, if that is read-only,
in the user's cache. An entry's name holds the constants that the function takes from around it, and
its age is compared with that one file: functions that a kernel calls belong in the kernel's file.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import torch
from numba import types
from numpy.typing import NDArray
from torch import Tensor

Compiled = TypeVar("Compiled", bound=Callable[..., Any])

LAYOUTS = {
    torch.bfloat16: (torch.int16, 0x7FFF, 0x7F80, 16, 1.0),
    torch.float16: (torch.int16, 0x7FFF, 0x7C00, 13, 2.0**112),
    torch.float32: (torch.int32, 0x7FFFFFFF, 0x7F800000, 0, 1.0),
}
"""dtype -> integers of its size, mask of the bits of a magnitude, the first of them that is not
finite, left shift to float32's fields, and the factor that makes such a float32 the value."""


def word_type(dtype: torch.dtype) -> Any:
    """The unsigned integer of numpy that has a dtype's size."""
    return np.uint16 if LAYOUTS[dtype][0] is torch.int16 else np.uint32


def as_words(x: Tensor) -> NDArray[Any]:
    """The bits of `x` (rows, columns), columns one apart, from its first value to its last.

    Nothing is copied. Rows may overlap or leave gaps: row i begins at i * x.stride(0).
    """
    length = (x.shape[0] - 1) * x.stride(0) + x.shape[1] if x.numel() else 0
    line = x.detach().as_strided((length,), (1,)).view(LAYOUTS[x.dtype][0])
    return line.numpy().view(word_type(x.dtype))


def array_of(number: Any, dimensions: int = 1) -> Any:
    """Numba's type of a contiguous array of numpy's `number`."""
    return types.Array(numba.from_dtype(np.dtype(number)), dimensions, "C")


def compiled(*signature: Any, **options: Any) -> Callable[[Compiled], Compiled]:
    """numba.njit with what every function here needs, and a type."""
    jit = numba.njit(*signature, error_model="numpy", nogil=True, **options)
    return cast("Callable[[Compiled], Compiled]", jit)


def compiled_once(
    run: Compiled, *parameters: Any, returns: Any = types.void, **options: Any
) -> Compiled:
    """`run` for numba's types `parameters`; kept on disk if that works."""
    signature = returns(*parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", numba.NumbaWarning)
        try:
            return compiled(signature, cache=True, **options)(run)
        except Exception:
            # No place to cache in, or a cache that is damaged or cannot be written: do without.
            return compiled(signature, **options)(run)
