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

from srdd.reports.text import safe
from srdd.reports.view import Block, Cell, Chart, Column, Severity, Table, Tally, Text, Word

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

ROLES = {
    "heading": "bold",
    "answer": "",
    "plain": "",
    "note": "dim",
    "warning": "",
    "alarm": "bold red",
}
GAP = 2


def render(blocks: Iterable[Block]) -> list[RenderableType]:
    """What `rich` prints, with an empty line before every table and between unlike texts."""
    parts: list[RenderableType] = []
    before: object = None
    for block in blocks:
        if isinstance(block, Chart):
            continue
        role = block.role if isinstance(block, Text) else Table
        if before is not None and (role is Table or role != before):
            parts.append("")
        before = role
        parts.append(_Drawn(block))
    return parts


def plain(blocks: Iterable[Block]) -> str:
    """The same as text for a file: no escape codes, no line broken, no blanks at line ends."""
    file = io.StringIO()
    console = Console(file=file, width=ENDLESS, color_system=None, highlight=False, markup=False)
    for part in render(blocks):
        console.print(part)
    return file.getvalue()


class _Drawn:
    """A block that fits itself to the console."""

    def __init__(self, block: Table | Text) -> None:
        self._block = block

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        ascii_only = options.ascii_only
        if isinstance(self._block, Table):
            yield from _table(self._block, console, options)
            return
        line = _line(self._block.text, ROLES.get(self._block.role, ""), ascii_only)
        if self._block.role == "warning":
            line = Line.assemble(("warning: ", "bold yellow"), line)
        yield from _wrapped(line, console, options)


def _wrapped(line: Line, console: Console, options: ConsoleOptions) -> RenderResult:
    for part in line.wrap(console, options.max_width):
        part.rstrip()
        yield part


def _table(table: Table, console: Console, options: ConsoleOptions) -> RenderResult:
    """As many columns as there is room for, and the names of the others."""

    def sentence(text: str, style: str) -> RenderResult:
        return _wrapped(_line(text, style, options.ascii_only), console, options)

    yield from sentence(table.title, "bold")
    if not table.rows:
        yield from sentence("nothing was measured here", "")
        return
    columns = table.columns
    cells = [
        [_cell(c, cell, options.ascii_only) for c, cell in zip(columns, row, strict=True)]
        for row in table.rows
    ]
    heads, widths, shown = min(
        (_headed(columns, cells, options.max_width, stacked) for stacked in (False, True)),
        key=lambda found: -len(found[2]),  # words of titles above each other only where that helps
    )
    height = max(len(heads[n]) for n in shown)
    grid = Grid(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
        header_style="bold",
        border_style="dim",
    )
    units = any(columns[n].measure.unit for n in shown)
    for n in shown:
        unit = (f"\n{columns[n].measure.unit}", "not bold dim") if units else ""
        above = "\n" * (height - len(heads[n]))
        head = Line.assemble(above + "\n".join(heads[n]), unit)
        grid.add_column(head, justify=columns[n].align, no_wrap=True, width=widths[n])
    for row in cells:
        grid.add_row(*(row[n] for n in shown))
    needed = sum(widths[n] + GAP for n in shown)
    for line in console.render_lines(grid, options.update_width(needed), pad=False):
        yield from _stripped(line)
        yield Segment.line()
    if hidden := [c.title for n, c in enumerate(columns) if n not in shown and c.title]:
        yield from sentence(f"(hidden at this width: {', '.join(hidden)})", "dim")
    for note in table.notes:
        yield from sentence(note, "dim")


def _line(text: str, style: str, ascii_only: bool, longest: int = LONGEST) -> Line:
    shown = safe(text, longest=longest)
    return Line(shown.replace("±", "+-") if ascii_only else shown, style)


def _cell(column: Column, cell: Cell, ascii_only: bool) -> Line:
    if isinstance(cell, Tally):
        parts = [(f"{count} {word.text}", STYLES[word.severity]) for word, count in cell.counts]
        return Line(", ").join(Line(text, style) for text, style in parts)
    style = STYLES[cell.severity] if isinstance(cell, Word) else ""
    return _line(column.text(cell), style, ascii_only, LONGEST_NAME)


def _headed(
    columns: Sequence[Column], cells: Sequence[Sequence[Line]], width: int, stacked: bool
) -> tuple[list[list[str]], list[int], list[int]]:
    """The lines of each column's title, its width, and the places of those that fit."""
    heads = [c.title.split() or [""] if stacked else [c.title] for c in columns]
    widths = [
        max(*map(len, heads[n]), len(c.measure.unit), *(row[n].cell_len for row in cells))
        for n, c in enumerate(columns)
    ]
    return heads, widths, _fitting(columns, widths, width)


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
