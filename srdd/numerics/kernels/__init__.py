"""Kernels: one signature, several implementations of it.

    row_sums(x, spec, rounding, keys) -> sums per row, float64 (tokens, 12)

What every kernel does with `x` (tokens, channels), a row at a time:

0. Where the format says so, groups of channels are rotated (kernels.rotation), and the rest is
   about the rotated values.
1. The row is cut into blocks along the channels; a ragged last block is padded with zeros, and no
   block crosses rows. Non-finite values are counted and otherwise treated as zeros.
2. A block's largest magnitude gives its scale s (srdd.numerics.formats).
3. The scaled magnitude v = |x| / s is rounded to the grid and clamped to its largest value: q.
4. Sums over the block are taken of v, v - q and the like, in float32 and without the scale: squares
   of huge and tiny values stay in range. Times s or s^2, they are added up in float64.

| kernel | runs on | how |
|---|---|---|
| `eager` | any device with float64 | plain torch, the reference for the others |
| `cpu` | CPU | one fused pass, compiled by numba |
| `gpu` | CUDA | the reference, fused by torch.compile |

Counts agree exactly between kernels, sums to a relative 1e-6. None waits for the device. A row's
result depends on that row and its key alone: not on the batch it came in, nor on the threads. The
one exception is a scale rule `tensor`: it looks at all rows given at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from srdd.errors import UsageError, unknown_name
from srdd.numerics.formats import FormatSpec
from srdd.numerics.kernels import eager, rotation

KERNELS = ("auto", "eager", "cpu", "gpu")
"""What `kernel` may be; `auto` follows the device."""

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""What can be measured."""


def kernel_name(device: torch.device) -> str:
    """The kernel that `auto` means on a device."""
    return {"cpu": "cpu", "cuda": "gpu"}.get(device.type, "eager")


@torch.no_grad()
def row_sums(
    x: Tensor,
    spec: FormatSpec,
    rounding: str = "even",
    keys: Tensor | None = None,
    kernel: str = "auto",
) -> Tensor:
    """What quantizing each row of `x` does to it, as additive sums.

    Arguments:
        x: (tokens, channels), one of DTYPES, any strides, either of them possibly 0.
        spec: the format and its scale rule.
        rounding: one of srdd.numerics.formats.ROUNDINGS.
        keys: (tokens,) int64 on x's device, for `stochastic` only: what names a row's random
            stream; a value's draw follows from its row's key and its column. None: 0, 1, 2, ...
        kernel: one of KERNELS.

    Returns:
        float64 (tokens, len(sums.FIELDS)) on x's device; its field `tokens` is 1. MPS has no
        float64: from there, x is measured on the CPU and the result stays on it.

    Raises:
        UsageError: x, keys or kernel is none of the above.
    """
    check_input(x)
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    if x.device.type == "mps":
        x, keys = x.cpu(), None if keys is None else keys.cpu()
    if keys is None:
        keys = torch.arange(x.shape[0], device=x.device)
    if keys.shape != x.shape[:1] or keys.dtype != torch.int64 or keys.device != x.device:
        raise UsageError(
            f"keys are {tuple(keys.shape)} {keys.dtype} on {keys.device}, "
            f"the rows they name {tuple(x.shape)} on {x.device}",
            "give one int64 key for each row of x, on its device",
        )
    name = kernel_name(x.device) if kernel == "auto" else kernel
    if name == "cpu" and x.device.type != "cpu":
        raise UsageError(
            f"the cpu kernel cannot read a tensor on {x.device}",
            'choose kernel="auto", or move the tensor with .cpu()',
        )
    if spec.format.rotation:
        rotation.check_channels(x.shape[1], spec.format)
        if name != "cpu":  # which does so itself
            x = rotation.rotate(x, spec.format.rotation)
    # Imported where they are used: numba alone takes longer to import than a small scan to run.
    if name == "cpu":
        from srdd.numerics.kernels import cpu

        return cpu.row_sums(x, spec, rounding, keys)
    if name == "gpu":
        from srdd.numerics.kernels import gpu

        return gpu.row_sums(x, spec, rounding, keys)
    return eager.row_sums(x, spec, rounding, keys)


@torch.no_grad()
def quantize(
    x: Tensor, spec: FormatSpec, rounding: str, keys: Tensor, kernel: str = "auto"
) -> Tensor:
    """The values that `x` is read back as, for checked arguments as in `row_sums`.

    Arguments:
        kernel: `eager`, or `auto` for the fused one on the CPU; both give the same bits.

    Returns:
        (tokens, channels) of x's dtype. Non-finite values come back as they are, zeros with their
        sign. A value that rounds beyond the dtype's largest becomes that.

    Raises:
        UsageError: the format rotates groups of channels, and x has no whole number of them.
    """
    size = spec.format.rotation
    if size:
        rotation.check_channels(x.shape[1], spec.format)
        z = _quantize(rotation.rotate(x, size), spec, rounding, keys, kernel)
        y = rotation.unrotate(z, size)
        return _narrow(torch.where(torch.isfinite(y), y, x.float()), x)  # a group with a NaN in it
    return _quantize(x, spec, rounding, keys, kernel)


@torch.no_grad()
def codes(x: Tensor, spec: FormatSpec) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scales, scaled magnitudes, elements and values of `x` (tokens, channels), by block.

    As srdd.numerics.kernels.eager.codes; of a format with a rotation, those of the rotated values.

    Raises:
        UsageError: as `row_sums`.
    """
    check_input(x)
    if spec.format.rotation:
        rotation.check_channels(x.shape[1], spec.format)
        x = rotation.rotate(x, spec.format.rotation)
    return eager.codes(x, spec)


def _quantize(x: Tensor, spec: FormatSpec, rounding: str, keys: Tensor, kernel: str) -> Tensor:
    if kernel == "auto" and x.device.type == "cpu":
        from srdd.numerics.kernels import cpu

        return cpu.quantize(x, spec, rounding, keys)
    return _narrow(eager.quantize(x, spec, rounding, keys), x)


def _narrow(y: Tensor, x: Tensor) -> Tensor:
    """`y`, float32, in x's dtype; what was finite in x stays so."""
    limit = torch.finfo(x.dtype).max
    return torch.where(torch.isfinite(x), y.clamp(-limit, limit), y).to(x.dtype)


def check_input(x: Tensor) -> None:
    """Accept (tokens, channels) in one of DTYPES.

    Raises:
        UsageError: another number of dimensions or another dtype.
    """
    if x.ndim != 2:
        raise UsageError(
            f"x has {x.ndim} dimensions, shape {tuple(x.shape)}; rows are measured",
            "bring it to (tokens, channels) with x.reshape(-1, x.shape[-1])",
        )
    if x.dtype not in DTYPES:
        raise UsageError(
            f"x is {str(x.dtype).removeprefix('torch.')}, which has no kernel",
            "convert it first, for example with x.to(torch.float32)",
        )
