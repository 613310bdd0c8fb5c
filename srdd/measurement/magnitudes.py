"""How large the weights are that noise falls on: what decides how much of it survives rounding."""

from __future__ import annotations

import torch
from torch import Tensor

from srdd.documents.sensitivity import Magnitudes
from srdd.numerics.arriving import LEAST_EXPONENT, TYPES

AT_ONCE = 1 << 24
"""Elements that are sorted into binades at a time."""


@torch.no_grad()
def magnitudes_of(weight: Tensor, costs: Tensor | None = None) -> Magnitudes | None:
    """The binades that the values of a weight lie in, each with its share of what noise costs.

    Arguments:
        weight: of any shape.
        costs: of each element, what noise of variance 1 on it costs; alike for None.

    Returns:
        None where the values are not in memory, not of a type in `arriving.TYPES`, or not finite.
    """
    dtype = str(weight.dtype).removeprefix("torch.")
    if weight.is_meta or dtype not in TYPES or not weight.numel():
        return None
    flat = weight.detach().reshape(-1)
    if costs is not None and (costs.numel() != flat.numel() or not float(costs.sum()) > 0):
        costs = None
    sums = torch.zeros(2, MOST - LEAST_EXPONENT + 1, dtype=torch.float64)
    for start in range(0, len(flat), AT_ONCE):
        part = flat[start : start + AT_ONCE]
        if not bool(part.isfinite().all()):
            return None
        mantissa, exponent = torch.frexp(part.to(torch.promote_types(part.dtype, torch.float32)))
        exponent = torch.where(mantissa == 0, LEAST_EXPONENT, exponent - 1)
        place = exponent.clamp(LEAST_EXPONENT, MOST).long() - LEAST_EXPONENT
        exact = (mantissa.abs() == 0.5).to(torch.float64)
        own = None if costs is None else costs[start : start + AT_ONCE].to(place.device)
        for row, weights in enumerate((own, exact if own is None else own * exact)):
            sums[row] += torch.bincount(place, weights, minlength=sums.shape[1]).cpu()
    shares = sums / sums[0].sum()
    filled = shares[0].nonzero().flatten().tolist()
    return Magnitudes(
        dtype=dtype,
        exponents=[place + LEAST_EXPONENT for place in filled],
        share=[_rounded(shares[0, place]) for place in filled],
        powers_of_two=[_rounded(shares[1, place]) for place in filled],
    )


MOST = 60
"""Larger values count with this exponent; noise does not reach them in any case."""


def _rounded(share: Tensor) -> float:
    return float(f"{float(share):.4g}")
