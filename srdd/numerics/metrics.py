"""Metrics: what is derived from sums, each declared once with all that is said and shown of it.

Every metric is a function of pooled sums, so the metric of a union is computed from added sums and
never by averaging metrics: the mean of decibels is not the decibels of the mean. Tables, charts,
gates, `srdd explain` and the document all read METRICS; a new metric is one more entry there.

A ratio without a denominator is undefined: NaN here, null with a reason in a document.
"""

from __future__ import annotations

import re
from collections import ChainMap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from srdd.errors import unknown_name
from srdd.numerics.sums import Sums, field

REPRODUCED = "reconstruction is exact"
"""Why a metric is undefined where quantization changed nothing."""


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient, NaN where the denominator is 0."""
    filled = np.where(denominator == 0, np.nan, denominator)
    quotient: NDArray[np.float64] = numerator / filled
    return quotient


def _sqnr_db(sums: Sums) -> NDArray[np.float64]:
    x2 = field(sums, "x2")
    ratio = _ratio(np.where(x2 == 0, np.nan, x2), field(sums, "e2"))
    decibels: NDArray[np.float64] = 10 * np.log10(ratio)
    return decibels


def _quotient(numerator: str, denominator: str) -> Callable[[Sums], NDArray[np.float64]]:
    """The metric that is one field of the sums over another."""

    def compute(sums: Sums) -> NDArray[np.float64]:
        return _ratio(field(sums, numerator), field(sums, denominator))

    return compute


@dataclass(frozen=True)
class Metric:
    """A metric: how it is computed, shown and explained.

    Attributes:
        name: the word for it in flags, code and JSON.
        title: what sentences and headings call it.
        label: the head of its column.
        unit: as a person reads it: dB or %. A document holds fractions.
        scale: factor from a document's figure to `unit`.
        digits: decimals that are shown.
        higher_is_better: which direction is good; None for a metric that says where an error comes
            from and not how large it is, so that a change of it is neither better nor worse.
        compute: sums (..., fields) -> values (...), NaN where undefined.
        priority: 0 has a column in every table; the higher, the earlier a narrow one drops it.
        threshold: where the method's guide flags a layer, in a document's unit; None for none.
        largest: the largest value it can have, 1 for a share; None where there is no bound.
        summary, formula, range, reading, pitfalls, source: what `srdd explain` says.
    """

    name: str
    title: str
    label: str
    unit: str
    scale: float
    digits: int
    higher_is_better: bool | None
    compute: Callable[[Sums], NDArray[np.float64]]
    priority: int
    threshold: float | None
    largest: float | None
    summary: str
    formula: str
    range: str
    reading: str
    pitfalls: str
    source: str

    @property
    def sign(self) -> float:
        """1 where lower is worse, else -1: sorting by sign * value puts the worst first.

        A metric without a good direction is sorted from the largest value down.
        """
        return 1.0 if self.higher_is_better else -1.0

    @property
    def least(self) -> float | None:
        """The smallest value it can have; decibels have none."""
        return None if self.unit == "dB" else 0.0

    def breached(self, value: float | None, limit: float) -> bool:
        """Whether a figure is beyond a threshold; an undefined one never is."""
        if value is None or np.isnan(value):
            return False
        return value < limit if self.higher_is_better else value > limit

    def shown(self, value: float | None, *, digits: int | None = None) -> str:
        """A document's figure in `unit`, without it; a dash where it is undefined."""
        decimals = self.digits if digits is None else digits
        return "-" if value is None else f"{self.scale * value:.{decimals}f}"


METRICS: dict[str, Metric] = {
    each.name: each
    for each in (
        Metric(
            name="sqnr_db",
            title="SQNR",
            label="SQNR",
            unit="dB",
            scale=1.0,
            digits=1,
            higher_is_better=True,
            compute=_sqnr_db,
            priority=2,
            threshold=20.0,
            largest=None,
            summary="Signal-to-quantization-noise ratio of all values together.",
            formula="10 log10(sum x^2 / sum e^2), with e = y - x for the dequantized value y",
            range="any number; higher is better. Undefined where every value is zero, or where "
            "reconstruction is exact, which is better than any number.",
            reading="at 20 dB the error has 1 % of the signal's power; 6 dB less doubles its "
            "amplitude. Compare it with what ideal Gaussian data gets in the format (vs floor): in "
            "4 bits that is about 19 dB, so the guide's threshold of 20 dB flags every layer.",
            pitfalls="a few very large values carry most of the power, on some models those of the "
            "first token alone; look at the quantiles of single tokens, or scan with "
            "--skip-first-token. The mean of decibels is not the decibels of the mean: several "
            "tensors are pooled by their sums.",
            source="Jayant and Noll, Digital Coding of Waveforms (1984)",
        ),
        Metric(
            name="deadzone",
            title="deadzone",
            label="dead",
            unit="%",
            scale=100.0,
            digits=1,
            higher_is_better=False,
            compute=_quotient("flushed", "elements"),
            priority=4,
            threshold=0.05,
            largest=1.0,
            summary="Share of all values that were not zero and became zero.",
            formula="count(x != 0 and y == 0) / count(all finite x)",
            range="0 to 1; lower is better. Undefined where no finite value was measured.",
            reading="a flushed value lies under half of the smallest step of its block; in MXFP4 "
            "with the floor rule that is under 1/32 to 1/16 of the block's largest value. Gaussian "
            "data loses 8.8 % this way; a layer far above that has blocks in which one value "
            "dwarfs the others.",
            pitfalls="values are compared with 0 exactly, not with a small number; zeros that were "
            "zero before do not count as flushed. Values this small carry little power, and SQNR "
            "hardly sees them.",
            source="the method's guide, with its threshold of 5 %",
        ),
        Metric(
            name="saturation",
            title="saturation",
            label="sat.",
            unit="%",
            scale=100.0,
            digits=2,
            higher_is_better=None,
            compute=_quotient("saturated", "elements"),
            priority=5,
            threshold=0.01,
            largest=1.0,
            summary="Share of all values that were clipped to the largest element.",
            formula="count(|x| / scale > largest element) / count(all finite x)",
            range="0 to 1; neither direction is better by itself. Undefined where no finite value "
            "was measured.",
            reading="it follows from the scale rule first: floor lets the largest values of a "
            "block clip (a few per cent of Gaussian data), ceil, rceil and absmax let none. "
            "clipping_share says how much of the error comes from it, and SQNR whether the error "
            "grew; so `srdd compare` calls a difference of it changed, not better or worse.",
            pitfalls="a value that equals the largest element is not clipped. The prototype's "
            "figure of this name counts values near the largest one of a tensor, which is "
            "something else.",
            source="the method's guide, with its threshold of 1 %",
        ),
        Metric(
            name="clipping_share",
            title="clipping share",
            label="clip share",
            unit="%",
            scale=100.0,
            digits=1,
            higher_is_better=None,
            compute=_quotient("clipped_e2", "e2"),
            priority=8,
            threshold=None,
            largest=1.0,
            summary="Share of the error's energy that comes from clipped values.",
            formula="sum e^2 over clipped values / sum e^2",
            range="0 to 1; neither direction is better by itself. Undefined where reconstruction "
            "is exact.",
            reading="near 0, another scale rule gains nothing by clipping less; a large share says "
            "that the rule costs more than the grid does. Gaussian data in MXFP4 with the floor "
            "rule gets 13 % from 2.3 % of its values.",
            pitfalls="it says where the error comes from and not how large it is; a layer may have "
            "a high share of a small error.",
            source="the definition above, srdd's own",
        ),
        Metric(
            name="relative_error",
            title="relative error",
            label="rel. err",
            unit="%",
            scale=100.0,
            digits=1,
            higher_is_better=False,
            compute=_quotient("relative", "nonzero"),
            priority=3,
            threshold=0.10,
            largest=None,
            summary="Mean over all values of the size of the error relative to the value.",
            formula="mean of |e| / |x| over x != 0",
            range="0 and up; lower is better. Undefined where every value is zero.",
            reading="Gaussian data in MXFP4 gets 21 % with the floor rule. Every value counts "
            "alike, however small.",
            pitfalls="a value that became zero counts as exactly 1, so this follows the deadzone "
            "closely (r = 0.997 over the layers of the method's own scan): it ranks layers by how "
            "many small values they hold. relative_l1 does not.",
            source="the method's guide, with its threshold of 10 %",
        ),
        Metric(
            name="relative_l1",
            title="relative L1 error",
            label="rel. L1",
            unit="%",
            scale=100.0,
            digits=1,
            higher_is_better=False,
            compute=_quotient("abs_e", "abs_x"),
            priority=6,
            threshold=None,
            largest=None,
            summary="Size of all errors together relative to the size of all values together.",
            formula="sum |e| / sum |x|",
            range="0 and up; lower is better. Undefined where every value is zero.",
            reading="Gaussian data in MXFP4 gets 10.8 % with the floor rule. Values weigh by their "
            "size, so small ones that became zero do not dominate it; in SQNR they weigh by their "
            "square.",
            pitfalls="it has no threshold in the guide, whose figures are of relative_error: the "
            "two cannot be compared with each other.",
            source="the definition above; the relative error in the L1 norm",
        ),
    )
}
"""Every metric of a tensor's own errors by its name, in the order of documents and tables."""


def _nats_a_token(sums: Sums) -> NDArray[np.float64]:
    return _ratio(sums[..., 1], field(sums, "tokens"))


KL = Metric(
    name="kl",
    title="KL",
    label="KL",
    unit="mnat",
    scale=1000.0,
    digits=2,
    higher_is_better=False,
    compute=_nats_a_token,
    priority=0,
    threshold=None,
    largest=None,
    summary="What quantizing a tensor costs the predictions: KL divergence from the model as it "
    "is. One tensor's operands are quantized and all else stays as it is.",
    formula="mean over predicted tokens of sum over v of p(v) log(p(v) / q(v)), p the model's "
    "distribution, q with the change. Estimated as 1/2 E[s^2] a token, s the sum over a prompt of "
    "g dY: dY the change of the linear's output, g the gradient of -log p(y) for labels y drawn "
    "from p at each position.",
    range="0 and up; lower is better",
    reading="an SQNR says how far values are off, this what the predictions make of it: rank "
    "tensors by it to see where quantization hurts. `srdd scan --kl` estimates it for all linears "
    "in one pass and measures some directly. The sum over all tensors is close to what quantizing "
    "all at once costs.",
    pitfalls="the estimate is of second order: where it fails, its check says so. Text unlike the "
    "calibration text can have other costs. A mixture's router that chooses other experts is a "
    "jump that no gradient sees.",
    source="the Fisher information as the curvature of KL (Amari 1998), with labels from the model "
    "itself (Kunstner et al. 2019)",
)
"""What a change costs end to end. Its sums are (..., 2): tokens, and nats over them."""

FIGURES: Mapping[str, Metric] = ChainMap({KL.name: KL}, METRICS)
"""The metrics, and after them what a change costs."""


def metric_name(text: str, known: Iterable[str] = METRICS) -> str:
    """The one of `known` that `text` stands for: its name, title, label, or how it begins.

    Raises:
        UsageError: it stands for none, or for several.
    """
    names = tuple(known)
    key = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if key in names:
        return key
    for metric in METRICS.values():
        words = (metric.title, metric.label, f"{metric.title} {metric.unit}")
        if metric.name in names and key in (re.sub(r"[^a-z0-9]+", "_", w.lower()) for w in words):
            return metric.name
    matches = [name for name in names if key and name.startswith(key)]
    if len(matches) != 1:
        raise unknown_name("metric", text, names)
    return matches[0]


def derive(sums: Sums) -> dict[str, NDArray[np.float64]]:
    """All metrics of `sums`.

    Arguments:
        sums: (..., fields).

    Returns:
        For each name of METRICS an array (...), NaN where the metric is undefined.
    """
    return {name: metric.compute(sums) for name, metric in METRICS.items()}


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
        return tuple(
            name
            for name, limit in vars(self).items()
            if METRICS[name].breached(metrics.get(name), limit)
        )
