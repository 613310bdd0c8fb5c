"""A metric over all layers: its range, mean, threshold and floor, and how many layers breach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from srdd.numerics.metrics import METRICS
from srdd.reports.groups import Group
from srdd.reports.verdict import status

SHOWN = ("sqnr_db", "deadzone", "saturation", "relative_error", "relative_l1")
"""Metrics that stand in a table over all layers."""


@dataclass(frozen=True)
class Overall:
    """One metric over the layers of a group, in the metric's own unit.

    Attributes:
        metric: its name.
        values: those of the layers where it is defined.
        limit: its threshold; None if it has none.
        floor: what Gaussian data gets; None where that says nothing.
        failing: how many layers breach the threshold.
        undefined: how many layers it is undefined in.
    """

    metric: str
    values: Sequence[float]
    limit: float | None
    floor: float | None
    failing: int
    undefined: int

    @property
    def scale(self) -> float:
        """Factor to the unit that a person reads: decibels stay, fractions become per cent."""
        return 1.0 if self.metric == "sqnr_db" else 100.0

    @property
    def digits(self) -> int:
        """Decimals that are shown."""
        return 2 if self.metric == "saturation" else 1

    def shown(self, value: float | None) -> str:
        """A value of the metric with its decimals; a dash for None."""
        return "-" if value is None else f"{self.scale * value:.{self.digits}f}"

    @property
    def low(self) -> str:
        return self.shown(min(self.values, default=None))

    @property
    def high(self) -> str:
        return self.shown(max(self.values, default=None))

    @property
    def mean(self) -> float | None:
        """Mean over the layers, each counting alike."""
        return float(np.mean(self.values)) if self.values else None

    @property
    def mean_and_spread(self) -> str:
        """Mean and standard deviation over the layers."""
        if not self.values:
            return "-"
        spread = float(np.std(self.values))
        return f"{self.shown(self.mean)} ±{self.shown(spread)}"

    @property
    def threshold(self) -> str:
        """The threshold with its sign; empty if there is none."""
        if self.limit is None:
            return ""
        sign = "<" if METRICS[self.metric].higher_is_better else ">"
        return f"{sign}{self.scale * self.limit:g}"

    @property
    def status(self) -> str:
        """How many layers breach the threshold, in words; empty if there is none."""
        if self.limit is None:
            return ""
        layers = len(self.values) + self.undefined
        if not self.values:
            return "undefined"
        more = f", {self.undefined} undefined" if self.undefined else ""
        return status(self.failing, layers) + more


def overall(group: Group, metrics: Sequence[str] = SHOWN) -> list[Overall]:
    """Each of `metrics` over the layers of a group."""
    limits = group.thresholds
    broken = [limits.breaches(dict(record.metrics)) for record in group.layers]
    found = []
    for metric in metrics:
        assert metric in METRICS
        values = group.values(metric)
        found.append(
            Overall(
                metric=metric,
                values=values,
                limit=getattr(limits, metric, None),
                floor=group.floor[metric],
                failing=sum(metric in each for each in broken),
                undefined=len(group.layers) - len(values),
            )
        )
    return found
