"""Charts as geometry for the page: where lines, bands, bars and labels stand in an SVG.

x is in per cent of the plot's width and y in pixels from its top, so that a plot takes any width
while its text keeps its size. Paths alone cannot be given in per cent: they are drawn in a box
`BOX` units wide, which the page stretches. Text stays as it came; the template escapes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from srdd.reports.view import DASH, Chart, Column, Estimate, Measure, Series, Table

T = TypeVar("T")

HEIGHT, BOX = 200, 1000
"""Height of a plot in pixels; width of the box that paths are drawn in."""

MOST_TICKS, MOST_LABELS = 8, 12
MOST_MARKS = 60
"""Up to so many points, each has a mark; beyond, only those without a neighbour."""

LINE_HEIGHT = 14
"""Pixels between two labels at least."""

SHADES = 10
"""Strengths of colour on either side of a heat map's neutral one."""

MANY, DENSE = 10, 40
"""From so many columns on, figures in a heat map's cells cannot be read: on a phone, and at all."""


@dataclass(frozen=True)
class Line:
    """A series as drawn: its line and its band as SVG paths, its marks as places."""

    path: str
    band: str
    marks: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Bar:
    """A part of a stack: its series, x and y of its upper left corner, its width and height."""

    series: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Reference:
    """A level line, and its label: its baseline, the side it stands on, and what it reads."""

    y: float
    baseline: float
    side: str
    text: str


@dataclass(frozen=True)
class Plot:
    """Lines or stacked bars.

    Attributes:
        ticks: y and text of the labels of the vertical axis, which have a grid line each.
        labels: x and text of those of the horizontal axis.
        columns: of each place on the horizontal axis x, width and the lines that a pointer finds.
        description: the chart in words.
    """

    lines: tuple[Line, ...]
    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, str], ...]
    labels: tuple[tuple[float, str], ...]
    references: tuple[Reference, ...]
    columns: tuple[tuple[float, float, tuple[str, ...]], ...]
    description: str


@dataclass(frozen=True)
class HeatCell:
    """A cell: its text, its colour as a class of the style sheet, and what a pointer finds."""

    text: str
    shade: str
    tip: str


@dataclass(frozen=True)
class Heat:
    """A heat map.

    Attributes:
        labels: of the columns, and whether each stays where there is no room for all.
        rows: a label and a row of cells for each series.
        key: the classes of the colours from `low` to `high`.
        size: how many columns there are, as a class of the style sheet.
    """

    labels: tuple[tuple[str, bool], ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]
    key: tuple[str, ...]
    low: str
    high: str
    size: str


def plot_of(chart: Chart) -> Plot:
    """Lines or stacked bars, as `chart.kind` says."""
    low, high, step = _range(chart)
    scale = chart.measure.scale

    def y(value: float) -> float:
        return round(HEIGHT * (high - scale * value) / (high - low), 1)

    stacked = chart.kind == "bars"
    lines = () if stacked else tuple(_line(one, y) for one in chart.series)
    width = 100 / max(1, len(chart.x))
    every = _label_step(len(chart.x))
    first = math.ceil(low / step - 1e-9)
    return Plot(
        lines=lines,
        bars=tuple(_bars(chart, y)) if stacked else (),
        ticks=tuple(
            (y(place * step / scale), f"{place * step:.6g}")
            for place in range(first, math.floor(high / step + 1e-9) + 1)
        ),
        labels=tuple(
            (round((place + 0.5) * width, 2), str(x))
            for place, x in enumerate(chart.x)
            if place % every == 0
        ),
        references=tuple(_references(chart, lines, y)),
        columns=tuple(
            (round(place * width, 3), round(width, 3), _tip(chart, place))
            for place in range(len(chart.x))
        ),
        description=_description(chart),
    )


def _range(chart: Chart) -> tuple[float, float, float]:
    """Both ends of the vertical axis and the step of its ticks, in the unit that is shown."""
    if chart.kind == "bars":
        values = [0.0, *(sum(v or 0 for v in c) for c in zip(*_values(chart), strict=True))]
    else:
        values = [v for own in _values(chart) for v in own if v is not None]
        values += [end for one in chart.series for pair in one.intervals if pair for end in pair]
        values += [value for _, value in chart.references]
    shown = [chart.measure.scale * value for value in values] or [0.0]
    low, high = min(shown), max(shown)
    spread = (high - low) or abs(high) or 1.0
    step = _nice(spread / (MOST_TICKS - 1))
    room = 0.06 * spread
    return (low if chart.kind == "bars" else low - room), high + room, step


def _values(chart: Chart) -> list[tuple[float | None, ...]]:
    return [one.values for one in chart.series]


def _nice(least: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is not less."""
    power: float = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _label_step(places: int) -> int:
    return 1 if places <= MOST_LABELS else int(_nice(places / MOST_LABELS))


def _line(series: Series, y: Callable[[float], float]) -> Line:
    places = len(series.values)

    def x(place: int) -> float:
        return round(BOX * (place + 0.5) / places, 1)

    points = [(n, value) for n, value in enumerate(series.values) if value is not None]
    runs = _runs(points)
    marked = points if places <= MOST_MARKS else [run[0] for run in runs if len(run) == 1]
    ends = [(n, pair) for n, pair in enumerate(series.intervals) if pair is not None]
    bands = [
        [(x(n), y(low)) for n, (low, _) in run] + [(x(n), y(high)) for n, (_, high) in run[::-1]]
        for run in _runs(ends)
        if len(run) > 1
    ]
    return Line(
        path="".join(_path([(x(n), y(value)) for n, value in run]) for run in runs),
        band="".join(f"{_path(outline)}Z" for outline in bands),
        marks=tuple((round(100 * x(n) / BOX, 2), y(value)) for n, value in marked),
    )


def _runs(points: Sequence[tuple[int, T]]) -> list[list[tuple[int, T]]]:
    """Points whose places follow each other without a gap."""
    numbered = groupby(enumerate(points), key=lambda pair: pair[1][0] - pair[0])
    return [[point for _, point in run] for _, run in numbered]


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _bars(chart: Chart, y: Callable[[float], float]) -> Iterator[Bar]:
    width = 100 / max(1, len(chart.x))
    for place, values in enumerate(zip(*_values(chart), strict=True)):
        below = 0.0
        for series, value in enumerate(values):
            if value:
                top, bottom = y(below + value), y(below)
                x = round((place + 0.12) * width, 3)
                yield Bar(series, x, top, round(0.76 * width, 3), round(bottom - top, 1))
                below += value


def _references(
    chart: Chart, lines: Sequence[Line], y: Callable[[float], float]
) -> Iterator[Reference]:
    """Level lines from the top down; each label stands where it hides least."""
    levels = [y(value) for _, value in chart.references]
    taken: list[tuple[bool, float]] = []

    def hidden(place: tuple[bool, float]) -> int:
        right, base = place

        def covers(at: float) -> bool:
            return base - LINE_HEIGHT < at < base + 4

        marks = [at for line in lines for x, at in line.marks if (x > 45 if right else x < 55)]
        labels = [at for side, at in taken if side == right and abs(at - base) < LINE_HEIGHT]
        return sum(map(covers, marks)) + 100 * (sum(map(covers, levels)) + len(labels))

    for label, value in sorted(chart.references, key=lambda pair: -pair[1]):
        at = y(value)
        places = [(right, at + shift) for shift in (-5, LINE_HEIGHT) for right in (True, False)]
        taken.append(min(places, key=hidden))
        text = f"{label}: {chart.measure.with_unit(value)}"
        yield Reference(at, taken[-1][1], "right" if taken[-1][0] else "left", text)


def _tip(chart: Chart, place: int) -> tuple[str, ...]:
    column = Column("", chart.measure)
    lines = [
        f"{one.label}: {column.text(cell)} {chart.measure.unit}".rstrip()
        for one in chart.series
        if column.text(cell := _estimate(one, place)) != DASH
    ]
    return (f"{chart.x_title} {chart.x[place]}", *lines)


def _estimate(series: Series, place: int) -> Estimate:
    interval = series.intervals[place] if series.intervals else None
    return Estimate(series.values[place], interval)


def _description(chart: Chart) -> str:
    """A sentence for whoever does not see the chart."""
    parts = []
    for one in chart.series:
        known = [value for value in one.values if value is not None]
        if known:
            least, most = chart.measure.text(min(known)), chart.measure.with_unit(max(known))
            parts.append(f"{one.label} from {least} to {most}")
    parts += [f"{label} at {chart.measure.with_unit(value)}" for label, value in chart.references]
    return f"By {chart.x_title}: {'; '.join(parts)}. The table below holds every value."


def values_table(chart: Chart) -> Table:
    """The figures of a chart, a row for each place on its horizontal axis."""
    columns = (Column(chart.x_title), *(Column(one.label, chart.measure) for one in chart.series))
    rows = (
        (x, *(_estimate(one, place) for one in chart.series)) for place, x in enumerate(chart.x)
    )
    return Table("Values", columns, tuple(rows), details=True)


def heat_of(chart: Chart) -> Heat:
    """The cells of a heat map with their colours.

    Signed values are coloured from zero on to either side, worse below; others from zero on, the
    larger the worse.
    """
    measure = chart.measure
    known = [abs(value) for own in _values(chart) for value in own if value is not None]
    full = chart.full or max(known, default=0.0) or 1.0

    def cell(series: Series, place: int) -> HeatCell:
        value = series.values[place]
        tip = f"{series.label}, {chart.x_title} {chart.x[place]}: {measure.with_unit(value)}"
        return HeatCell(measure.text(value), _shade(value, full, measure), tip)

    ends = [full * n / SHADES for n in range(-SHADES if measure.signed else 0, SHADES + 1, 2)]
    columns = len(chart.x)
    every = _label_step(columns)
    return Heat(
        labels=tuple((str(x), place % every == 0) for place, x in enumerate(chart.x)),
        rows=tuple(
            (one.label, tuple(cell(one, place) for place in range(columns))) for one in chart.series
        ),
        key=tuple(_shade(value, full, measure) for value in ends),
        low=measure.with_unit(ends[0]),
        high=measure.with_unit(ends[-1]),
        size="dense" if columns > DENSE else "many" if columns > MANY else "few",
    )


def _shade(value: float | None, full: float, measure: Measure) -> str:
    if value is None:
        return "none"
    strength = min(SHADES, round(SHADES * abs(value) / full))
    side = "worse" if value < 0 or not measure.signed else "better"
    return f"{side} m{strength}"
