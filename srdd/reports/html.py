"""Blocks as one HTML file that needs no network. It knows no metric.

The template is the only place with markup and escapes whatever it is given: names from a scan stay
text. The page's policy allows the one script and the one style sheet whose hashes it names, and
nothing else: no other script, no style attribute, no request, no form, no frame.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from srdd import __version__
from srdd.reports.html_charts import BOX, HEIGHT, heat_of, plot_of, values_table
from srdd.reports.text import safe
from srdd.reports.view import Block, Cell, Chart, Column, Severity, Table, Tally, Text, Word

if TYPE_CHECKING:
    from jinja2 import Template

LONGEST = 2000
"""Characters of a text or name at most."""

SEARCHED = 25
"""From so many rows on, a table has a search box."""

EXTRA, RARE = 2, 5
"""From these priority numbers on, a phone leaves a column out of tables that are not folded, and
every page does."""

WRAPPED = 40
"""From so many characters on, a cell may be broken into lines."""

COLOURS = 8
"""Different colours of series."""

RANKS: dict[Severity, int] = {"good": 0, "neutral": 1, "warning": 2, "bad": 3, "alarm": 4}
"""How a column of verdicts is sorted."""


@dataclass(frozen=True)
class Section:
    """A part of the page below a heading of its own."""

    title: str
    blocks: Sequence[Block]


def render(title: str, lead: Sequence[Block], sections: Sequence[Section]) -> str:
    """A page.

    Arguments:
        title: plain text; may be a name from outside.
        lead: what stands above everything else.
        sections: the rest; those without blocks are left out.
    """
    style, script = _file("report.css"), _file("report.js")
    policy = (
        f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(style)}; "
        "base-uri 'none'; form-action 'none'"
    )
    text = _template().render(
        title=title,
        lead=[_context(block) for block in lead],
        sections=[
            (section.title, [_context(block) for block in section.blocks])
            for section in sections
            if section.blocks
        ],
        version=__version__,
        policy=policy,
        style=style,
        script=script,
    )
    return text.lstrip()  # the template begins with its macros


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_sanitized,
    )
    constants = {
        "height": HEIGHT,
        "box": BOX,
        "colours": COLOURS,
        "searched": SEARCHED,
        "extra": EXTRA,
    }
    return environment.from_string(_file("report.html"), globals=constants)


def _sanitized(value: Any) -> Any:
    """What the template writes: text without characters that hide or reorder others."""
    if not isinstance(value, str) or hasattr(value, "__html__"):  # numbers; our style and script
        return value
    plain = value.isascii() and value.isprintable() and len(value) <= LONGEST
    return value if plain else safe(value, longest=LONGEST)


def _file(name: str) -> str:
    return resources.files("srdd.reports").joinpath("templates", name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _context(block: Block) -> dict[str, Any]:
    """A block as the template takes it: its kind, itself, and what is drawn or listed."""
    if isinstance(block, Text):
        # An odd number of marks is part of a name.
        parts = block.text.split("`")
        code = len(parts) % 2 == 1
        return {"kind": "text", "block": block, "parts": parts if code else [block.text]}
    if isinstance(block, Table):
        return _table(block)
    if block.kind == "heat":
        return {"kind": "heat", "block": block, "heat": heat_of(block)}
    return _plot(block)


def _plot(chart: Chart) -> dict[str, Any]:
    return {
        "kind": "plot",
        "block": chart,
        "plot": plot_of(chart),
        "table": _table(values_table(chart)),
    }


def _table(table: Table) -> dict[str, Any]:
    """A table: its columns, and for each cell its classes and its words."""
    kept = [n for n, c in enumerate(table.columns) if table.details or c.priority < RARE]
    columns = [table.columns[n] for n in kept]
    rows = [[_cell(table.columns[n], row[n]) for n in kept] for row in table.rows]
    headed = any(column.title for column in columns)
    return {"kind": "table", "block": table, "columns": columns, "rows": rows, "headed": headed}


def _cell(column: Column, cell: Cell) -> tuple[str, list[tuple[str, str, int]]]:
    words = _words(column, cell)
    classes = {
        "t": column.align == "left",
        "c": column.code,
        "x": column.priority >= EXTRA,
        "long": len(words) > 1 or (bool(words) and len(words[0][0]) > WRAPPED),
    }
    return " ".join(name for name, holds in classes.items() if holds), words


def _words(column: Column, cell: Cell) -> list[tuple[str, str, int]]:
    """Text, severity and rank of each part of a cell."""
    if isinstance(cell, Word):
        return [(cell.text, cell.severity, RANKS[cell.severity])]
    if isinstance(cell, Tally):
        return [(f"{n} {w.text}", w.severity, RANKS[w.severity]) for w, n in cell.counts]
    return [(column.text(cell), "", 0)]
