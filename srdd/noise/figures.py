"""What a strategy starts from: one figure a layer, how bad it is, and how stable the ranking is.

Layers are ranked by a metric and weighted by its badness, which grows with the error and is
proportional to an error's size:

    relative_error, relative_l1, deadzone   the metric itself
    sqnr_db                                 10^(-sqnr_db / 20), noise over signal as an amplitude
    vs_floor_db                             10^(-vs_floor_db / 20): the same times a constant, which
                                            gives the same multipliers
    kl                                      its square root: KL grows with the square of an error

A decibel figure itself is no weight: its zero is arbitrary, and a mean of decibels is no mean of
anything.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from dataclasses import dataclass
from typing import Any

import orjson

from srdd.documents.document import Interval
from srdd.documents.scan import Ranking, Record, Scan
from srdd.documents.sensitivity import Sensitivity
from srdd.errors import InputError, UsageError, unknown_name

METRICS = ("relative_error", "sqnr_db", "deadzone", "relative_l1", "vs_floor_db", "kl")
"""What layers can be ranked by; the first is the default."""

KL = "kl"

ACTS_ON = {"rmsnorm": "input", "linear": "weight"}
"""layer type -> the site that noise on it acts on."""

Stability = tuple[float | None, float | None]
"""Kendall's tau between halves of the prompts, and the chance that the worst layers change; None
where the scan cannot tell. See `srdd.numerics.confidence.Stability`."""


@dataclass(frozen=True)
class Figures:
    """The figures of every layer, (layers,) each, with what they were taken from.

    Attributes:
        site, format, scale_rule, metric: which of the scan's figures these are.
        values: the metric, in its own unit.
        intervals: its 95 % interval, where the scan has one.
        badness: see the module; at least 0, larger is worse.
        sqnr_db: what quantization leaves, dB; None where undefined.
        records: the records behind them, pooled over the tensors of a layer.
        rankings: what the scan says about the stability of rankings of these records.
        seed: of resampling.
        sensitivity: that of the scan, for `kl`.
    """

    site: str
    format: str
    scale_rule: str
    metric: str
    values: tuple[float, ...]
    intervals: tuple[Interval | None, ...]
    badness: tuple[float, ...]
    sqnr_db: tuple[float | None, ...]
    records: tuple[Record, ...]
    rankings: tuple[Ranking, ...]
    seed: int
    sensitivity: Sensitivity | None = None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def worst_first(self) -> list[int]:
        """The layers, the worst first; of equally bad ones the lower index."""
        return sorted(range(len(self)), key=lambda layer: -self.badness[layer])

    @property
    def spread(self) -> float:
        """Coefficient of variation of the badness over layers; 0 for a single layer."""
        mean = statistics.fmean(self.badness)
        return 0.0 if len(self) < 2 or mean == 0 else statistics.stdev(self.badness) / mean

    @property
    def all_equal(self) -> bool:
        """Whether no layer is worse than another, to within rounding."""
        return math.isclose(min(self.badness), max(self.badness), rel_tol=1e-12, abs_tol=0.0)

    def stability(self, top_k: int) -> Stability:
        """How stable the ranking, and the set of the worst `top_k`, are with other prompts."""
        if self.metric == KL:
            from srdd.documents.sensitivity_figures import stability_of as stability_of_kl

            assert self.sensitivity is not None
            spec = f"{self.format}:{self.scale_rule}"
            return stability_of_kl(self.sensitivity, spec, top_k, self.seed)
        metric = _measured(self.metric)
        for ranking in self.rankings:
            if (ranking.metric, ranking.top_k) == (metric, top_k):
                return ranking.tau_halves, ranking.top_k_change
        if any(record.replicates is None for record in self.records):
            return None, None
        # What the scan did not work out itself needs numpy, which costs more than all the rest.
        from srdd.documents.pool import stability_of

        return stability_of(self.records, metric, top_k, self.seed)


def default_site(scan: Scan, layer_type: str) -> str:
    """The site that noise acts on where the scan has it; else `input`, `output` or the first."""
    sites = scan.settings.sites
    wanted = (ACTS_ON.get(layer_type, "input"), "input", "output", sites[0])
    return next(site for site in wanted if site in sites)


def figures_of(scan: Scan, *, site: str | None, format: str | None, metric: str) -> Figures:
    """The figures of a scan's layers.

    Arguments:
        scan: what to read.
        site: a site of the scan; see `default_site` for None.
        format: a format of the scan; None if it holds only one.
        metric: one of METRICS. `kl` is what quantizing both operands of a layer's linears costs,
            the sum over them; the site is then that of the other figures.

    Raises:
        UsageError: no such site, format or metric in the scan, or no sensitivity for `kl`.
        InputError: a layer has no figure, or its metric is undefined.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    site = default_site(scan, "rmsnorm") if site is None else site
    records = scan.select(site, format)
    if len({record.layer for record in records}) < len(records):
        from srdd.documents.pool import pool_layers

        settings = scan.settings
        records = pool_layers(records, rounding=settings.rounding)
    _check_complete(scan, records, site)
    first = records[0]
    intervals: list[Interval | None]
    if metric == KL:
        values, intervals = _costs(scan, f"{first.format}:{first.scale_rule}")
    else:
        values = _values(records, metric)
        intervals = [getattr(record.intervals, metric, None) for record in records]
    group = (first.site, first.format, first.scale_rule, first.operands)
    return Figures(
        site=site,
        format=first.format,
        scale_rule=first.scale_rule,
        metric=metric,
        values=tuple(values),
        intervals=tuple(intervals),
        badness=tuple(_badness(metric, value) for value in values),
        sqnr_db=tuple(record.metrics.sqnr_db for record in records),
        records=tuple(records),
        rankings=tuple(
            r for r in scan.rankings if (r.site, r.format, r.scale_rule, r.operands) == group
        ),
        seed=scan.settings.seed,
        sensitivity=scan.sensitivity,
    )


def _costs(scan: Scan, spec: str) -> tuple[list[float], list[Interval | None]]:
    """What quantizing each layer costs, nats a token, with intervals."""
    rows = {row["layer"]: row for row in scan.sensitivities(spec, "both", "layer")}
    missing = [layer.index for layer in scan.model.layers if layer.index not in rows]
    if missing:
        raise InputError(
            f"the scan has no kl of layer {missing[0]}",
            "scan the whole model with --kl: a strategy compares every layer with every other",
        )
    ordered = [rows[layer] for layer in sorted(rows)]
    return [row["kl"] for row in ordered], [row["kl_interval"] for row in ordered]


def _check_complete(scan: Scan, records: list[Record], site: str) -> None:
    known = {record.layer for record in records}
    missing = [layer.index for layer in scan.model.layers if layer.index not in known]
    if missing:
        names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
        raise InputError(
            f"the scan has no figures of layer{'s' if len(missing) > 1 else ''} {names} at site "
            f"{site}",
            "scan the whole model: a strategy compares every layer with every other",
        )


def _measured(metric: str) -> str:
    """The metric that a figure to rank by is derived from."""
    return "sqnr_db" if metric == "vs_floor_db" else metric


def _value(record: Record, metric: str) -> float | None:
    value: float | None = getattr(record if metric == "vs_floor_db" else record.metrics, metric)
    return value


def _values(records: list[Record], metric: str) -> list[float]:
    values = []
    for record in records:
        value = _value(record, metric)
        if value is None:
            local = [m for m in METRICS if m != KL]
            usable = [m for m in local if all(_value(each, m) is not None for each in records)]
            reason = record.undefined.get(_measured(metric), "the scan does not say why")
            raise InputError(
                f"{metric} of layer {record.layer} is undefined: {reason}",
                f"rank by another metric: {', '.join(usable)}" if usable else "scan again",
            )
        values.append(value)
    return values


def _badness(metric: str, value: float) -> float:
    if metric == KL:
        return math.sqrt(value)
    if _measured(metric) != "sqnr_db":
        return value
    if abs(value) > 3000:
        raise UsageError(f"{metric} is {value:g} dB", "rank by relative_error instead")
    return math.pow(10.0, -value / 20)


def fingerprint(scan: Scan) -> str:
    """SHA-256 of what was measured, as 64 hexadecimal digits.

    It covers the names and fingerprints of model and text, the settings and every metric, and
    leaves out when, where and how fast the scan ran. So a scan made twice, or saved and read again,
    keeps its fingerprint.
    """
    content: dict[str, Any] = {
        "model": [scan.model.name, scan.model.fingerprint],
        "calibration": scan.calibration.fingerprint,
        "settings": scan.settings.model_dump(mode="json"),
        "records": [
            [
                *(r.layer, r.site, r.tensor, r.format, r.scale_rule),
                *([r.operands] if r.operands else []),
                r.metrics.model_dump(),
            ]
            for r in scan.records
        ],
    }
    if scan.sensitivity is not None:
        content["sensitivity"] = [
            [c.tensor, c.format, c.operands, c.value] for c in scan.sensitivity.changes
        ]
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
