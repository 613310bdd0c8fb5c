"""Quantize a tensor, or measure what quantizing it does.

    fake_quantize   the values that a tensor is read back as
    measure         the metrics of that error, pooled over the tensor

Both name the format as `mxfp4` or, with the scale rule, `mxfp4:rceil`, and cut the last axis into
blocks. With `mxfp4+hadamard32`, groups of 32 values are rotated first and the result is rotated
back; `measure` then counts deadzone, saturation and relative errors on the rotated values, which
the hardware sees, while the SQNR is the same on both sides. For `stochastic` rounding a value's
draw follows from the seed, its row (the leading axes taken together) and its column, so both
functions see the same quantized values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from srdd.errors import UsageError
from srdd.numerics import kernels, metrics
from srdd.numerics.formats import check_rounding, check_seed, parse_spec
from srdd.numerics.sums import INDEX

Values: TypeAlias = Tensor | NDArray[Any] | Sequence[Any]
"""What can be quantized."""


@torch.no_grad()
def fake_quantize(x: Values, format: str, rounding: str = "even", seed: int = 0) -> Tensor:
    """Round `x` to a format and back.

    Arguments:
        x: (..., channels), at least one axis; bfloat16, float16 or float32, on any device. Numpy
            arrays and nested lists of numbers become float32 tensors.
        format: `name` or `name:rule`, for example `mxfp4:floor`.
        rounding: one of srdd.numerics.formats.ROUNDINGS.
        seed: for `stochastic`, in 0 ... 2^31 - 1.

    Returns:
        The dequantized values, with x's shape, dtype and device, detached from autograd. NaN and
        infinity stay as they are. A value next to the dtype's largest can round up and out of its
        range; then it becomes the dtype's largest, not infinity.

    Raises:
        UsageError: an unknown format, rule, rounding, or a tensor that is none of the above.
    """
    spec = parse_spec(format)
    check_rounding(rounding)
    x = _tensor(x)
    rows = _rows(x)
    if x.device.type == "mps":
        return fake_quantize(x.cpu(), format, rounding, seed).to(x.device)
    return kernels.quantize(rows, spec, rounding, _keys(rows, seed)).reshape(x.shape)


def measure(
    x: Values, format: str, rounding: str = "even", seed: int = 0
) -> dict[str, float | None]:
    """What rounding `x` to a format does to it, for arguments as in `fake_quantize`.

    Returns:
        `tokens` (rows), `elements` (finite values), `nonfinite` (values left out of all else), and
        the pooled metrics of metrics by name; shares are fractions. An undefined metric, as
        the SQNR of an exact result is, is None.

    Raises:
        UsageError: as for `fake_quantize`.
    """
    spec = parse_spec(format)
    check_rounding(rounding)
    rows = _rows(_tensor(x))
    sums = kernels.row_sums(rows, spec, rounding, _keys(rows, seed)).sum(0).cpu().numpy()
    counts = {name: float(sums[INDEX[name]]) for name in ("tokens", "elements", "nonfinite")}
    derived = {name: float(value) for name, value in metrics.derive(sums).items()}
    return {
        **counts,
        **{name: None if math.isnan(value) else value for name, value in derived.items()},
    }


def _tensor(x: Values) -> Tensor:
    """A tensor as it is; other numbers as float32."""
    if isinstance(x, Tensor):
        return x
    try:
        return torch.tensor(np.asarray(x, dtype=np.float32))
    except (TypeError, ValueError):
        raise UsageError(
            f"x is a {type(x).__name__} that is not a block of numbers",
            "give a torch tensor, a numpy array or nested lists of numbers of equal length",
        ) from None


def _rows(x: Tensor) -> Tensor:
    """`x` (..., channels) as (tokens, channels), checked."""
    if x.ndim == 0:
        raise UsageError(
            "x is a single number; blocks need an axis to lie along",
            "give it one, for example with x.reshape(1)",
        )
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    kernels.check_input(rows)
    return rows


def _keys(rows: Tensor, seed: int) -> Tensor:
    """A key for each row: the seed above, the row's number below."""
    return torch.arange(rows.shape[0], device=rows.device) + (check_seed(seed) << 32)
