"""One site in one format, layer by layer: sentences that follow from its figures, and statistics.

The sentences are plain text. They hold names from the scan, which each renderer escapes.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from srdd.documents.scan import Ranking, Record
from srdd.noise.experiment import spans
from srdd.noise.zones import natural_breaks
from srdd.numerics.confidence import kendall_tau
from srdd.numerics.metrics import METRICS
from srdd.reports.groups import Group
from srdd.reports.view import Cell, Column, Estimate, Field, Measure, Table, tabulate

WORST = 10
"""How many layers the list of the worst holds, as in the method's guide."""

CLASSES = ("high", "medium", "low")


def findings(group: Group) -> list[str]:
    """The sentences, the most important first; at least one."""
    found = [*_extremes(group), *_worst_range(group), *_zones(group), *_disagreement(group)]
    found += [ranking_sentence(ranking) for ranking in group.rankings] or [
        "How stable these rankings are is unknown: the scan keeps no replicates."
    ]
    return found


def worst(records: Sequence[Record], metric: str, count: int) -> list[Record]:
    """The `count` worst records by a metric, worst first; ties in order of layers."""
    sign = METRICS[metric].sign
    defined = [r for r in records if getattr(r.metrics, metric) is not None]
    return sorted(defined, key=lambda r: (sign * getattr(r.metrics, metric), r.layer))[:count]


def _extremes(group: Group) -> Iterator[str]:
    for name in dict.fromkeys(("sqnr_db", group.error)):
        metric, measure = METRICS[name], Measure.of(name)
        order = worst(group.layers, name, len(group.layers))
        if len(order) > 1:
            low, high = (
                f"{measure.with_unit(getattr(record.metrics, name))} in layer {record.layer}"
                for record in (order[0], order[-1])
            )
            title = metric.title[0].upper() + metric.title[1:]
            yield f"{title} by layer: worst {low}, best {high}."


def _worst_range(group: Group) -> Iterator[str]:
    """Where the worst layers lie, if the list of the worst is not simply most of the model."""
    if len(group.values(group.error)) < 2 * WORST:
        return
    layers = sorted(record.layer for record in worst(group.layers, group.error, WORST))
    kind = "are one contiguous range" if layers[-1] - layers[0] == len(layers) - 1 else "are"
    title = METRICS[group.error].title
    yield f"The {len(layers)} worst layers by {title} {kind}: {spans(layers)}."


def _zones(group: Group) -> Iterator[str]:
    means = [
        (statistics.fmean(values), zone)
        for zone in group.zones
        if (values := group.values(group.error, zone.layers))
    ]
    if len(means) < 2 or any(len(zone.layers) < 2 for zone in group.zones):
        return
    (high, bad), (low, good) = (pick(means, key=lambda one: one[0]) for pick in (max, min))
    measure = Measure.of(group.error)
    yield (
        f"By depth, {bad.name} ({layers_in(bad.layers)}) has the highest mean "
        f"{METRICS[group.error].title}, {measure.with_unit(high)}, and {good.name} "
        f"({layers_in(good.layers)}) the lowest, {measure.with_unit(low)}."
    )


def layers_in(layers: Sequence[int]) -> str:
    """`layer 3` or `layers 0-2, 7`."""
    return f"{'layer' if len(layers) == 1 else 'layers'} {spans(layers)}"


def agreement(group: Group) -> float | None:
    """Kendall's tau between the layers' order by the size of their errors and that by SQNR.

    1 is the same order and -1 the reverse; None where there is no order.
    """
    both = [(getattr(r.metrics, group.error), r.metrics.sqnr_db) for r in group.layers]
    pairs = [(error, -sqnr) for error, sqnr in both if error is not None and sqnr is not None]
    if len(pairs) < 2:
        return None
    return kendall_tau(*np.array(pairs).T)


def _disagreement(group: Group) -> Iterator[str]:
    tau = agreement(group)
    if tau is None:
        return
    count = min(WORST, len(group.layers) // 2)
    by_error, by_sqnr = (
        {record.layer for record in worst(group.layers, name, count)}
        for name in (group.error, "sqnr_db")
    )
    apart = sorted(by_error ^ by_sqnr)
    found = (
        f"Kendall's tau between the order by {METRICS[group.error].title} and by SQNR: {tau:.2f}"
    )
    if count > 1 and apart:
        found += f"; only one of the two counts {layers_in(apart)} among the {count} worst"
    yield f"{found}."


def ranking_sentence(ranking: Ranking) -> str:
    """How stable the order of layers is, in words."""
    name = METRICS[ranking.metric].title if ranking.metric in METRICS else ranking.metric
    spread = "" if ranking.spread is None else f"; layers spread by {100 * ranking.spread:.1f} %"
    if ranking.site == "weight":
        return f"Ranking by {name}: exact, since weights depend on no prompt{spread}."
    if ranking.tau_halves is None or ranking.top_k_change is None:
        return f"Ranking by {name}: its stability needs at least two prompts and differing layers."
    return (
        f"Ranking by {name}: Kendall's tau between halves of the prompts "
        f"{ranking.tau_halves:.2f}; the set of the worst {ranking.top_k} differs in "
        f"{100 * ranking.top_k_change:.0f} % of resamples{spread}."
    )


# Statistics


def overall(group: Group) -> Table:
    """Each metric over all layers; `undefined` where it has no value at all."""
    limits = group.thresholds

    def flagged(name: str) -> Cell:
        values, limit = group.values(name), getattr(limits, name, None)
        if not values:
            return "undefined"
        if limit is None:
            return None
        count = sum(METRICS[name].breached(value, limit) for value in values)
        sign = "<" if METRICS[name].higher_is_better else ">"
        return f"{count} of {len(values)} are {sign} {Measure.of(name).with_unit(limit)}"

    def figure(pick: str) -> Field[str]:
        def cell(name: str) -> Cell:
            values = group.values(name)
            value = getattr(statistics, pick, None) or {"min": min, "max": max}[pick]
            return Estimate(value(values) if values else None, measure=Measure.of(name))

        return Field(Column(_PICKS[pick]), cell)

    fields = [
        Field[str](Column("metric", align="left"), lambda name: METRICS[name].title),
        Field[str](Column("unit", align="left"), lambda name: Measure.of(name)),
        *map(figure, _PICKS),
        Field[str](
            Column("Gaussian"), lambda name: Estimate(group.floor[name], measure=Measure.of(name))
        ),
        Field[str](Column("flagged", align="left"), flagged),
    ]
    return tabulate("Statistics over layers", fields, list(METRICS), details=True)


_PICKS = {"min": "min", "max": "max", "fmean": "mean", "pstdev": "std"}
"""Statistics and their titles."""


def zone_table(group: Group) -> Table | None:
    """Means by depth, and by natural breaks of the size of the errors; None for few layers.

    A zone of a single layer says nothing that the layer does not say.
    """
    if any(len(zone.layers) < 2 for zone in group.zones):
        return None
    rows = [(zone.name, list(zone.layers)) for zone in group.zones]
    rows += _classes(group)
    fields = [
        Field[_Zone](Column("zone", align="left"), lambda row: row[0]),
        Field[_Zone](Column("which layers", align="left"), lambda row: spans(row[1])),
        *(_mean(group, name) for name in ("sqnr_db", group.error, "deadzone")),
    ]
    return tabulate(f"Zones, by depth and by {METRICS[group.error].title}", fields, rows)


_Zone = tuple[str, list[int]]


def _mean(group: Group, name: str) -> Field[_Zone]:
    def cell(row: _Zone) -> Cell:
        values = group.values(name, row[1])
        return statistics.fmean(values) if values else None

    return Field(Column(f"mean {METRICS[name].title}", Measure.of(name)), cell)


def _classes(group: Group) -> Iterable[_Zone]:
    """Layers whose errors lie close together, wherever they are in the model."""
    known = [
        (record.layer, value)
        for record in group.layers
        if (value := getattr(record.metrics, group.error)) is not None
    ]
    values = [value for _, value in known]
    classes = min(len(CLASSES), len(set(values)))
    if classes < 2:
        return
    class_of = natural_breaks(values, classes)
    names = CLASSES if classes == len(CLASSES) else (CLASSES[0], CLASSES[-1])
    for own, name in reversed(list(enumerate(reversed(names)))):
        yield f"{name} error", [n for (n, _), c in zip(known, class_of, strict=True) if c == own]
