"""An operand in quantized form: its gradient, and what is kept of a weight until it changes.

A weight is quantized when it is first needed and kept until it changes. Optimizers and other
in-place operations are noticed from the tensor's version, another tensor or storage in its place
from its identity. Writing through `.data` leaves no trace in the version, so on the CPU some values
of each weight are compared, too: this finds whatever changes the whole weight. What changes a few
values through `.data` only, or anything through `.data` on a GPU, is not seen: then
`Simulation.refresh()` has to be called.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from srdd.numerics.formats import FormatSpec
from srdd.numerics.quantize import fake_quantize

Check = Callable[[], None] | None
"""Called in a backward pass, if anything; raises where its gradients would be wrong."""

SAMPLES = 16
"""Along each axis of a weight, about so many values are compared."""


class _PassThrough(torch.autograd.Function):
    """The quantized values forward, the gradient unchanged backward."""

    @staticmethod
    def forward(ctx: Any, original: Tensor, quantized: Tensor, check: Check) -> Tensor:
        ctx.check = check
        return quantized.view_as(quantized)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        if ctx.check is not None:
            ctx.check()
        return gradient, None, None


def _joined(original: Tensor, quantized: Tensor, check: Check) -> Tensor:
    """`quantized`, connected to `original` where a backward pass may follow."""
    if not (torch.is_grad_enabled() and original.requires_grad):
        return quantized
    joined: Tensor = _PassThrough.apply(original, quantized, check)  # type: ignore[no-untyped-call]
    return joined


def _rounded(x: Tensor, spec: FormatSpec) -> Tensor:
    """`x` (..., channels) rounded to a format; float64 goes through float32."""
    narrow = x.float() if x.dtype == torch.float64 else x
    return fake_quantize(narrow, str(spec)).to(x.dtype)


def quantized_input(x: Tensor, spec: FormatSpec | None, check: Check) -> Tensor:
    """`x` (..., channels) rounded to a format, with a gradient that passes straight through."""
    if spec is None:
        return x if check is None else _joined(x, x.detach(), check)
    return _joined(x, _rounded(x.detach(), spec), check)


@dataclass(frozen=True)
class _Kept:
    """A quantized weight, and how the weight was when it was quantized."""

    weight: Tensor
    state: tuple[object, ...]
    sample: Tensor | None
    values: Tensor

    def is_of(self, weight: Tensor) -> bool:
        if weight is not self.weight or _state(weight) != self.state:
            return False
        return self.sample is None or torch.equal(_places(weight), self.sample)


class Operand:
    """A weight in quantized form, kept while the weight does not change.

    Arguments:
        spec: its format; None leaves the weight as it is.
        transposed: whether it is stored as (..., in, out) rather than (..., out, in).
    """

    def __init__(self, spec: FormatSpec | None, transposed: bool) -> None:
        self._spec = spec
        self._transposed = transposed
        self._kept: _Kept | None = None

    def forget(self) -> None:
        """Quantize again at the next use."""
        self._kept = None

    def quantized(self, weight: Tensor, check: Check) -> Tensor:
        """What stands in for `weight`, connected to it for the backward pass."""
        if self._spec is None:
            return weight
        if self._kept is None or not self._kept.is_of(weight):
            self._kept = None  # its memory is free before the new values take theirs
            self._kept = self._quantize(weight, self._spec)
        return _joined(weight, self._kept.values, check)

    def _quantize(self, weight: Tensor, spec: FormatSpec) -> _Kept:
        # What is made in inference mode could not take part in a backward pass later on.
        with torch.inference_mode(False), torch.no_grad():
            rows = weight.detach().transpose(-1, -2) if self._transposed else weight.detach()
            # Each expert is a tensor of its own, which matters to a scale over a whole tensor.
            parts = [_rounded(expert, spec) for expert in rows] if rows.ndim == 3 else []
            values = torch.stack(parts) if parts else _rounded(rows, spec)
            values = values.transpose(-1, -2) if self._transposed else values
            sample = _places(weight).clone() if weight.device.type == "cpu" else None
            return _Kept(weight, _state(weight), sample, values)


def _state(weight: Tensor) -> tuple[object, ...]:
    """What differs once a weight has been moved, converted or changed in place."""
    version = None if weight.is_inference() else weight._version
    return weight.data_ptr(), version, weight.device, weight.dtype


def _places(weight: Tensor) -> Tensor:
    """A few values from all over a weight, as bits, so that NaN equals itself."""
    steps = tuple(slice(None, None, max(1, size // SAMPLES)) for size in weight.shape)
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[weight.element_size()]
    return weight.detach()[steps].view(integer)
