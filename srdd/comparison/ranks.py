"""Rows that moved in rank: rank 1 is the worst layer, kind or tensor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srdd.comparison.pairing import Place
from srdd.numerics.confidence import FEWEST_REPLICATES, RESAMPLES, draws, kendall_tau, occupied
from srdd.numerics.metrics import FIGURES
from srdd.numerics.sums import Sums

AT_ONCE = 100
"""Rows that are drawn together: 1,000 draws of these take 10 MB."""


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
    order = np.argsort(FIGURES[metric].sign * values, axis=-1, kind="stable")
    ranked: NDArray[np.int64] = np.argsort(order, axis=-1, kind="stable") + 1
    return ranked


def drawn_figures(
    old: Sums, new: Sums, *, paired: bool, metric: str, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Bootstrap draws (draws, rows) of one metric in both; None with a single replicate in one.

    Arguments:
        old, new: (replicates, rows, fields); all rows of a scan are drawn together.
        paired: whether replicate i of both holds the same prompts, so that they are drawn together.
    """
    if paired:
        both = occupied(np.concatenate([old, new], axis=1))
        old, new = both[:, : old.shape[1]], both[:, old.shape[1] :]
    else:
        old, new = occupied(old), occupied(new)
    if min(len(old), len(new)) < FEWEST_REPLICATES:
        return None
    of_old = draws(len(old), RESAMPLES, [seed, 0])
    of_new = of_old if paired else draws(len(new), RESAMPLES, [seed, 1])

    def figures(weights: NDArray[np.float64], replicates: Sums) -> NDArray[np.float64]:
        parts = range(0, replicates.shape[1], AT_ONCE)
        sums = (np.tensordot(weights, replicates[:, n : n + AT_ONCE], axes=1) for n in parts)
        return np.concatenate([FIGURES[metric].compute(each) for each in sums], axis=1)

    return figures(of_old, old), figures(of_new, new)


def moves(
    places: Sequence[Place],
    old: NDArray[np.float64],
    new: NDArray[np.float64],
    metric: str,
    drawn: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
    *,
    exact: bool = False,
) -> tuple[list[Move], float | None]:
    """The rows that moved, the farthest first, and Kendall's tau between the two orders.

    Arguments:
        places: (rows,) what they are.
        old, new: (rows,) their figures; rows with a NaN take no part.
        metric: what they are ranked by.
        drawn: (draws, rows) of both, if there are any.
        exact: whether the figures do not depend on prompts.

    Returns:
        The moves; and tau, None where there is no order (fewer than two rows, or all equal).
    """
    defined = np.flatnonzero(np.isfinite(old) & np.isfinite(new))
    old, new = old[defined], new[defined]
    first, second = ranks(old, metric), ranks(new, metric)
    significant: list[bool | None] = [True if exact else None] * len(defined)
    if drawn is not None and len(defined):
        change = ranks(drawn[1][:, defined], metric) - ranks(drawn[0][:, defined], metric)
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
