"""Rows that moved in rank: rank 1 is the worst layer, kind or tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srdd.comparison.pairing import Place
from srdd.numerics.confidence import kendall_tau
from srdd.numerics.metrics import METRICS


@dataclass(frozen=True)
class Move:
    """A row whose rank is another in NEW.

    Attributes:
        place: which one.
        old, new: its ranks; 1 is the worst.
        significant: whether the figures are exact, or the 95 % interval of the change of rank
            excludes 0; None without replicates.
    """

    place: Place
    old: int
    new: int
    significant: bool | None


def ranks(values: NDArray[np.float64], metric: str) -> NDArray[np.int64]:
    """Ranks along the last axis, 1 the worst; of equal values the first one is worse."""
    order = np.argsort(METRICS[metric].sign * values, axis=-1, kind="stable")
    ranked: NDArray[np.int64] = np.argsort(order, axis=-1, kind="stable") + 1
    return ranked


def moves(
    places: Sequence[Place],
    old: NDArray[np.float64],
    new: NDArray[np.float64],
    metric: str,
    draws: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    *,
    exact: bool = False,
) -> tuple[list[Move], float | None]:
    """The rows that moved, the farthest first, and Kendall's tau between the two orders.

    Arguments:
        places: (rows,) what they are.
        old, new: (rows,) their figures; rows with a NaN take no part.
        metric: what they are ranked by.
        draws: (draws, rows) of both, if there are any.
        exact: whether the figures do not depend on prompts.

    Returns:
        The moves; and tau, None where there is no order (fewer than two rows, or all equal).
    """
    defined = np.flatnonzero(np.isfinite(old) & np.isfinite(new))
    old, new = old[defined], new[defined]
    first, second = ranks(old, metric), ranks(new, metric)
    significant: list[bool | None] = [True if exact else None] * len(defined)
    if draws is not None and len(defined):
        change = ranks(draws[1][:, defined], metric) - ranks(draws[0][:, defined], metric)
        low, high = np.quantile(change, [0.025, 0.975], axis=0)
        significant = ((low > 0) | (high < 0)).tolist()
    moved = [
        Move(places[row], int(first[n]), int(second[n]), significant[n])
        for n, row in enumerate(defined.tolist())
        if first[n] != second[n]
    ]
    moved.sort(key=lambda move: -abs(move.new - move.old))
    tau = kendall_tau(old, new) if len(defined) > 1 else np.nan
    return moved, None if np.isnan(tau) else float(tau)
