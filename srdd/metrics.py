"""Metrics: what is derived from sums, the thresholds for them, and the floors of the formats.

Every metric is a function of pooled sums, so the metric of a union is computed from added sums and
never by averaging metrics: the mean of decibels is not the decibels of the mean.

    sqnr_db         10 log10(x2 / e2), dB; higher is better
    deadzone        flushed / elements, in [0, 1]: non-zero values that became zero
    saturation      saturated / elements, in [0, 1]: values beyond the largest element, clipped
    clipping_share  clipped_e2 / e2, in [0, 1]: share of the error's energy that clipping causes
    relative_error  relative / nonzero, >= 0: mean of |e| / |x| over x != 0. A flushed value counts
                    as exactly 1, so this follows the deadzone closely
    relative_l1     abs_e / abs_x, >= 0: the same ratio of sums, which does not

A ratio without a denominator is undefined: NaN here, null with a reason in a document.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srdd.floors import Floor as Floor
from srdd.floors import floor_of as floor_of
from srdd.floors import product_floor_db as product_floor_db
from srdd.sums import Sums, field

METRICS = (
    "sqnr_db",
    "deadzone",
    "saturation",
    "clipping_share",
    "relative_error",
    "relative_l1",
)

HIGHER_IS_BETTER = frozenset({"sqnr_db"})
"""Of every other metric, less is better."""


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient, NaN where the denominator is 0."""
    filled = np.where(denominator == 0, np.nan, denominator)
    quotient: NDArray[np.float64] = numerator / filled
    return quotient


def derive(sums: Sums) -> dict[str, NDArray[np.float64]]:
    """All metrics of `sums`.

    Arguments:
        sums: (..., fields).

    Returns:
        For each name of METRICS an array (...), NaN where the metric is undefined.
    """
    part = {
        name: field(sums, name)
        for name in ("elements", "nonzero", "flushed", "saturated", "x2", "e2")
    }
    x2 = np.where(part["x2"] == 0, np.nan, part["x2"])
    return {
        "sqnr_db": 10 * np.log10(_ratio(x2, part["e2"])),
        "deadzone": _ratio(part["flushed"], part["elements"]),
        "saturation": _ratio(part["saturated"], part["elements"]),
        "clipping_share": _ratio(field(sums, "clipped_e2"), part["e2"]),
        "relative_error": _ratio(field(sums, "relative"), part["nonzero"]),
        "relative_l1": _ratio(field(sums, "abs_e"), field(sums, "abs_x")),
    }


def why_undefined(sums: Sums) -> dict[str, str]:
    """For one set of sums (fields,): each undefined metric with the reason in words."""
    if field(sums, "elements") == 0:
        reason = "no finite value was measured"
    elif field(sums, "x2") == 0:
        reason = "every value is zero"
    else:
        reason = "reconstruction is exact"
    return {name: reason for name, value in derive(sums).items() if np.isnan(value)}


@dataclass(frozen=True)
class Thresholds:
    """Where a layer is flagged: any one of these suffices.

    The defaults are those of the method's guide. Ideal Gaussian data in MXFP4 fails all four, so a
    flag alone says little; read it next to the distance from the format's floor.

    Attributes:
        sqnr_db: flagged below, dB.
        deadzone, saturation, relative_error: flagged above, fractions.
    """

    sqnr_db: float = 20.0
    deadzone: float = 0.05
    saturation: float = 0.01
    relative_error: float = 0.10

    def breaches(self, metrics: Mapping[str, float | None]) -> tuple[str, ...]:
        """The names of the metrics beyond their threshold; an undefined metric breaches none."""
        found = []
        for name in ("sqnr_db", "deadzone", "saturation", "relative_error"):
            value, limit = metrics.get(name), getattr(self, name)
            if value is None or np.isnan(value):
                continue
            if value < limit if name in HIGHER_IS_BETTER else value > limit:
                found.append(name)
        return tuple(found)
