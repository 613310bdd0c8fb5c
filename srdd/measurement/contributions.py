"""What a change of one linear's operands does to the loss, to first order.

For inputs x (rows, in), a weight W (out, in), the quantized values x' and W' and the gradient g of
the loss with respect to the output, a row's contribution is the sum over channels of g * dY with

    weight   dY = x (W' - W)^T
    input    dY = (x' - x) W^T
    both     dY = x' W'^T - x W^T

The squared gradient of the weight, of one prompt, is what noise on it costs: for the prompt's rows
X and G it is

    || G^T X ||^2 = sum over pairs of rows t, u of (g_t . g_u) (x_t . x_u)

which needs no matrix of the weight's size; where the prompt is so long that the matrix takes less
work, it is formed. Products run in float32, in bfloat16 on a GPU where x is, and in float64 for a
model in float64. Errors are those of the operands, never differences of products.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from srdd.documents.scan import Operands
from srdd.model.linears import Weight
from srdd.numerics.formats import FormatSpec
from srdd.numerics.kernels import quantize

Key = tuple[FormatSpec, Operands]

ROWS = 1024
"""Rows of an expert whose pairs with all others are taken at a time."""

ORDER: tuple[Operands, ...] = ("weight", "input", "both")


@torch.no_grad()
def contributions(
    x: Tensor,
    g: Tensor,
    weight: Weight,
    specs: Sequence[FormatSpec],
    *,
    rounding: str = "even",
    keys: Tensor | None = None,
    seed: int = 0,
) -> Mapping[Key, Tensor]:
    """For each format and choice of operands, (samples, rows) float64: sum over channels of g dY.

    Arguments:
        x: (rows, in).
        g: (samples, rows, out).
        keys: (rows,) int64, for stochastic rounding of x.
        seed: for stochastic rounding of the weight.
    """
    if keys is None:
        keys = torch.arange(len(x), device=x.device)
    dtype = working_dtype(x)
    totals: dict[Key, Tensor] = {}
    rows = x.to(dtype)
    dx = {spec: _error(x, spec, rounding, keys).to(dtype) for spec in specs}
    for whole in (False, True):  # a scale over the whole tensor needs all of it at once
        chosen = [spec for spec in specs if (spec.scale_rule == "tensor") == whole]
        for done, part in _slices(weight, whole) if chosen else ():
            w = part.to(dtype)
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            here = g[:, :, done : done + len(part)].to(wide).transpose(0, 1)
            names = weight.keys(done, len(part), seed)
            for spec in chosen:
                dw = _error(part, spec, rounding, names).to(dtype)
                by_weight, by_input = rows @ dw.t(), dx[spec] @ w.t()
                by_both = (dx[spec] @ dw.t()).add_(by_weight).add_(by_input)
                changes = torch.stack([by_weight, by_input, by_both], 2).to(here.dtype)
                found = torch.bmm(here, changes).double()  # (rows, samples, 3)
                for place, operands in enumerate(ORDER):
                    key = (spec, operands)
                    term = found[:, :, place].t()
                    totals[key] = totals[key] + term if key in totals else term
    return totals


@torch.no_grad()
def squared_gradients(x: Tensor, g: Tensor) -> Tensor:
    """|| G^T X ||^2 of each sample and prompt, float64 (samples, prompts).

    Arguments:
        x: (prompts, rows, in); rows that do not count have a gradient of 0.
        g: (samples, prompts, rows, out).
    """
    dtype = working_dtype(x)
    x = x.to(dtype)
    samples, prompts, rows, outs = g.shape
    ins = x.shape[-1]
    by_pairs = rows * (ins + outs) < ins * outs
    total = torch.zeros(samples, prompts, dtype=torch.float64, device=x.device)
    pairs = x @ x.transpose(1, 2) if by_pairs else None
    for sample in range(samples):
        here = g[sample].to(dtype)
        if pairs is not None:
            products = (here @ here.transpose(1, 2)).mul_(pairs)
        else:
            products = (here.transpose(1, 2) @ x).square_()
        total[sample] = products.flatten(1).sum(1, dtype=torch.float64)
    return total.clamp_(min=0)


@torch.no_grad()
def squared_gradients_of_rows(x: Tensor, g: Tensor, prompt: Tensor, prompts: int) -> Tensor:
    """The same where a prompt's rows lie anywhere, as those that an expert is given.

    Arguments:
        x: (rows, in).
        g: (samples, rows, out).
        prompt: (rows,) int64, which prompt each row belongs to.
    """
    dtype = working_dtype(x)
    x = x.to(dtype)
    total = torch.zeros(len(g), prompts, dtype=torch.float64, device=x.device)
    for start in range(0, len(x), ROWS):
        part = slice(start, start + ROWS)
        pairs = (x[part] @ x.t()) * (prompt[part, None] == prompt)
        for sample in range(len(g)):
            here = g[sample].to(dtype)
            products = (here[part] @ here.t()).mul_(pairs).sum(1, dtype=torch.float64)
            total[sample].index_add_(0, prompt[part], products)
    return total.clamp_(min=0)


def working_dtype(x: Tensor) -> torch.dtype:
    """The type that products run in; float16 would overflow in products of inputs."""
    if x.dtype == torch.float64 or (x.device.type == "cuda" and x.dtype == torch.bfloat16):
        return x.dtype
    return torch.float32


def _error(x: Tensor, spec: FormatSpec, rounding: str, keys: Tensor) -> Tensor:
    """The error x' - x (rows, channels), rounded from float32, subtracted in x's precision."""
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return quantize(x.float().contiguous(), spec, rounding, keys).to(wide) - x


def _slices(weight: Weight, whole: bool) -> Iterator[tuple[int, Tensor]]:
    """As Weight.slices, but in float64 where the weight is."""
    if weight.data.dtype != torch.float64:
        yield from weight.slices(whole)
    else:
        yield 0, weight.data.t() if weight.transposed else weight.data
