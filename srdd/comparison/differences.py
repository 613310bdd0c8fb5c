"""Differences NEW - OLD of every metric, their intervals, and a verdict in words.

An interval comes from drawing replicates with replacement (`confidence`). Where both scans
measured the same prompts, each draw takes the same prompts in both, since what a prompt does to one
it mostly does to the other: the interval of the difference is then far narrower than those of the
figures. Otherwise the two are drawn apart. A weight does not depend on prompts, and its difference
is exact.

The verdict is about the difference alone:

    better, worse        the 95 % interval excludes 0, or the difference is exact
    no difference seen   the interval holds 0, or the difference is negligible
    no interval          nothing says how far other prompts would move it
    undefined            a figure is missing in one of them

Of layers that do not differ at all, about one in twenty is called better or worse by chance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from srdd.documents.scan import Interval
from srdd.numerics.confidence import FEWEST_REPLICATES, RESAMPLES, occupied
from srdd.numerics.metrics import METRICS, derive
from srdd.numerics.sums import Sums

Basis: TypeAlias = Literal["paired", "apart", "exact", "none"]
"""Where an interval comes from: the same prompts drawn together, other prompts drawn apart; no
interval needed, none to be had."""

NEGLIGIBLE_DB, NEGLIGIBLE_SHARE = 1e-3, 1e-4
"""Below these, in dB and relative to the figure, kernels and devices differ in how they round."""

AT_ONCE = 100
"""Records that are resampled together: 1,000 draws of these take 10 MB."""

BETTER, WORSE, UNSEEN = "better", "worse", "no difference seen"
NO_INTERVAL, UNDEFINED = "no interval", "undefined"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """One metric of one layer, or of all together, in both scans.

    Attributes:
        metric: of srdd.numerics.metrics.METRICS.
        old, new: the figures, in the metric's own unit; None where undefined.
        difference: NEW - OLD.
        interval: 95 % interval of the difference.
        new_interval: 95 % interval of NEW's figure.
        verdict: a word of this module.
        exact: whether no prompt enters, so that there is nothing to be unsure of.
    """

    metric: str
    old: float | None
    new: float | None
    difference: float | None
    interval: Interval | None
    new_interval: Interval | None
    verdict: str
    exact: bool

    @property
    def sure(self) -> bool:
        """Whether the difference is beyond what other prompts of the same kind might do."""
        return self.verdict in (BETTER, WORSE)


@dataclass(frozen=True)
class Resampled:
    """Draws of two scans' figures: for each metric (records, 2) ends, NaN where there are none.

    Attributes:
        difference, new: intervals of the difference and of NEW's figure.
        old_draws, new_draws: (draws, records) of the one metric that was asked for.
    """

    difference: dict[str, Values]
    new: dict[str, Values]
    old_draws: Values
    new_draws: Values


def _weights(held: int, resamples: int, seed: Sequence[int]) -> Values:
    rng = np.random.default_rng(seed)
    return rng.multinomial(held, np.full(held, 1 / held), size=resamples).astype(np.float64)


def resample(
    old: Sums,
    new: Sums,
    *,
    paired: bool,
    metric: str,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Resampled | None:
    """Percentile bootstrap of NEW - OLD; None where one of them has a single replicate.

    Arguments:
        old, new: (replicates, records, fields); all records of a scan are drawn together.
        paired: whether replicate i of both holds the same prompts, so that they are drawn together.
        metric: whose draws are given back.
        level: coverage aimed at, in (0, 1).
    """
    if paired:
        both = occupied(np.concatenate([old, new], axis=1))
        held = both[:, : old.shape[1]], both[:, old.shape[1] :]
    else:
        held = occupied(old), occupied(new)
    if min(map(len, held)) < FEWEST_REPLICATES:
        return None
    first = _weights(len(held[0]), resamples, [seed, 0])
    second = first if paired else _weights(len(held[1]), resamples, [seed, 1])
    tails = [(1 - level) / 2, (1 + level) / 2]
    ends: dict[str, list[Values]] = {name: [] for name in METRICS}
    new_ends: dict[str, list[Values]] = {name: [] for name in METRICS}
    kept: tuple[list[Values], list[Values]] = ([], [])
    for start in range(0, old.shape[1], AT_ONCE):
        part = slice(start, start + AT_ONCE)
        drawn = [
            derive(np.tensordot(weights, sums[:, part], axes=1))
            for weights, sums in zip((first, second), held, strict=True)
        ]
        for name in METRICS:
            one, other = drawn[0][name], drawn[1][name]
            ends[name].append(np.quantile(other - one, tails, axis=0).T)
            new_ends[name].append(np.quantile(other, tails, axis=0).T)
        for side, figures in zip(kept, drawn, strict=True):
            side.append(figures[metric])
    return Resampled(
        {name: np.concatenate(found) for name, found in ends.items()},
        {name: np.concatenate(found) for name, found in new_ends.items()},
        np.concatenate(kept[0], axis=1),
        np.concatenate(kept[1], axis=1),
    )


def negligible(metric: str, old: float, difference: float) -> bool:
    """Whether a difference is no larger than what rounding in another kernel makes."""
    if metric == "sqnr_db":
        return abs(difference) < NEGLIGIBLE_DB
    return abs(difference) <= NEGLIGIBLE_SHARE * abs(old)


def _direction(metric: str, difference: float) -> str:
    return BETTER if (difference > 0) == (METRICS[metric].higher_is_better) else WORSE


def _ends(pair: Values | None) -> Interval | None:
    return None if pair is None or np.isnan(pair).any() else (float(pair[0]), float(pair[1]))


def difference(
    metric: str,
    old: float | None,
    new: float | None,
    *,
    exact: bool = False,
    old_reproduced: bool = False,
    new_reproduced: bool = False,
    ends: Values | None = None,
    new_ends: Values | None = None,
) -> Difference:
    """Two figures as a Difference with its verdict.

    Arguments:
        metric: of srdd.numerics.metrics.METRICS.
        old, new: the figures; None where undefined.
        exact: whether no prompt enters the figures.
        old_reproduced, new_reproduced: whether it is undefined because quantization changed
            nothing: an SQNR better than any number.
        ends, new_ends: (2,) of the difference and of NEW's figure, if they were resampled.
    """
    interval, new_interval = _ends(ends), _ends(new_ends)
    if old is None or new is None:
        verdict = UNDEFINED
        if metric == "sqnr_db" and (old_reproduced or new_reproduced):
            rank_old = math.inf if old_reproduced else old
            rank_new = math.inf if new_reproduced else new
            if rank_old is not None and rank_new is not None:
                same = rank_old == rank_new
                verdict = UNSEEN if same else BETTER if rank_new > rank_old else WORSE
        return Difference(metric, old, new, None, None, new_interval, verdict, exact)
    by = new - old
    if exact:
        verdict = UNSEEN if negligible(metric, old, by) else _direction(metric, by)
    elif interval is None:
        verdict = NO_INTERVAL
    elif interval[0] <= 0 <= interval[1] or negligible(metric, old, by):
        verdict = UNSEEN
    else:
        verdict = _direction(metric, by)
    return Difference(metric, old, new, by, interval, new_interval, verdict, exact)
