"""The layers of a group as Markdown: overall, the worst, where rankings disagree, zones, all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from srdd.documents.scan import Record
from srdd.noise.experiment import spans
from srdd.noise.zones import natural_breaks, zone_of
from srdd.reports.cells import distance
from srdd.reports.findings import WORST_BY_ERROR, WORST_BY_SQNR, disputed, ranks
from srdd.reports.groups import NAMES, Group
from srdd.reports.markdown_text import code, escape, fold, table
from srdd.reports.overall import overall
from srdd.reports.tables import worst
from srdd.reports.tensors import kinds
from srdd.reports.text import number, percent, with_half_width
from srdd.reports.verdict import verdict

MOST_DISPUTED = 10
"""Rows at most about layers that the rankings disagree about."""

CLASSES = ("high", "medium", "low")

_SQNR = "SQNR (dB)"


def analysis(group: Group) -> Iterable[str]:
    """The parts of one group's analysis, each ending in a line end."""
    yield f"## Layers: site {escape(group.place)}, {code(group.spec)}\n"
    yield "### Overall statistics\n"
    yield _overall(group)
    by_error = worst(group.layers, group.error, WORST_BY_ERROR)
    if by_error:
        yield f"### Worst {len(by_error)} by {_name(group)}\n"
        yield _worst_by_error(group, by_error)
    by_sqnr = worst(group.layers, "sqnr_db", WORST_BY_SQNR)
    if by_sqnr:
        yield f"### Worst {len(by_sqnr)} by SQNR\n"
        yield _worst_by_sqnr(group, by_sqnr)
    if held := disputed(group):
        yield "### Where the two rankings disagree\n"
        yield _disputed(group, held)
    yield "### Zones by depth\n"
    yield _zones(group)
    yield from _breaks(group)
    yield "### Every layer\n"
    yield _every_layer(group)
    if group.several:
        yield fold(f"Every tensor ({len(group.tensors)})", _every_tensor(group))


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], sides: str) -> str:
    """A table whose columns stand to the left (l) or to the right (r)."""
    return table(header, rows, ["left" if side == "l" else "right" for side in sides])


def _overall(group: Group) -> str:
    rows = [
        [
            f"{escape(NAMES[each.metric])} {'(dB)' if each.metric == 'sqnr_db' else '%'}",
            each.low,
            each.high,
            each.mean_and_spread.replace(" ±", "±"),
            escape(each.threshold),
            each.shown(each.floor),
            each.status,
        ]
        for each in overall(group)
    ]
    header = ["Metric", "Min", "Max", "Mean±Std", "Flagged", "Gaussian floor", "Status"]
    return _table(header, rows, "lrrrrrl")


def _name(group: Group) -> str:
    """What tells the size of errors here."""
    return escape(NAMES[group.error])


def _title(group: Group) -> str:
    name = _name(group)
    return f"{name[0].upper()}{name[1:]} %"


def _error(group: Group, record: Record) -> str:
    """The size of its error in per cent with two decimals, as the guide prints it."""
    interval = getattr(record.intervals, group.error, None)
    return with_half_width(getattr(record.metrics, group.error), interval, digits=2, scale=100)


def _sqnr(record: Record, digits: int = 1) -> str:
    interval = record.intervals.sqnr_db if record.intervals else None
    return with_half_width(record.metrics.sqnr_db, interval, digits=digits)


def _zone(group: Group, record: Record) -> str:
    return zone_of(group.zones, record.layer).name


def _worst_by_error(group: Group, records: Sequence[Record]) -> str:
    rows = [
        [
            str(place),
            f"**{record.layer}**",
            _error(group, record),
            percent(record.metrics.deadzone, 2),
            _sqnr(record),
            _zone(group, record),
        ]
        for place, record in enumerate(records, 1)
    ]
    header = ["Rank", "Layer", _title(group), "Deadzone %", _SQNR, "Zone"]
    return _table(header, rows, "rrrrrl")


def _worst_by_sqnr(group: Group, records: Sequence[Record]) -> str:
    rows = [
        [
            str(place),
            f"**{record.layer}**",
            _sqnr(record),
            _error(group, record),
            _zone(group, record),
        ]
        for place, record in enumerate(records, 1)
    ]
    header = ["Rank", "Layer", _SQNR, _title(group), "Zone"]
    return _table(header, rows, "rrrrl")


def _disputed(group: Group, held: Sequence[int]) -> str:
    by_error, by_sqnr = ranks(group, group.error), ranks(group, "sqnr_db")
    apart = sorted(held, key=lambda layer: -abs(by_error[layer] - by_sqnr[layer]))[:MOST_DISPUTED]
    rows = [
        [
            str(record.layer),
            str(by_error[record.layer]),
            str(by_sqnr[record.layer]),
            _error(group, record),
            _sqnr(record, 2),
            _zone(group, record),
        ]
        for record in group.layers
        if record.layer in apart
    ]
    header = ["Layer", "Rank by error", "Rank by SQNR", _title(group), _SQNR, "Zone"]
    which = "those" if len(apart) == len(held) else f"the {len(apart)} of them farthest apart"
    said = (
        f"Only one of the two orders counts {'this' if len(held) == 1 else 'these'} among the "
        f"worst: {spans(held)}. The table holds {which}; rank 1 is the worst.\n\n"
    )
    return said + _table(header, rows, "rrrrrl")


def _means(group: Group, layers: Sequence[int]) -> list[str]:
    """Mean relative error, deadzone and SQNR of some layers; a dash where nothing is defined."""
    cells = []
    for metric, scale in ((group.error, 100.0), ("deadzone", 100.0), ("sqnr_db", 1.0)):
        values = group.values(metric, layers)
        cells.append(number(scale * float(np.mean(values)) if values else None))
    return cells


def _mean_titles(group: Group) -> list[str]:
    return [f"Mean {_name(group)} %", "Mean deadzone %", "Mean SQNR (dB)"]


def _zones(group: Group) -> str:
    held = {record.layer for record in group.layers}
    rows = [
        [
            f"**{zone.name}** ({zone.first}-{zone.last})",
            str(len(held & set(zone.layers))),
            *_means(group, zone.layers),
        ]
        for zone in group.zones
        if held & set(zone.layers)
    ]
    return _table(["Zone", "Layers", *_mean_titles(group)], rows, "lrrrr")


def _breaks(group: Group) -> Iterable[str]:
    """Layers whose errors lie close together, wherever they are in the model."""
    sizes = [(record.layer, getattr(record.metrics, group.error)) for record in group.layers]
    found = [(layer, value) for layer, value in sizes if value is not None]
    values = [value for _, value in found]
    classes = min(len(CLASSES), len(set(values)))
    if classes < 2:
        return
    names = CLASSES if classes == len(CLASSES) else (CLASSES[0], CLASSES[-1])
    class_of = natural_breaks(values, classes)
    rows = []
    for place, name in enumerate(names):
        wanted = classes - 1 - place
        inside = [layer for (layer, _), own in zip(found, class_of, strict=True) if own == wanted]
        rows.append([f"**{name}**", spans(inside), str(len(inside)), *_means(group, inside)])
    yield f"### Zones by natural breaks of the {_name(group)}\n"
    header = ["Class", "Which layers", "Layers", *_mean_titles(group)]
    yield _table(header, rows, "llrrrr")


def _figures(group: Group, record: Record, word: str) -> list[str]:
    return [
        _sqnr(record, 2),
        distance(record),
        _error(group, record),
        percent(record.metrics.deadzone, 2),
        percent(record.metrics.saturation, 2),
        word,
    ]


def _columns(group: Group) -> list[str]:
    return [_SQNR, "vs floor (dB)", _title(group), "Deadzone %", "Saturation %", "Verdict"]


def _every_layer(group: Group) -> str:
    rows = [
        [str(record.layer), _zone(group, record), *_figures(group, record, word)]
        for record, word in zip(group.layers, group.words, strict=True)
    ]
    header = ["Layer", "Zone", *_columns(group)]
    return _table(header, rows, "rlrrrrrl") + _VERDICTS


_VERDICTS = """
Verdicts: ok = no threshold breached; at floor = breached, but at most 1 dB below what Gaussian
data gets in this format; poor, bad = more than 1, 3 dB below that; broken = NaN or infinite values.
± is half the width of a 95 % interval over prompts.
"""


def _every_tensor(group: Group) -> str:
    rows = [
        [
            str(record.layer),
            escape(kinds(record)),
            code(record.tensor),
            *_figures(group, record, verdict(record, group.thresholds)),
        ]
        for record in group.tensors
    ]
    header = ["Layer", "Kind", "Module", *_columns(group)]
    return _table(header, rows, "rllrrrrrl")


def formats_beside(groups: Sequence[Group]) -> Iterable[str]:
    """For each site in several formats, these beside each other."""
    header = False
    for place in dict.fromkeys(group.place for group in groups):
        held = [group for group in groups if group.place == place]
        if len(held) < 2:
            continue
        if not header:
            yield "## Formats beside each other\n"
            header = True
        rows = []
        for group in held:
            low = worst(group.layers, "sqnr_db", 1)
            means = _means(group, [record.layer for record in group.layers])
            rows.append(
                [code(group.spec), *means, f"{low[0].layer} ({_sqnr(low[0])})" if low else "-"]
            )
        yield f"### Site {escape(place)}\n"
        titles = ["Format", *_mean_titles(held[0]), "Worst layer by SQNR"]
        yield _table(titles, rows, "lrrrr")
