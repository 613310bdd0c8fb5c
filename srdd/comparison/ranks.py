"""Rows that moved in rank: rank 1 is the worst layer, kind or tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from srdd.documents.comparison import Move, Place
from srdd.numerics.confidence import RESAMPLES, draws, kendall_tau, occupied_in_both
from srdd.numerics.metrics import FIGURES
from srdd.numerics.sums import Sums

AT_ONCE = 100
"""Rows that are drawn together: 1,000 draws of these take 10 MB."""

Values = NDArray[np.float64]


def ranks(values: Values, metric: str) -> NDArray[np.int64]:
    """Ranks along the last axis, 1 the worst; of equal values the first one is worse."""
    order = np.argsort(FIGURES[metric].sign * values, axis=-1, kind="stable")
    ranked: NDArray[np.int64] = np.argsort(order, axis=-1, kind="stable") + 1
    return ranked


def drawn_figures(
    old: Sums, new: Sums, *, paired: bool, metric: str, seed: int
) -> tuple[Values, Values] | None:
    """Bootstrap draws (draws, rows) of one metric in both; None with a single replicate in one.

    Arguments:
        old, new: (replicates, rows, fields); all rows of a scan are drawn together.
        paired: whether replicate i of both holds the same prompts, so that they are drawn together.
    """
    kept = occupied_in_both(old, new, paired=paired)
    if kept is None:
        return None
    weights = [draws(len(each), RESAMPLES, [seed, n]) for n, each in enumerate(kept)]

    def figures(weights: Values, replicates: Sums) -> Values:
        parts = range(0, replicates.shape[1], AT_ONCE)
        sums = (np.tensordot(weights, replicates[:, n : n + AT_ONCE], axes=1) for n in parts)
        return np.concatenate([FIGURES[metric].compute(each) for each in sums], axis=1)

    return figures(weights[0], kept[0]), figures(weights[0 if paired else 1], kept[1])


def moves(
    places: Sequence[Place],
    old: Values,
    new: Values,
    metric: str,
    drawn: tuple[Values, Values] | None,
    *,
    exact: bool,
) -> tuple[list[Move], float | None]:
    """The rows that moved, the farthest first, and Kendall's tau between the two orders.

    Arguments:
        places: (rows,) what they are.
        old, new: (rows,) their figures; rows with one that is not finite take no part.
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
        Move(**vars(places[row]), old=int(first[n]), new=int(second[n]), significant=significant[n])
        for n, row in enumerate(defined.tolist())
        if first[n] != second[n]
    ]
    moved.sort(key=lambda move: -abs(move.new - move.old))
    tau = kendall_tau(old, new)
    return moved, None if np.isnan(tau) else tau
