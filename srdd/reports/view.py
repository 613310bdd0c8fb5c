"""The one table model of all reports: what a document says, as blocks of values.

    documents -> builders (a `*_view` module each) -> blocks -> renderers

A builder knows metrics and no output language; a renderer (terminal, Markdown, HTML, delimited)
knows an output language and no metric. Cells are values, never text that is already formatted:

    None        undefined, shown as a dash
    str         a name or sentence from outside: each renderer escapes it for its language
    int, float  a figure in a document's unit, which its column scales and rounds
    Estimate    a figure with its 95 % interval, shown as half the interval's width
    Span        both ends of an interval
    Word        a verdict, with a severity that colours it
    Tally       how many have each verdict
    Measure     the unit of a row's figures
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeAlias, TypeVar

from srdd.numerics.metrics import FIGURES, Metric

Severity = Literal["good", "neutral", "warning", "bad", "alarm"]
Interval: TypeAlias = tuple[float, float]

DASH = "-"
"""What an undefined figure reads."""


@dataclass(frozen=True)
class Measure:
    """How a figure is shown.

    Attributes:
        unit: as a person reads it, such as dB or %.
        scale: factor from a document's figure to `unit`.
        digits: decimals; None for as few as the figure needs.
        signed: whether a plus stands before a positive figure.
    """

    unit: str = ""
    scale: float = 1.0
    digits: int | None = None
    signed: bool = False

    @classmethod
    def of(
        cls, metric: str | Metric, *, digits: int | None = None, signed: bool = False
    ) -> Measure:
        """As a metric of FIGURES declares it."""
        found = FIGURES[metric] if isinstance(metric, str) else metric
        return cls(found.unit, found.scale, found.digits if digits is None else digits, signed)

    def text(self, value: float | None) -> str:
        """The figure without its unit; a dash for None. What rounds to zero has no sign."""
        if value is None:
            return DASH
        if self.digits is None:
            return f"{value:,}" if isinstance(value, int) else f"{self.scale * value:g}"
        shown = f"{self.scale * value:{'+' if self.signed else ''}.{self.digits}f}"
        return shown if shown.strip("+-0.") else shown.lstrip("+-")

    def with_unit(self, value: float | None) -> str:
        """The figure and its unit, for a sentence."""
        return f"{self.text(value)} {self.unit}".rstrip()


INDEX = Measure(digits=0)
"""How the number of a layer or a rank is shown: without separators."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval; `measure` where it is not the column's."""

    value: float | None
    interval: Interval | None = None
    measure: Measure | None = None


@dataclass(frozen=True)
class Span:
    """An interval, shown by its two ends."""

    low: float
    high: float
    measure: Measure | None = None


@dataclass(frozen=True)
class Word:
    """A verdict: one of our own words, and how serious it is."""

    text: str
    severity: Severity = "neutral"


@dataclass(frozen=True)
class Tally:
    """How many of a row's members have each verdict, the most serious first."""

    counts: tuple[tuple[Word, int], ...]


Cell: TypeAlias = "str | int | float | Estimate | Span | Word | Tally | Measure | None"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: its head; also what `srdd explain` knows it by.
        measure: how its figures are shown.
        align: to which side its cells stand.
        priority: 0 stands on every terminal; the higher, the earlier a narrow one drops it.
        code: whether its text is names of code, such as modules and formats.
    """

    title: str
    measure: Measure = field(default=Measure())
    align: Literal["left", "right"] = "right"
    priority: int = 0
    code: bool = False

    @property
    def heading(self) -> str:
        """Title and unit on one line."""
        return f"{self.title} ({self.measure.unit})" if self.measure.unit else self.title

    def text(self, cell: Cell) -> str:
        """A cell as plain text that no renderer has escaped yet."""
        if isinstance(cell, str):
            return cell
        if isinstance(cell, Word):
            return cell.text
        if isinstance(cell, Measure):
            return cell.unit
        if isinstance(cell, Tally):
            return ", ".join(f"{count} {word.text}" for word, count in cell.counts)
        if isinstance(cell, Span):
            measure = cell.measure or self.measure
            return f"{measure.text(cell.low)} to {measure.text(cell.high)}"
        if isinstance(cell, Estimate):
            measure = cell.measure or self.measure
            shown = measure.text(cell.value)
            if cell.value is None or cell.interval is None:
                return shown
            half = (cell.interval[1] - cell.interval[0]) / 2
            return f"{shown} ±{Measure(scale=measure.scale, digits=measure.digits).text(half)}"
        return self.measure.text(cell)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: plain text; may hold names from outside.
        columns: at least one.
        rows: a cell for each column.
        notes: sentences that belong under it.
        details: whether a document folds it away.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    notes: tuple[str, ...] = ()
    details: bool = False

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.title!r} has rows of another length than its columns")


@dataclass(frozen=True)
class Text:
    """A paragraph, plain text that may hold names from outside."""

    text: str
    role: Literal["heading", "answer", "plain", "note", "warning", "alarm"] = "plain"


@dataclass(frozen=True)
class Series:
    """A line of a chart, or a row of a heat map: a value for each x; None is a gap."""

    label: str
    values: tuple[float | None, ...]
    intervals: tuple[Interval | None, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart of values in a document's unit; only renderers that draw show it.

    Attributes:
        kind: `lines`; `heat` where each series is a row of cells; `bars` where the values of a
            place, none of them negative, are stacked.
        x: labels of the horizontal axis, mostly layers.
        measure: how values are shown.
        references: level lines with their labels, such as the Gaussian floor of a format.
        full: from which size on a cell of a heat map has its strongest colour; the largest size
            in the chart if left out. Signed values are worse below zero, others the larger.
    """

    title: str
    kind: Literal["lines", "heat", "bars"]
    x_title: str
    x: tuple[int | str, ...]
    measure: Measure
    series: tuple[Series, ...]
    references: tuple[tuple[str, float], ...] = ()
    full: float | None = None


Block: TypeAlias = Table | Text | Chart

Row = TypeVar("Row")


@dataclass(frozen=True)
class Field(Generic[Row]):
    """A column together with where a row's cell comes from."""

    column: Column
    cell: Callable[[Row], Cell]


def tabulate(
    title: str,
    fields: Iterable[Field[Row]],
    rows: Sequence[Row],
    notes: Sequence[str] = (),
    *,
    details: bool = False,
) -> Table:
    """A table of those fields that are defined in at least one row."""
    columns = [(each.column, [each.cell(row) for row in rows]) for each in fields]
    kept = [(column, cells) for column, cells in columns if any(map(_defined, cells))]
    return Table(
        title,
        tuple(column for column, _ in kept),
        tuple(zip(*(cells for _, cells in kept), strict=True)),
        tuple(notes),
        details,
    )


def _defined(cell: Cell) -> bool:
    if isinstance(cell, Estimate):
        return cell.value is not None
    return cell is not None and cell != ""
