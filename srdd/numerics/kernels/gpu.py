"""The GPU kernel: the reference, fused by torch.compile.

Plain torch reads and writes the whole tensor at every step; the compiler makes a few passes of the
same steps. Shapes are dynamic, so that a new number of tokens compiles nothing. Each pairing of
format, scale rule and rounding compiles once for each dtype.

Where compiling fails (no compiler, no Triton, an unsupported device), the reference takes over,
with one warning. Running out of memory is no such failure and is raised.

What has been tested is the compiler's CPU back end. On a GPU this module has not been run.
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from srdd.numerics.formats import FormatSpec
from srdd.numerics.kernels import eager

_given_up = False


def row_sums(x: Tensor, spec: FormatSpec, rounding: str, keys: Tensor) -> Tensor:
    """See srdd.numerics.kernels.row_sums; `keys` is not optional here."""
    global _given_up
    if not _given_up:
        try:
            return _compiled(spec, rounding)(x, keys)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            _given_up = True
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            warnings.warn(
                f"torch.compile failed, so the slower eager kernel measures instead: {reason}",
                RuntimeWarning,
                stacklevel=3,
            )
    return eager.row_sums(x, spec, rounding, keys)


@functools.cache
def _compiled(spec: FormatSpec, rounding: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The compiled reference for one format, scale rule and rounding."""

    def run(x: Tensor, keys: Tensor) -> Tensor:
        return eager.row_sums(x, spec, rounding, keys)

    # torch counts recompilations by code, and gives up after a few; all of these share their code.
    options: dict[str, Any] = {}
    if "isolate_recompiles" in inspect.signature(torch.compile).parameters:
        options["isolate_recompiles"] = True
    compiled: Callable[[Tensor, Tensor], Tensor] = torch.compile(run, dynamic=True, **options)
    return compiled
