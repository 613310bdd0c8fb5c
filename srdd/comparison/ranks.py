"""Layers that moved in rank: rank 1 is the worst layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srdd.numerics.confidence import kendall_tau
from srdd.numerics.metrics import METRICS


@dataclass(frozen=True)
class Move:
    """A layer whose rank is another in NEW.

    Attributes:
        layer: its index.
        old, new: its ranks; 1 is the worst.
        sure: whether the figures are exact, or the 95 % interval of the change of rank excludes 0;
            None without replicates.
    """

    layer: int
    old: int
    new: int
    sure: bool | None


def ranks(values: NDArray[np.float64], metric: str) -> NDArray[np.int64]:
    """Ranks along the last axis, 1 the worst; of equal values the first one is worse."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    order = np.argsort(sign * values, axis=-1, kind="stable")
    found: NDArray[np.int64] = np.argsort(order, axis=-1, kind="stable") + 1
    return found


def moves(
    layers: Sequence[int],
    old: NDArray[np.float64],
    new: NDArray[np.float64],
    metric: str,
    draws: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    *,
    exact: bool = False,
) -> tuple[list[Move], float | None]:
    """The layers that moved, the farthest first, and Kendall's tau between the two orders.

    Arguments:
        layers: (layers,) their indices.
        old, new: (layers,) their figures; layers with a NaN take no part.
        metric: what they are ranked by.
        draws: (draws, layers) of both, if there are any.
        exact: whether no prompt enters the figures.

    Returns:
        The moves; and tau, None where there is no order (fewer than two layers, or all equal).
    """
    defined = np.flatnonzero(np.isfinite(old) & np.isfinite(new))
    old, new = old[defined], new[defined]
    first, second = ranks(old, metric), ranks(new, metric)
    sure: list[bool | None] = [True if exact else None] * len(defined)
    if draws is not None and len(defined):
        by = ranks(draws[1][:, defined], metric) - ranks(draws[0][:, defined], metric)
        low, high = np.quantile(by, [0.025, 0.975], axis=0)
        sure = [bool(found) for found in (low > 0) | (high < 0)]
    found = [
        Move(layers[place], int(first[n]), int(second[n]), sure[n])
        for n, place in enumerate(defined.tolist())
        if first[n] != second[n]
    ]
    found.sort(key=lambda move: (-abs(move.new - move.old), move.layer))
    tau = kendall_tau(old, new) if len(defined) > 1 else np.nan
    return found, None if np.isnan(tau) else float(tau)
