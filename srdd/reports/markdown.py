"""Blocks as Markdown, as GitHub renders it. It knows no metric.

A name may hold markup, links, mentions and line ends. `code` sets it as code, in which nothing of
that means anything; `escape` keeps it running text. What either gives back has no line end and is
safe in a table's cell and out of it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from typing import Any

from srdd.reports.text import safe
from srdd.reports.view import Block, Cell, Chart, Column, Table, Word

LONGEST = 2000
"""Characters of a sentence at most, before it is escaped."""

_MARKUP = re.compile(r"[\\`*_\[\]<>&~$]|(?<=:)(?=//)|(?i:(?<=\bwww)(?=\.))")
_LINE_START = re.compile(r"^ *\d*(?=[.)](?: |$))|^ *(?=[-+=#])")
_PIPE = re.compile(r"(?<!\\)\|")


def escape(text: str, *, longest: int = 200) -> str:
    """`text` from outside as Markdown that shows it as it is: no markup, link or mention.

    Control characters are escaped visibly and the length is bounded, as by `text.safe`.
    """
    shown = _MARKUP.sub(lambda found: "\\" + found[0], safe(text.strip(), longest=longest))
    shown = _LINE_START.sub(lambda found: found[0] + "\\", shown, count=1)
    # Mentions and references are looked for in the rendered text; a comment splits it.
    shown = re.sub(r"@|#(?=\d)", r"\g<0><!-- -->", shown)
    return shown.replace("|", "&#124;")


def _sentence(text: str) -> str:
    """A sentence that may hold names from outside; our commands in it are set as code."""
    return re.sub(r"\\`(srdd [a-z -]+)\\`", r"`\1`", escape(text, longest=LONGEST))


def code(text: str, *, longest: int = 200) -> str:
    """`text` from outside set as code; best for names, where mentions and links mean nothing.

    Backticks where they do, and an element with every special character written as a number
    where the name itself holds a backtick or a bar.
    """
    shown = safe(text, longest=longest)
    if shown.strip() and not set("`|") & set(shown):
        return f"`{shown}`"
    written = "".join(c if c.isalnum() or c in " …" else f"&#{ord(c)};" for c in shown)
    return f"<code>{written}</code>"


def fold(summary: str, body: str) -> str:
    """`body` (Markdown) folded away under `summary` (plain text), ending in a line end."""
    title = html.escape(safe(summary), quote=False)
    return f"<details>\n<summary>{title}</summary>\n\n{body.strip()}\n\n</details>\n"


def grid(header: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[bool]) -> str:
    """A table of Markdown cells, ending in a line end.

    Arguments:
        header: a title for each column.
        rows: cells; names among them have been through `code` or `escape`. A bar is escaped.
        right: whether a column stands to the right.

    Raises:
        ValueError: a row has another number of cells, or a cell has a line end.
    """
    rules = ["---:" if each else "---" for each in right]
    lines = []
    for cells in (header, rules, *rows):
        if len(cells) != len(header) or any("\n" in cell or "\r" in cell for cell in cells):
            raise ValueError(f"these are not {len(header)} cells without a line end: {cells}")
        lines.append("| " + " | ".join(_PIPE.sub(r"\\|", cell) for cell in cells) + " |\n")
    return "".join(lines)


def table(found: Table) -> str:
    """The rows of a table, and its notes, without its title."""
    if not found.rows:
        return "Nothing was measured here.\n"
    body = grid(
        [escape(column.heading) for column in found.columns],
        [
            [_cell(column, cell) for column, cell in zip(found.columns, row, strict=True)]
            for row in found.rows
        ],
        [column.align == "right" for column in found.columns],
    )
    return body + "".join(f"\n{_sentence(note)}\n" for note in found.notes)


def _cell(column: Column, cell: Cell) -> str:
    shown = column.text(cell)
    if isinstance(cell, str):
        return code(cell) if column.code else escape(cell, longest=LONGEST)
    if isinstance(cell, Word) and cell.severity in ("bad", "alarm"):
        return f"**{shown}**"
    return shown


def render(blocks: Iterable[Block], *, level: int = 3) -> str:
    """Blocks one after the other, ending in a line end; tables of details are folded.

    Arguments:
        level: of the headings of tables; headings between them are one level up.
    """
    parts: list[str] = []
    for block in blocks:
        if isinstance(block, Chart):
            continue
        if isinstance(block, Table):
            title = f"{'#' * level} {escape(block.title, longest=LONGEST)}\n\n"
            parts.append(fold(block.title, table(block)) if block.details else title + table(block))
            continue
        shown = _sentence(block.text)
        start = {"heading": f"{'#' * (level - 1)} ", "plain": "", "warning": "> **Warning:** "}
        bold = "**" if block.role == "alarm" else ""
        item = f"{start.get(block.role, '- ')}{bold}{shown}{bold}\n"
        if parts and block.role in ("answer", "note", "alarm") and parts[-1].startswith("- "):
            parts[-1] += item
        else:
            parts.append(item)
    return "\n".join(parts)


def render_within(limit: int, attempts: Sequence[Callable[[], Iterable[Block]]], **how: int) -> str:
    """The first of several renderings, from the longest to the shortest, of at most `limit`
    characters; the last one is cut at a line end where even that is too long.
    """
    text = ""
    for attempt in attempts:
        text = render(attempt(), **how)
        if len(text) <= limit:
            return text
    return text[:limit].rpartition("\n")[0] + "\n"


def filled(name: str, **content: Any) -> str:
    """A template of this package with what it shows; it escapes by the functions of this module."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=False, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"code": code, "escape": escape}
    environment.globals |= {
        "code": code,
        "escape": escape,
        "fold": fold,
        "table": table,
        "blocks": render,
    }
    file = resources.files("srdd.reports").joinpath("templates", name)
    return environment.from_string(file.read_text("utf-8")).render(**content)
