"""What a strategy starts from: one figure a layer, how bad it is, and how stable the ranking is.

Layers are ranked by a metric and weighted by its badness, which grows with the error and is
proportional to an error's size:

    relative_error, relative_l1, deadzone   the metric itself
    sqnr_db                                 10^(-sqnr_db / 20), noise over signal as an amplitude
    vs_floor_db                             10^(-vs_floor_db / 20): the same times a constant, which
                                            gives the same multipliers
    kl, kl_per_sigma2                       the square root: KL grows with the square of an error

A decibel figure itself is no weight: its zero is arbitrary, and a mean of decibels is no mean of
anything. Layers are ranked by `kl` where the scan has it and single tensors were not found off, and
otherwise by `relative_error`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from srdd.documents.document import Interval
from srdd.documents.scan import Ranking, Record, Scan
from srdd.documents.sensitivity import Figure
from srdd.errors import InputError, SrddError, UsageError, unknown_name

METRICS = ("relative_error", "sqnr_db", "deadzone", "relative_l1", "vs_floor_db", "kl")
"""What layers can be ranked by."""

LOCAL = METRICS[0]
"""What layers are ranked by where the scan does not tell what quantizing them costs."""

KL = "kl"
PROPORTIONAL = ("relative_error", "relative_l1", "deadzone")
"""Metrics that are themselves the badness of a layer."""

NOISE = "kl_per_sigma2"
"""What noise of variance 1 costs in a layer: what `balanced` looks at; no metric to rank by."""

MOST_NAMED = 8
"""How many layers without figures an error names."""

ACTS_ON = {"rmsnorm": "input", "linear": "weight"}
"""layer type -> the site that noise on it acts on."""

Stability = tuple[float | None, float | None]
"""Kendall's tau between halves of the prompts, and the chance that the worst layers change; None
where the scan cannot tell. See `srdd.numerics.confidence.Stability`."""


@dataclass(frozen=True)
class Figures:
    """The figures of every layer, (layers,) each, with what they were taken from.

    Attributes:
        scan: the scan that they are from.
        metric: what layers are ranked by.
        records: one a layer, of one site and format, pooled over the tensors of a layer.
        values: the metric, in its own unit.
        intervals: its 95 % interval, where the scan has one.
        costs: of a metric that is a cost in predictions, what its values are the sums of, with the
            layer of each.
    """

    scan: Scan
    metric: str
    records: tuple[Record, ...]
    values: tuple[float, ...]
    intervals: tuple[Interval | None, ...]
    costs: tuple[tuple[int, Figure], ...] = ()

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def badness(self) -> tuple[float, ...]:
        """How bad each layer is; see the module. At least 0, larger is worse."""
        return tuple(_badness(self.metric, value) for value in self.values)

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
        scan, seed, group = self.scan, self.scan.settings.seed, _group(self.records[0])
        if self.costs:
            from srdd.documents import sensitivity_figures as section

            assert scan.sensitivity is not None
            nats = section.nats_by_layer(self.costs, scan.sensitivity)
            return section.stability_of(nats, top_k, seed)
        metric = _measured(self.metric)
        for ranking in scan.rankings:
            if (_group(ranking), ranking.metric, ranking.top_k) == (group, metric, top_k):
                return ranking.tau_halves, ranking.top_k_change
        if any(record.replicates is None for record in self.records):
            return None, None
        # What the scan did not work out itself needs numpy, which costs more than all the rest.
        from srdd.documents.pool import stability_of

        return stability_of(self.records, metric, top_k, seed)


def default_site(scan: Scan, layer_type: str) -> str:
    """The site that noise acts on where the scan has it; else `input`, `output` or the first."""
    sites = scan.settings.sites
    return next(s for s in (ACTS_ON[layer_type], "input", "output", sites[0]) if s in sites)


def default_metric(scan: Scan, format: str | None) -> str:
    """What layers are ranked by unless something else is asked for; see the module.

    Raises:
        UsageError: no such format in the scan.
    """
    section, spec = scan.sensitivity, scan.spec(format)
    if section is None:
        return LOCAL
    costed = {c.layer for c in section.changes if (c.format, c.operands) == (spec, "both")}
    if costed != set(range(len(scan.model.layers))):
        return LOCAL
    from srdd.documents.sensitivity_figures import ranks_tensors

    return LOCAL if ranks_tensors(section, spec) is False else KL


def figures_of(
    scan: Scan, *, site: str | None, format: str | None, metric: str | None = None
) -> Figures:
    """The figures of a scan's layers.

    Arguments:
        scan: what to read.
        site: a site of the scan; that of noise on norms for None.
        format: a format of the scan; None if it holds only one.
        metric: one of METRICS; `default_metric` for None. `kl` is what quantizing both operands of
            a layer's linears costs, the sum over them; the site is then that of the other figures.

    Raises:
        UsageError: no such site, format or metric in the scan, or no sensitivity for `kl`.
        InputError: a layer has no figure, or its metric is undefined.
    """
    metric = metric or default_metric(scan, format)
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    records = scan.select(site or default_site(scan, "rmsnorm"), format)
    layers = {record.layer for record in records}
    if len(layers) < len(records):
        from srdd.documents.pool import pool_layers

        records = pool_layers(records, rounding=scan.settings.rounding)
    _check_complete(scan, metric, layers)
    if metric == KL:
        return costed(scan, records, KL, _quantizing(scan, format))
    rows = [(_value(r, metric), getattr(r.intervals, metric, None)) for r in records]
    values = [value for value, _ in rows if value is not None]
    if len(values) < len(rows):
        raise _undefined(records, metric)
    return Figures(scan, metric, tuple(records), tuple(values), tuple(row[1] for row in rows))


def agreement_of(figures: Figures, metric: str) -> float | None:
    """Kendall's tau between the ranking of layers and that by another metric; None if undefined."""
    from srdd.documents.sensitivity_figures import agreement

    record = figures.records[0]
    spec = f"{record.format}:{record.scale_rule}"
    try:
        other = figures_of(figures.scan, site=record.site, format=spec, metric=metric)
    except SrddError:
        return None
    tau = agreement(figures.badness, other.badness)
    return None if math.isnan(tau) else tau


def costed(
    scan: Scan, records: Sequence[Record], metric: str, costs: Sequence[tuple[int, Figure]]
) -> Figures:
    """Figures that are costs in predictions, the sum over those of a layer.

    Raises:
        InputError: a layer has none.
    """
    from srdd.documents.sensitivity_figures import weighted

    assert scan.sensitivity is not None
    by_layer: dict[int, list[tuple[Figure, float]]] = {}
    for layer, cost in costs:
        by_layer.setdefault(layer, []).append((cost, 1.0))
    _check_complete(scan, metric, set(by_layer))
    rows = [weighted(by_layer[layer], scan.sensitivity) for layer in sorted(by_layer)]
    return Figures(
        scan,
        metric,
        tuple(records),
        tuple(row["value"] for row in rows),
        tuple(row["interval"] for row in rows),
        tuple(costs),
    )


def _quantizing(scan: Scan, format: str | None) -> list[tuple[int, Figure]]:
    """What quantizing both operands of each linear costs, with its layer."""
    scan.sensitivities(format)  # raises where there are none
    assert scan.sensitivity is not None
    spec = scan.spec(format)
    return [
        (change.layer, change)
        for change in scan.sensitivity.changes
        if (change.format, change.operands) == (spec, "both")
    ]


def _check_complete(scan: Scan, metric: str, layers: set[int]) -> None:
    missing = [str(layer.index) for layer in scan.model.layers if layer.index not in layers]
    if missing:
        more = ", ..." if len(missing) > MOST_NAMED else ""
        raise InputError(
            f"the scan has no {metric} of layer{'s' if len(missing) > 1 else ''} "
            f"{', '.join(missing[:MOST_NAMED])}{more}",
            "scan the whole model: a strategy compares every layer with every other",
        )


def _group(part: Record | Ranking) -> tuple[str, str, str, str | None]:
    return part.site, part.format, part.scale_rule, part.operands


def _measured(metric: str) -> str:
    """The metric that a figure to rank by is derived from."""
    return "sqnr_db" if metric == "vs_floor_db" else metric


def _value(record: Record, metric: str) -> float | None:
    value: float | None = getattr(record if metric == "vs_floor_db" else record.metrics, metric)
    return value


def _undefined(records: Sequence[Record], metric: str) -> InputError:
    first = next(record for record in records if _value(record, metric) is None)
    others = [m for m in METRICS if m != KL and all(_value(r, m) is not None for r in records)]
    reason = first.undefined.get(_measured(metric), "the scan does not say why")
    return InputError(
        f"{metric} of layer {first.layer} is undefined: {reason}",
        f"rank by another metric: {', '.join(others)}" if others else "scan again",
    )


def _badness(metric: str, value: float) -> float:
    if metric in (KL, NOISE):
        return math.sqrt(value)
    if metric in PROPORTIONAL:
        return value
    if abs(value) > 3000:
        raise UsageError(f"{metric} is {value:g} dB", "rank by relative_error instead")
    return math.pow(10.0, -value / 20)
