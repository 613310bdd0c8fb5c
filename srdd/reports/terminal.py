"""Blocks on a terminal, in a pipe or in a text file. It knows no metric.

Columns stand two spaces apart over a rule; units have a line of their own. Where the terminal is
too narrow for all columns, those of the highest priority number go and are named below. No figure
is ever cut: what cannot become narrower is wider than the terminal.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table as Grid
from rich.text import Text as Line

from srdd.reports import view
from srdd.reports.text import safe
from srdd.reports.view import Block, Cell, Column, Severity, Table, Tally, Text, Word

LONGEST = 2000
"""Characters of a sentence at most."""

LONGEST_NAME = 48
"""Characters of a name in a cell at most."""

ENDLESS = 100_000
"""Columns of a file or pipe."""

STYLES: dict[Severity, str] = {
    "good": "green",
    "neutral": "",
    "warning": "yellow",
    "bad": "red",
    "alarm": "bold red",
}
"""Colours that underline the words of verdicts; the words alone suffice."""

ROLES = {"heading": "bold", "answer": "", "plain": "", "note": "dim", "warning": ""}
GAP = 2


def render(blocks: Iterable[Block]) -> list[RenderableType]:
    """What `rich` prints, with an empty line before every table and between unlike texts."""
    parts: list[RenderableType] = []
    before: object = None
    for block in blocks:
        if isinstance(block, view.Chart):
            continue
        role = block.role if isinstance(block, Text) else Table
        if before is not None and (role is Table or role != before):
            parts.append(Line(""))
        before = role
        parts.append(_Drawn(block) if isinstance(block, Table) else _line(block))
    return parts


def plain(blocks: Iterable[Block]) -> str:
    """The same as text for a file: no escape codes, no line broken, no blanks at line ends."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=ENDLESS,
        force_terminal=False,
        color_system=None,
        highlight=False,
        markup=False,
    )
    for part in render(blocks):
        console.print(part, soft_wrap=isinstance(part, Line))
    return file.getvalue()


def _line(text: Text) -> Line:
    shown = safe(text.text, longest=LONGEST)
    if text.role == "warning":
        return Line.assemble(("warning: ", "bold yellow"), shown)
    return Line(shown, style=ROLES[text.role])


class _Drawn:
    """A table with as many columns as there is room for."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        table = self._table
        ascii_only = options.ascii_only
        cells = [
            [_cell(c, cell, ascii_only) for c, cell in zip(table.columns, row, strict=True)]
            for row in table.rows
        ]
        widths = [
            max([Line(c.title).cell_len, len(c.measure.unit), *(row[n].cell_len for row in cells)])
            for n, c in enumerate(table.columns)
        ]
        shown = _fitting(table.columns, widths, options.max_width)
        units = any(table.columns[n].measure.unit for n in shown)
        yield Line(safe(table.title, longest=LONGEST), style="bold")
        if not cells:
            yield Line("nothing was measured here")
            return
        grid = Grid(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            padding=(0, GAP - 1, 0, 0),
            header_style="bold",
        )
        for n in shown:
            column = table.columns[n]
            head = Line(column.title)
            if units:
                head.append(f"\n{column.measure.unit}", style="dim")
            grid.add_column(head, justify=column.align, no_wrap=True, width=widths[n])
        for row in cells:
            grid.add_row(*(row[n] for n in shown))
        needed = sum(widths[n] + GAP for n in shown)
        wide = options.update(width=needed, max_width=needed)
        for line in console.render_lines(grid, wide, pad=False):
            yield from _stripped(line)
            yield Segment.line()
        hidden = [c.title for n, c in enumerate(table.columns) if n not in shown]
        if hidden:
            yield Line(f"(hidden at this width: {', '.join(hidden)})", style="dim")
        for note in table.notes:
            yield Line(safe(note, longest=LONGEST), style="dim")


def _cell(column: Column, cell: Cell, ascii_only: bool) -> Line:
    if isinstance(cell, Tally):
        parts = [(f"{count} {word.text}", STYLES[word.severity]) for word, count in cell.counts]
        return Line(", ").join(Line(text, style) for text, style in parts)
    style = STYLES[cell.severity] if isinstance(cell, Word) else ""
    text = safe(column.text(cell), longest=LONGEST_NAME)
    return Line(text.replace("±", "+-") if ascii_only else text, style)


def _fitting(columns: Sequence[Column], widths: Sequence[int], width: int) -> list[int]:
    """The columns that fit side by side, by their place; of equal priority the last goes first."""
    shown = list(range(len(columns)))
    while sum(widths[n] + GAP for n in shown) - GAP > width:
        least = max(shown, key=lambda n: (columns[n].priority, n))
        if columns[least].priority == 0:
            break
        shown.remove(least)
    return shown


def _stripped(line: list[Segment]) -> list[Segment]:
    """Without blanks at its end."""
    while line and not line[-1].text.rstrip():
        line = line[:-1]
    if line:
        last = line[-1]
        line = [*line[:-1], Segment(last.text.rstrip(), last.style, last.control)]
    return line
