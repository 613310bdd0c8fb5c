"""The figures of one scan's layers, each layer's tensors taken together, with their replicates."""

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
    """Metrics of several layers, and of all of them together as the last entry.

    Attributes:
        values: for each metric (layers + 1,), NaN where undefined.
        reproduced: (layers + 1,) whether quantization changed nothing there.
        replicates: (REPLICATES, layers + 1, fields); None where a layer holds no sums.
    """

    values: dict[str, NDArray[np.float64]]
    reproduced: NDArray[np.bool_]
    replicates: Sums | None

    def value(self, metric: str, place: int) -> float | None:
        """One figure; None where undefined."""
        found = float(self.values[metric][place])
        return None if np.isnan(found) else found


def figures_of(layers: Sequence[Sequence[Record]]) -> Figures:
    """The figures of layers, from the sums of their tensors; from their metrics without sums.

    Without sums nothing can be added: a layer of several tensors, and all layers together, are
    undefined. So is a metric that has no meaning at the site.

    Arguments:
        layers: the records of each layer, at least one, all of one site.
    """
    if any(record.replicates is None for records in layers for record in records):
        return _from_metrics(layers)
    replicates = no_sums(REPLICATES, len(layers) + 1)
    for place, records in enumerate(layers):
        for record in records:
            stored = from_lists(vars(record.replicates))
            replicates[: len(stored), place] += stored
    replicates[:, -1] = replicates[:, :-1].sum(axis=1)
    sums = replicates.sum(axis=0)
    reproduced = (field(sums, "x2") > 0) & (field(sums, "e2") == 0)
    meaningless = UNDEFINED.get(layers[0][0].site, {})
    values = {
        metric: np.full(len(found), np.nan) if metric in meaningless else found
        for metric, found in derive(sums).items()
    }
    return Figures(values, reproduced, replicates)


def _from_metrics(layers: Sequence[Sequence[Record]]) -> Figures:
    values = {metric: np.full(len(layers) + 1, np.nan) for metric in METRICS}
    reproduced = np.zeros(len(layers) + 1, dtype=bool)
    for place, records in enumerate(layers):
        if len(records) > 1:
            continue
        (record,) = records
        for metric in METRICS:
            found = getattr(record.metrics, metric)
            values[metric][place] = np.nan if found is None else found
        reproduced[place] = record.undefined.get("sqnr_db") == REPRODUCED
    return Figures(values, reproduced, None)
