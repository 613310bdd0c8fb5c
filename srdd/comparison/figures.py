"""The figures of one scan's rows (layers, kinds or tensors), each row's records taken together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srdd.documents.records import REPLICATES
from srdd.documents.scan import Record
from srdd.numerics.metrics import METRICS, REPRODUCED, derive
from srdd.numerics.sites import UNDEFINED
from srdd.numerics.sums import Sums, field, from_lists
from srdd.numerics.sums import new as no_sums


@dataclass(frozen=True)
class Figures:
    """Metrics of several rows, and of all of them together as the last entry.

    Attributes:
        values: for each metric (rows + 1,), NaN where undefined.
        exact: (rows + 1,) whether quantization changed nothing there.
        replicates: (REPLICATES, rows + 1, fields); None where a record holds no sums.
    """

    values: dict[str, NDArray[np.float64]]
    exact: NDArray[np.bool_]
    replicates: Sums | None

    def value(self, metric: str, row: int) -> float | None:
        """One figure; None where undefined."""
        value = float(self.values[metric][row])
        return None if np.isnan(value) else value


def figures_of(rows: Sequence[Sequence[Record]]) -> Figures:
    """The figures of rows, from the sums of their records; from their metrics without sums.

    Without sums nothing can be added: a row of several records, and all rows together, are
    undefined. So is a metric that has no meaning at the site.

    Arguments:
        rows: the records of each row, at least one, all of one site.
    """
    if any(record.replicates is None for records in rows for record in records):
        return _from_metrics(rows)
    replicates = no_sums(REPLICATES, len(rows) + 1)
    for row, records in enumerate(rows):
        for record in records:
            stored = from_lists(vars(record.replicates))
            replicates[: len(stored), row] += stored
    replicates[:, -1] = replicates[:, :-1].sum(axis=1)
    sums = replicates.sum(axis=0)
    meaningless = UNDEFINED.get(rows[0][0].site, {})
    values = {
        metric: np.full(len(of_rows), np.nan) if metric in meaningless else of_rows
        for metric, of_rows in derive(sums).items()
    }
    return Figures(values, (field(sums, "x2") > 0) & (field(sums, "e2") == 0), replicates)


def _from_metrics(rows: Sequence[Sequence[Record]]) -> Figures:
    values = {metric: np.full(len(rows) + 1, np.nan) for metric in METRICS}
    exact = np.zeros(len(rows) + 1, dtype=bool)
    for row, records in enumerate(rows):
        if len(records) == 1:
            for metric in METRICS:
                value = getattr(records[0].metrics, metric)
                values[metric][row] = np.nan if value is None else value
            exact[row] = records[0].undefined.get("sqnr_db") == REPRODUCED
    return Figures(values, exact, None)
