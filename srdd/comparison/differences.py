"""Differences NEW - OLD of every metric, their intervals, and a verdict in words.

Intervals are those of `srdd.numerics.confidence`. Where both scans measured the same prompts, each
prompt is left out of both together, since what a prompt does to one it mostly does to the other:
the interval of the difference is then far narrower than those of the figures. Otherwise the two are
independent. A weight does not depend on prompts, and its difference is exact.

The verdict is about the difference alone:

    better, worse        the 95 % interval excludes 0, or the difference is exact
    changed              the same, of a metric that has no better and worse
    no difference seen   the interval includes 0, or the difference is negligible
    no interval          it is unknown how far other prompts would move it
    undefined            a figure is missing in one of them

Of layers that do not differ at all, about one in twenty is called better or worse by chance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from srdd.documents.document import Interval
from srdd.numerics.metrics import FIGURES

Basis: TypeAlias = Literal["paired", "independent", "exact", "none"]
"""Where an interval comes from: the same prompts in both, other prompts; no interval needed; none
available."""

NEGLIGIBLE_DB, NEGLIGIBLE_SHARE = 1e-3, 1e-4
"""Below these, in dB and relative to the figure, kernels and devices differ in how they round."""

BETTER, WORSE, CHANGED, UNSEEN = "better", "worse", "changed", "no difference seen"
NO_INTERVAL, UNDEFINED = "no interval", "undefined"

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """One metric of one row, or of all together, in both scans.

    Attributes:
        metric: of srdd.numerics.metrics.FIGURES.
        old, new: the figures, in the metric's own unit; None where undefined.
        difference: NEW - OLD.
        interval: 95 % interval of the difference.
        new_interval: 95 % interval of NEW's figure.
        verdict: a word of this module.
        exact: whether the figures do not depend on prompts, so that nothing is uncertain.
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
    def significant(self) -> bool:
        """Whether the difference is beyond what other prompts of the same kind might do."""
        return self.verdict in (BETTER, WORSE, CHANGED)


def negligible(metric: str, old: float, difference: float) -> bool:
    """Whether a difference is no larger than what rounding in another kernel makes."""
    if FIGURES[metric].unit == "dB":
        return abs(difference) < NEGLIGIBLE_DB
    return abs(difference) <= NEGLIGIBLE_SHARE * abs(old)


def _direction(metric: str, difference: float) -> str:
    higher_is_better = FIGURES[metric].higher_is_better
    if higher_is_better is None:
        return CHANGED
    return BETTER if (difference > 0) == higher_is_better else WORSE


def _interval(pair: Values | None) -> Interval | None:
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
        metric: of srdd.numerics.metrics.FIGURES.
        old, new: the figures; None where undefined.
        exact: whether the figures do not depend on prompts.
        old_reproduced, new_reproduced: whether it is undefined because quantization changed
            nothing: an SQNR better than any number.
        ends, new_ends: (2,) of the difference and of NEW's figure, if there are any.
    """
    interval, new_interval = _interval(ends), _interval(new_ends)
    if old is None or new is None:
        verdict = UNDEFINED
        first = math.inf if old_reproduced else old
        second = math.inf if new_reproduced else new
        if metric == "sqnr_db" and first is not None and second is not None:
            verdict = UNSEEN if first == second else _direction(metric, second - first)
        return Difference(metric, old, new, None, None, new_interval, verdict, exact)
    by = new - old
    if not exact and interval is None:
        verdict = NO_INTERVAL
    elif negligible(metric, old, by) or (interval and interval[0] <= 0 <= interval[1]):
        verdict = UNSEEN
    else:
        verdict = _direction(metric, by)
    return Difference(metric, old, new, by, interval, new_interval, verdict, exact)
