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
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from srdd.documents.comparison import (
    BETTER,
    CHANGED,
    NO_INTERVAL,
    UNDEFINED,
    UNSEEN,
    WORSE,
    Difference,
    Ends,
)
from srdd.documents.records import REPLICATES
from srdd.documents.scan import Record
from srdd.numerics import sites, sums
from srdd.numerics.metrics import FIGURES, METRICS, REPRODUCED, derive

NEGLIGIBLE_DB, NEGLIGIBLE_SHARE = 1e-3, 1e-4
"""Below these, in dB and relative to the figure, kernels and devices differ in how they round."""

Values = NDArray[np.float64]

Figures = tuple[dict[str, Values], sums.Sums | None]
"""For each metric the figures of rows and of all of them together (rows + 1,), NaN where undefined;
and their sums (replicates, rows + 1, fields), None where there are none."""


def figures_of(rows: Sequence[Sequence[Record]]) -> Figures:
    """The figures of rows, each row's records taken together, and of all rows as a last entry.

    Without sums nothing can be added: a row of several records, and all rows together, are
    undefined. So is a metric that has no meaning at the site. An SQNR is infinite where
    quantization changed nothing.

    Arguments:
        rows: the records of each row, at least one, all of one site.
    """
    if any(record.replicates is None for records in rows for record in records):
        return _stored_figures(rows), None
    replicates = sums.new(REPLICATES, len(rows) + 1)
    for row, records in enumerate(rows):
        for record in records:
            stored = sums.from_lists(vars(record.replicates))
            replicates[: len(stored), row] += stored
    replicates[:, -1] = replicates[:, :-1].sum(axis=1)
    whole = replicates.sum(axis=0)
    values = derive(whole)
    values["sqnr_db"][(sums.field(whole, "x2") > 0) & (sums.field(whole, "e2") == 0)] = math.inf
    for metric in sites.UNDEFINED.get(rows[0][0].site, {}):
        values[metric][:] = math.nan
    return values, replicates


def _stored_figures(rows: Sequence[Sequence[Record]]) -> dict[str, Values]:
    """The metrics of the rows that have a single record."""
    values = {metric: np.full(len(rows) + 1, np.nan) for metric in METRICS}
    for row, (record, *others) in enumerate(rows):
        if not others:
            for metric in METRICS:
                value = getattr(record.metrics, metric)
                values[metric][row] = np.nan if value is None else value
            if record.undefined.get("sqnr_db") == REPRODUCED:
                values["sqnr_db"][row] = math.inf
    return values


def negligible(metric: str, old: float, difference: float) -> bool:
    """Whether a difference is no larger than what rounding in another kernel makes."""
    if FIGURES[metric].unit == "dB":
        return abs(difference) < NEGLIGIBLE_DB
    return abs(difference) <= NEGLIGIBLE_SHARE * abs(old)


def difference(
    metric: str,
    old: float,
    new: float,
    *,
    exact: bool = False,
    ends: Values | None = None,
    new_ends: Values | None = None,
) -> Difference:
    """Two figures as a Difference with its verdict.

    Arguments:
        metric: of srdd.numerics.metrics.FIGURES.
        old, new: the figures; NaN where undefined, infinite where quantization changed nothing.
        exact: whether the figures do not depend on prompts.
        ends, new_ends: (2,) of the difference and of NEW's figure, if there are any.
    """
    change, interval = new - old, _interval(ends)
    if math.isnan(old) or math.isnan(new):
        verdict = UNDEFINED
    elif math.isinf(old) or math.isinf(new):
        verdict = UNSEEN if old == new else _direction(metric, change)
    elif not exact and interval is None:
        verdict = NO_INTERVAL
    elif negligible(metric, old, change) or (interval and interval[0] <= 0 <= interval[1]):
        verdict = UNSEEN
    else:
        verdict = _direction(metric, change)
    return Difference(
        old=_finite(old),
        new=_finite(new),
        difference=_finite(change),
        interval=interval,
        new_interval=_interval(new_ends),
        exact=exact,
        verdict=verdict,
    )


def _direction(metric: str, difference: float) -> str:
    higher_is_better = FIGURES[metric].higher_is_better
    if higher_is_better is None:
        return CHANGED
    return BETTER if (difference > 0) == higher_is_better else WORSE


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _interval(ends: Values | None) -> Ends | None:
    return None if ends is None or np.isnan(ends).any() else (float(ends[0]), float(ends[1]))
