"""What a strategy starts from: one figure a layer, how bad it is, and how far the ranking holds.

Layers are ranked by a metric and weighted by its badness, which grows with the error and is
proportional to an error's size:

    relative_error, relative_l1, deadzone   the metric itself
    sqnr_db                                 10^(-sqnr_db / 20), noise over signal as an amplitude
    vs_floor_db                             10^(-vs_floor_db / 20): the same times a constant, which
                                            gives the same multipliers

A decibel figure itself is no weight: its zero is arbitrary, and a mean of decibels is no mean of
anything.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from dataclasses import dataclass

import orjson

from srdd.documents.scan import Interval, Ranking, Record, Scan
from srdd.errors import InputError, UsageError, unknown_name

METRICS = ("relative_error", "sqnr_db", "deadzone", "relative_l1", "vs_floor_db")
"""What layers can be ranked by; the first is the default."""


Stability = tuple[float | None, float | None]
"""Kendall's tau between halves of the prompts, and the chance that the worst layers change; None
where the scan cannot tell. See `srdd.numerics.confidence.Stability`."""


@dataclass(frozen=True)
class LayerFigure:
    """One layer's figure.

    Attributes:
        layer: its index.
        value: the metric, in its own unit.
        interval: 95 % interval of the metric, where the scan has one.
        badness: see the module; at least 0, larger is worse.
        sqnr_db: what quantization leaves, dB; None where undefined.
    """

    layer: int
    value: float
    interval: Interval | None
    badness: float
    sqnr_db: float | None


@dataclass(frozen=True)
class Figures:
    """The figures of every layer, in order of layers, with what they were taken from.

    Attributes:
        site, format, scale_rule, metric: which of the scan's figures these are.
        layers: one a layer.
        records: the records behind them, pooled over the tensors of a layer.
        rankings: what the scan says about the stability of rankings of these records.
        seed: of resampling.
    """

    site: str
    format: str
    scale_rule: str
    metric: str
    layers: tuple[LayerFigure, ...]
    records: tuple[Record, ...]
    rankings: tuple[Ranking, ...]
    seed: int

    @property
    def badness(self) -> list[float]:
        """Badness of each layer."""
        return [figure.badness for figure in self.layers]

    @property
    def worst_first(self) -> list[int]:
        """The layers, the worst first; of equally bad ones the lower index."""
        order = sorted(self.layers, key=lambda figure: (-figure.badness, figure.layer))
        return [figure.layer for figure in order]

    @property
    def spread(self) -> float:
        """Coefficient of variation of the badness over layers; 0 for a single layer."""
        mean = statistics.fmean(self.badness)
        if len(self.layers) < 2 or mean == 0:
            return 0.0
        return statistics.stdev(self.badness) / mean

    @property
    def all_equal(self) -> bool:
        """Whether no layer is worse than another, to within rounding."""
        return math.isclose(min(self.badness), max(self.badness), rel_tol=1e-12, abs_tol=0.0)

    def stability(self, top_k: int) -> Stability:
        """How stable the ranking, and the set of the worst `top_k`, are with other prompts."""
        metric = "sqnr_db" if self.metric == "vs_floor_db" else self.metric
        for ranking in self.rankings:
            if (ranking.metric, ranking.top_k) == (metric, top_k):
                return ranking.tau_halves, ranking.top_k_change
        if any(record.replicates is None for record in self.records):
            return None, None
        # What the scan did not work out itself needs numpy, which costs more than all the rest.
        from srdd.documents.pool import stability_of

        return stability_of(self.records, metric, top_k, self.seed)


def figures_of(scan: Scan, *, site: str | None, format: str | None, metric: str) -> Figures:
    """The figures of a scan's layers.

    Arguments:
        scan: what to read.
        site: a site of the scan; None for `output`, or for the only one it holds.
        format: a format of the scan; None if it holds only one.
        metric: one of METRICS.

    Raises:
        UsageError: no such site, format or metric in the scan.
        InputError: a layer has no figure, or its metric is undefined.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    sites = scan.settings.sites
    if site is None:
        site = "output" if "output" in sites or len(sites) > 1 else sites[0]
    records = scan.select(site, format)
    if len({record.layer for record in records}) < len(records):
        from srdd.documents.pool import pool_layers

        settings = scan.settings
        records = pool_layers(records, rounding=settings.rounding, seed=settings.seed)
    _check_complete(scan, records, site)
    first = records[0]
    group = (first.site, first.format, first.scale_rule, first.operands)
    return Figures(
        site=site,
        format=first.format,
        scale_rule=first.scale_rule,
        metric=metric,
        layers=tuple(_figure(scan, record, metric) for record in records),
        records=tuple(records),
        rankings=tuple(
            r for r in scan.rankings if (r.site, r.format, r.scale_rule, r.operands) == group
        ),
        seed=scan.settings.seed,
    )


def _check_complete(scan: Scan, records: list[Record], site: str) -> None:
    held = {record.layer for record in records}
    missing = [layer.index for layer in scan.model.layers if layer.index not in held]
    if not missing:
        return
    names = ", ".join(map(str, missing[:8])) + (", ..." if len(missing) > 8 else "")
    what = f"layer {names}" if len(missing) == 1 else f"layers {names}"
    raise InputError(
        f"the scan holds no figures of {what} at site {site}",
        "scan the whole model: a strategy compares every layer with every other",
    )


def _value(record: Record, metric: str) -> float | None:
    if metric == "vs_floor_db":
        return record.vs_floor_db
    value: float | None = getattr(record.metrics, metric)
    return value


def _figure(scan: Scan, record: Record, metric: str) -> LayerFigure:
    value = _value(record, metric)
    if value is None:
        source = "sqnr_db" if metric == "vs_floor_db" else metric
        reason = record.undefined.get(source, "the scan does not say why")
        usable = [
            name
            for name in METRICS
            if all(
                _value(other, name) is not None for other in scan.select(record.site, _spec(record))
            )
        ]
        raise InputError(
            f"{metric} of layer {record.layer} is undefined: {reason}",
            f"rank by another metric: {', '.join(usable)}" if usable else "scan the model again",
        )
    intervals = record.intervals
    return LayerFigure(
        layer=record.layer,
        value=value,
        interval=None if intervals is None else getattr(intervals, metric, None),
        badness=_badness(metric, value),
        sqnr_db=record.metrics.sqnr_db,
    )


def _spec(record: Record) -> str:
    return f"{record.format}:{record.scale_rule}"


def _badness(metric: str, value: float) -> float:
    exponent = {"sqnr_db": -value / 20, "vs_floor_db": -value / 20}.get(metric)
    if exponent is None:
        return value
    if abs(exponent) > 150:
        raise UsageError(f"{metric} is {value:g} dB", "rank by relative_error instead")
    return math.pow(10.0, exponent)


def fingerprint(scan: Scan) -> str:
    """SHA-256 of what was measured, as 64 hexadecimal digits.

    It covers the names and fingerprints of model and text, the settings and every metric, and
    leaves out when, where and how fast the scan ran. So a scan made twice, or saved and read again,
    keeps its fingerprint.
    """
    content = {
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
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
