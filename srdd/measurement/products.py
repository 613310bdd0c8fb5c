"""Products: what quantizing the operands of a linear does to its output.

For inputs x (tokens, in), a weight W (out, in), the quantized values x' and W' and the errors
dx = x' - x, dW = W' - W, the product y = x W^T is off by

    weight   x dW^T                          W4A16, where the format has 4 bits
    input    dx W^T                          W16A4
    both     x' W'^T - x W^T = x dW^T + dx W^T + dx dW^T      W4A4

All products are of float32 values added up in float32, and each error is computed from the errors
of the operands: the difference of two products that agree in most of their digits would carry the
rounding of both. A bias is not part of the product; it is not quantized, and a large one would hide
the error.

Outputs are not rounded, so nothing is flushed or saturated, and an error over an output near zero
says nothing: of `sums`, the fields `flushed`, `saturated`, `clipped_e2` and `relative` stay 0.
Where the errors of both operands are independent, their energies add.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from srdd.documents.scan import Operands
from srdd.measurement.plan import Plan
from srdd.model.linears import Weight
from srdd.numerics.formats import FormatSpec
from srdd.numerics.kernels import quantize
from srdd.numerics.sites import OPERANDS
from srdd.numerics.sums import FIELDS, INDEX

LARGEST = 1e18
"""Magnitude from which on an output counts as not finite: its square leaves float32."""

Key = tuple[FormatSpec, Operands]


@torch.no_grad()
def product_sums(
    x: Tensor, weight: Weight, plan: Plan, keys: Tensor | None, counts: Tensor | None = None
) -> Mapping[Key, Tensor]:
    """Sums of the error of x W^T, for each format and choice of quantized operands.

    Arguments:
        x: (tokens, in), of a dtype that kernels take; `in` is the weight's.
        weight: of a single linear, usable.
        plan: with the formats of both operands, the rounding, and the seed of the weight's.
        keys: (tokens,) int64, for the stochastic rounding of x, as in `kernels.row_sums`.
        counts: (tokens,) bool, which rows count; the others have no part in a scale over the whole
            of x. None: all.

    Returns:
        float64 (tokens, fields) for each; `elements` are the outputs.
    """
    device = with_float64(x.device)
    keys = torch.arange(len(x), device=device) if keys is None else keys.to(device)
    wide = x.to(device).float()
    dx = {}
    for spec in plan.specs:
        kept = wide
        if spec.scale_rule == "tensor" and counts is not None:
            kept = torch.where(counts.to(device)[:, None], wide, 0)
        dx[spec] = quantize(kept, spec, plan.rounding, keys) - kept
    result: dict[Key, Tensor] = {}
    for part, draws, specs in weight.parts(plan.specs, plan.seed):
        w = part.to(device).float().contiguous()
        y = wide @ w.t()
        for spec in specs:
            dw = quantize(w, spec, plan.rounding, draws.to(device)) - w
            by_weight, by_input = wide @ dw.t(), dx[spec] @ w.t()
            by_both = (dx[spec] @ dw.t()).add_(by_weight).add_(by_input)
            for operands, error in zip(OPERANDS, (by_weight, by_input, by_both), strict=True):
                sums, key = _sums(y, error), (spec, operands)
                result[key] = result[key] + sums if key in result else sums
    for sums in result.values():
        sums[:, INDEX["tokens"]] = 1.0
    return result


def with_float64(device: torch.device) -> torch.device:
    """Where products of tensors on a device are measured: MPS has no float64, so on the CPU."""
    return torch.device("cpu") if device.type == "mps" else device


def _sums(y: Tensor, error: Tensor) -> Tensor:
    """Outputs and their errors (tokens, out) -> sums (tokens, fields), but for `tokens`."""
    finite = (y.abs() < LARGEST) & (error.abs() < LARGEST)  # NaN compares false
    y, error = torch.where(finite, y, 0.0), torch.where(finite, error, 0.0)
    sums = torch.zeros(len(y), len(FIELDS), dtype=torch.float64, device=y.device)
    for name, terms in (
        ("elements", finite),
        ("nonfinite", ~finite),
        ("nonzero", y != 0),
        ("x2", y.square()),
        ("e2", error.square()),
        ("abs_x", y.abs()),
        ("abs_e", error.abs()),
    ):
        sums[:, INDEX[name]] = terms.sum(-1, dtype=torch.float64)
    return sums
