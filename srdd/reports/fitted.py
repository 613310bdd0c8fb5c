"""Tables that fit the terminal: narrow ones leave out columns, and no figure is ever cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from srdd.reports.text import bar

NARROW, WIDE = 60, 78
"""Columns for at least this many characters; a column of a common terminal is WIDE."""
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
