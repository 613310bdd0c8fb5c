"""Metrics: what is derived from sums, the thresholds for them, and the floors of the formats.

Every metric is a function of pooled sums, so the metric of a union is computed from added sums and
never by averaging metrics: the mean of decibels is not the decibels of the mean.
Each metric is a function below that tells its formula, how to read it and what misleads;
`srdd explain NAME` shows that text.

A ratio without a denominator is undefined: NaN here, null with a reason in a document.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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

REPRODUCED = "reconstruction is exact"
"""Why a metric is undefined where quantization changed nothing."""

HIGHER_IS_BETTER = frozenset({"sqnr_db"})
"""Of every other metric, less is better."""


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient, NaN where the denominator is 0."""
    filled = np.where(denominator == 0, np.nan, denominator)
    quotient: NDArray[np.float64] = numerator / filled
    return quotient


def sqnr_db(sums: Sums) -> NDArray[np.float64]:
    """Signal-to-quantization-noise ratio of all values together.

    Formula: 10 log10(sum x^2 / sum e^2), with e = y - x for the dequantized value y
    Unit: dB
    Range: any number; higher is better. Undefined where every value is zero, or where
        reconstruction is exact, which is better than any number.
    Reading: at 20 dB the error has 1 % of the signal's power; 6 dB less doubles its amplitude. Hold
        it against what ideal Gaussian data gets in the format (vs floor): in 4 bits that is about
        19 dB, so that the guide's threshold of 20 dB flags every layer.
    Pitfalls: a few very large values carry most of the power, on some models those of the first
        token alone; look at the quantiles of single tokens, or scan with --skip-first-token. The
        mean of decibels is not the decibels of the mean: several tensors are pooled by their sums.
    Source: Jayant and Noll, Digital Coding of Waveforms (1984)
    """
    x2 = field(sums, "x2")
    ratio = _ratio(np.where(x2 == 0, np.nan, x2), field(sums, "e2"))
    decibels: NDArray[np.float64] = 10 * np.log10(ratio)
    return decibels


def deadzone(sums: Sums) -> NDArray[np.float64]:
    """Share of all values that were not zero and became zero.

    Formula: count(x != 0 and y == 0) / count(all finite x)
    Unit: a fraction in documents, per cent on screens
    Range: 0 to 1; lower is better. Undefined where no finite value was measured.
    Reading: what is flushed lies under half of the smallest step of its block; in MXFP4 with the
        floor rule that is under 1/32 to 1/16 of the block's largest value. Gaussian data loses
        8.8 % so; a layer far above that has blocks in which one value dwarfs the others.
    Pitfalls: it is compared with 0 exactly, not with a small number; zeros that were zero before
        do not count as flushed. Values this small carry little power, and SQNR hardly sees them.
    Source: the method's guide, with its threshold of 5 %
    """
    return _ratio(field(sums, "flushed"), field(sums, "elements"))


def saturation(sums: Sums) -> NDArray[np.float64]:
    """Share of all values that were clipped to the largest element.

    Formula: count(|x| / scale > largest element) / count(all finite x)
    Unit: a fraction in documents, per cent on screens
    Range: 0 to 1; lower is better. Undefined where no finite value was measured.
    Reading: it follows from the scale rule first: floor lets the largest values of a block clip (a
        few per cent of Gaussian data), ceil, rceil and absmax let none. Whether it hurts is said by
        clipping_share.
    Pitfalls: a value that equals the largest element is not clipped. The prototype's figure of
        this name counts values near the largest one of a tensor, which is something else.
    Source: the method's guide, with its threshold of 1 %
    """
    return _ratio(field(sums, "saturated"), field(sums, "elements"))


def clipping_share(sums: Sums) -> NDArray[np.float64]:
    """Share of the error's energy that comes from clipped values.

    Formula: sum e^2 over clipped values / sum e^2
    Unit: a fraction in documents, per cent on screens
    Range: 0 to 1. Undefined where reconstruction is exact.
    Reading: near 0, another scale rule gains nothing by clipping less; a large share says that the
        rule costs more than the grid does. Gaussian data in MXFP4 with the floor rule gets 13 %
        from 2.3 % of its values.
    Pitfalls: it says where the error comes from and not how large it is; a layer may have a high
        share of a small error.
    Source: the definition above, srdd's own
    """
    return _ratio(field(sums, "clipped_e2"), field(sums, "e2"))


def relative_error(sums: Sums) -> NDArray[np.float64]:
    """Mean over all values of the size of the error relative to the value.

    Formula: mean of |e| / |x| over x != 0
    Unit: a fraction in documents, per cent on screens
    Range: 0 and up; lower is better. Undefined where every value is zero.
    Reading: Gaussian data in MXFP4 gets 21 % with the floor rule. Every value counts alike, however
        small.
    Pitfalls: a value that became zero counts as exactly 1, so this follows the deadzone closely
        (r = 0.997 over the layers of the method's own scan): it ranks layers by how many small
        values they hold. relative_l1 does not.
    Source: the method's guide, with its threshold of 10 %
    """
    return _ratio(field(sums, "relative"), field(sums, "nonzero"))


def relative_l1(sums: Sums) -> NDArray[np.float64]:
    """Size of all errors together relative to the size of all values together.

    Formula: sum |e| / sum |x|
    Unit: a fraction in documents, per cent on screens
    Range: 0 and up; lower is better. Undefined where every value is zero.
    Reading: Gaussian data in MXFP4 gets 10.8 % with the floor rule. Values weigh by their size, so
        that small ones which became zero do not rule it, and by less than in SQNR, where they weigh
        by their square.
    Pitfalls: it has no threshold in the guide, whose figures are of relative_error: the two cannot
        be held against each other.
    Source: the definition above; the relative error in the L1 norm
    """
    return _ratio(field(sums, "abs_e"), field(sums, "abs_x"))


_FUNCTIONS: dict[str, Callable[[Sums], NDArray[np.float64]]] = {
    each.__name__: each
    for each in (sqnr_db, deadzone, saturation, clipping_share, relative_error, relative_l1)
}


def derive(sums: Sums) -> dict[str, NDArray[np.float64]]:
    """All metrics of `sums`.

    Arguments:
        sums: (..., fields).

    Returns:
        For each name of METRICS an array (...), NaN where the metric is undefined.
    """
    return {name: _FUNCTIONS[name](sums) for name in METRICS}


def why_undefined(sums: Sums) -> dict[str, str]:
    """For one set of sums (fields,): each undefined metric with the reason in words."""
    if field(sums, "elements") == 0:
        reason = "no finite value was measured"
    elif field(sums, "x2") == 0:
        reason = "every value is zero"
    else:
        reason = REPRODUCED
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
