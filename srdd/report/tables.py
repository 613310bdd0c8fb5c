"""A scan as tables for a terminal: overall, layer by layer, the worst, the zones.

Tables leave out columns where the terminal is narrow. No figure is ever cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from srdd.errors import counted
from srdd.formats import parse_spec
from srdd.metrics import HIGHER_IS_BETTER, Floor, Thresholds, floor_of
from srdd.report.text import bar, number, percent, safe, with_half_width
from srdd.report.verdict import STYLES, status, thresholds_of, verdict
from srdd.schema.scan import Ranking, Record, Scan
from srdd.zones import Zone, by_depth, zone_of

_NAMES = {
    "sqnr_db": "SQNR dB",
    "deadzone": "deadzone %",
    "saturation": "saturation %",
    "relative_error": "rel. error %",
    "relative_l1": "sum|e|/sum|x| %",
}
_NARROW, _WIDE = 60, 78
BAR_CELLS = 6


@dataclass(frozen=True)
class Share:
    """A cell that is drawn as a bar: a share of the longest, in [0, 1]."""

    value: float


Cell: TypeAlias = str | Text | Share


@dataclass(frozen=True, eq=False)
class Column:
    """A column of a table: its cells, and from which width on it is shown; 0 is always."""

    title: str
    cells: Sequence[Cell]
    from_width: int = 0
    justify: Literal["left", "right"] = "right"


class Fitted:
    """A titled table that shows the columns for which there is room."""

    def __init__(self, title: str, columns: Sequence[Column]) -> None:
        self._title = title
        self._columns = columns

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ascii_only = options.ascii_only
        drawn = {
            c: [_drawn(cell, ascii_only) for cell in (c.title, *c.cells)] for c in self._columns
        }
        needed = {c: max(cell.cell_len for cell in cells) for c, cells in drawn.items()}
        shown = self._fitting(needed, options.max_width)
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
        for column in shown:
            table.add_column(
                drawn[column][0], justify=column.justify, no_wrap=True, width=needed[column]
            )
        for cells in zip(*(drawn[column][1:] for column in shown), strict=True):
            table.add_row(*cells)
        yield Text("")
        yield Text(self._title, style="bold underline")
        # Wider than the terminal if it must be: the terminal then wraps, and no figure is cut.
        width = max(options.max_width, sum(needed[c] + 1 for c in shown))
        yield from console.render(table, options.update(max_width=width))
        hidden = [column.title for column in self._columns if column not in shown and column.title]
        if hidden:
            yield Text(f"(a wider terminal also shows: {', '.join(hidden)})", style="dim")

    def _fitting(self, needed: Mapping[Column, int], width: int) -> list[Column]:
        """The columns that fit side by side; those for the widest terminals go first."""
        shown = [column for column in self._columns if width >= column.from_width]
        while sum(needed[column] + 1 for column in shown) - 1 > width:
            least = max(shown, key=lambda column: column.from_width)
            if least.from_width == 0:
                break
            shown.remove(least)
        return shown


def _drawn(cell: Cell, ascii_only: bool) -> Text:
    if isinstance(cell, Share):
        return Text(bar(cell.value, BAR_CELLS, ascii_only=ascii_only))
    text = Text(cell) if isinstance(cell, str) else cell
    return Text(text.plain.replace("±", "+-"), style=text.style) if ascii_only else text


def _values(records: Sequence[Record], metric: str) -> list[float]:
    found = [getattr(record.metrics, metric) for record in records]
    return [value for value in found if value is not None]


def _overall(
    records: Sequence[Record], thresholds: Thresholds, floor: Floor, layers: int
) -> Fitted:
    names, low, high, mean, limits, floors, words = [], [], [], [], [], [], []
    for metric, title in _NAMES.items():
        values = _values(records, metric)
        scale = 1.0 if metric == "sqnr_db" else 100.0
        digits = 2 if metric == "saturation" else 1
        names.append(title)
        if values:
            scaled = scale * np.array(values)
            low.append(f"{scaled.min():.{digits}f}")
            high.append(f"{scaled.max():.{digits}f}")
            mean.append(f"{scaled.mean():.{digits}f} ±{scaled.std():.{digits}f}")
        else:
            for cells in (low, high, mean):
                cells.append("-")
        limit = getattr(thresholds, metric, None)
        sign = "<" if metric in HIGHER_IS_BETTER else ">"
        limits.append("" if limit is None else f"{sign}{scale * limit:g}")
        floors.append(f"{scale * getattr(floor, metric):.{digits}f}")
        failing = sum(metric in thresholds.breaches(dict(record.metrics)) for record in records)
        undefined = layers - len(values)
        words.append(
            ""
            if limit is None
            else status(failing, layers) + (f", {undefined} undefined" if undefined else "")
        )
    return Fitted(
        "Over all layers",
        [
            Column("metric", names, justify="left"),
            Column("min", low),
            Column("max", high),
            Column("mean ±std", mean, _NARROW),
            Column("flagged", limits, _NARROW),
            Column("Gaussian", floors, _WIDE - 8),
            Column("status", words, _WIDE - 8, "left"),
        ],
    )


def _layer_columns(
    records: Sequence[Record], zones: tuple[Zone, ...], thresholds: Thresholds
) -> list[Column]:
    words = [verdict(record, thresholds) for record in records]
    largest = max(_values(records, "relative_error"), default=0.0) or 1.0
    shares = [(record.metrics.relative_error or 0.0) / largest for record in records]
    return [
        Column("layer", [str(record.layer) for record in records]),
        Column("zone", [zone_of(zones, r.layer).name for r in records], _NARROW, "left"),
        Column("SQNR dB", [_sqnr(record) for record in records]),
        Column("vs floor", [_distance(record) for record in records], _WIDE),
        Column("dead %", [percent(r.metrics.deadzone) for r in records], _NARROW),
        Column("sat. %", [percent(r.metrics.saturation, 2) for r in records], _NARROW),
        Column("rel. err %", [_relative_error(record) for record in records]),
        Column("", [Share(share) for share in shares], _WIDE + 1, "left"),
        Column("verdict", [Text(word, STYLES[word]) for word in words], justify="left"),
    ]


def _sqnr(record: Record) -> str:
    interval = record.intervals.sqnr_db if record.intervals else None
    return with_half_width(record.metrics.sqnr_db, interval, digits=2)


def _relative_error(record: Record) -> str:
    interval = record.intervals.relative_error if record.intervals else None
    return with_half_width(record.metrics.relative_error, interval, scale=100)


def _distance(record: Record) -> str:
    distance = record.floor_distance_db
    # Shown as the sign reads: minus is below what Gaussian data gets.
    return "-" if distance is None else f"{-distance:+.2f}"


def worst(records: Sequence[Record], metric: str, count: int) -> list[Record]:
    """The `count` worst records by a metric, worst first; ties in order of layers."""
    sign = 1.0 if metric in HIGHER_IS_BETTER else -1.0
    defined = [r for r in records if getattr(r.metrics, metric) is not None]
    return sorted(defined, key=lambda r: (sign * getattr(r.metrics, metric), r.layer))[:count]


def _zone_table(records: Sequence[Record], zones: tuple[Zone, ...]) -> Fitted:
    rows = [(zone, [r for r in records if r.layer in zone.layers]) for zone in zones]
    rows = [(zone, inside) for zone, inside in rows if inside]

    def means(metric: str) -> list[str]:
        found = [_values(inside, metric) for _, inside in rows]
        scale = 1.0 if metric == "sqnr_db" else 100.0
        return [number(scale * float(np.mean(values)) if values else None) for values in found]

    return Fitted(
        "By zone (means over layers)",
        [
            Column("zone", [zone.name for zone, _ in rows], justify="left"),
            Column("layers", [f"{zone.first}-{zone.last}" for zone, _ in rows]),
            Column("rel. err %", means("relative_error")),
            Column("dead %", means("deadzone")),
            Column("SQNR dB", means("sqnr_db"), _NARROW),
        ],
    )


def _ranking_sentence(ranking: Ranking) -> str:
    name = {"relative_error": "relative error", "sqnr_db": "SQNR"}.get(
        ranking.metric, ranking.metric
    )
    if ranking.tau_halves is None or ranking.top_k_change is None:
        return f"Ranking by {name}: its stability needs at least two prompts and differing layers."
    spread = "" if ranking.spread is None else f"; layers spread by {100 * ranking.spread:.1f} %"
    return (
        f"Ranking by {name}: Kendall's tau between halves of the prompts "
        f"{ranking.tau_halves:.2f}; the set of the worst {ranking.top_k} differs in "
        f"{100 * ranking.top_k_change:.0f} % of resamples{spread}."
    )


def _heading(scan: Scan, site: str, spec: str) -> Text:
    model, text = scan.model, scan.calibration
    facts = [safe(model.name, longest=60)]
    facts += [safe(value) for value in (model.architecture, model.dtype) if value]
    facts.append(counted(len(model.layers), "layer"))
    if text.prompts is not None and text.tokens is not None:
        facts.append(f"{counted(text.prompts, 'prompt')}, {counted(text.tokens, 'token')}")
    rounding = "" if scan.settings.rounding == "even" else f", rounding {scan.settings.rounding}"
    facts.append(f"{safe(spec)}{rounding}, site {safe(site)}")
    return Text(" | ".join(facts))


def _group(scan: Scan, site: str, spec: str) -> list[RenderableType]:
    records = scan.select(site, spec)
    parts: list[RenderableType] = [_heading(scan, site, spec)]
    if not records:
        return [*parts, Text("nothing was measured here")]
    zones = by_depth(len(scan.model.layers))
    thresholds = thresholds_of(scan)
    floor = floor_of(parse_spec(spec), scan.settings.rounding)
    parts.append(_overall(records, thresholds, floor, len(records)))
    parts.append(Fitted("Layer by layer", _layer_columns(records, zones, thresholds)))
    by_error = worst(records, "relative_error", 10)
    by_sqnr = worst(records, "sqnr_db", 5)
    parts.append(_worst_table("Worst by relative error", by_error, zones))
    parts.append(_worst_table("Worst by SQNR", by_sqnr, zones))
    parts.append(_zone_table(records, zones))
    parts.append(Text(""))
    for ranking in scan.rankings:
        if (ranking.site, f"{ranking.format}:{ranking.scale_rule}") == (site, spec):
            parts.append(Text(_ranking_sentence(ranking)))
    return parts


def _worst_table(title: str, records: Sequence[Record], zones: tuple[Zone, ...]) -> Fitted:
    return Fitted(
        title,
        [
            Column("rank", [str(place) for place in range(1, len(records) + 1)]),
            Column("layer", [str(record.layer) for record in records]),
            Column("rel. err %", [_relative_error(record) for record in records]),
            Column("dead %", [percent(r.metrics.deadzone) for r in records], _NARROW),
            Column("SQNR dB", [_sqnr(record) for record in records]),
            Column("zone", [zone_of(zones, r.layer).name for r in records], _NARROW, "left"),
        ],
    )


def scan_tables(scan: Scan) -> list[RenderableType]:
    """Everything a person sees of a scan, in order, for each site and format."""
    parts: list[RenderableType] = []
    for site in scan.settings.sites:
        for spec in scan.settings.formats:
            parts += _group(scan, site, spec)
    parts.append(
        Text(
            "Verdicts: ok = no threshold breached; at floor = breached, but within 1 dB of what "
            "Gaussian data gets in this format; poor, bad = more than 1, 3 dB below that; "
            "broken = NaN or infinite values.",
            style="dim",
        )
    )
    for missing in scan.not_measured:
        parts.append(Text(f"not measured: {safe(missing.module)}: {safe(missing.reason)}"))
    return parts
