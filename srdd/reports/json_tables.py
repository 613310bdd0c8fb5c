"""Blocks as JSON, for programs: every table and text of a terminal, with all digits.

A list of objects in the order of the blocks, charts left out. A text has `text` and its `role`. A
table has `title`, `columns` (`title` and the `unit` of its figures in JSON), `rows` and `notes`. A
row maps titles of columns to values in the document's units: fractions and not per cent, nats and
not thousandths. With an interval, a value is an object of `value` and `interval`; an interval alone
is a list of its ends, a verdict its word, and several verdicts map words to counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from srdd.reports.view import Block, Cell, Estimate, Measure, Span, Table, Tally, Text, Word

UNITS = {"%": "fraction", "mnat": "nats"}
"""Units of figures that screens show on another scale."""


def to_json(blocks: Iterable[Block]) -> bytes:
    """The blocks as indented JSON with a newline at its end."""
    content = [_object(block) for block in blocks if isinstance(block, Table | Text)]
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _object(block: Table | Text) -> dict[str, Any]:
    if isinstance(block, Text):
        return {"text": block.text, "role": block.role}
    titles: list[str] = []
    for column in block.columns:  # two columns without a title stay apart
        title = column.title
        while title in titles:
            title += "'"
        titles.append(title)
    return {
        "title": block.title,
        "columns": [
            {"title": title, "unit": _unit(column.measure)}
            for title, column in zip(titles, block.columns, strict=True)
        ],
        "rows": [dict(zip(titles, map(_value, row), strict=True)) for row in block.rows],
        "notes": list(block.notes),
    }


def _unit(measure: Measure) -> str | None:
    return UNITS.get(measure.unit, measure.unit) or None


def _value(cell: Cell) -> Any:
    if isinstance(cell, Measure):
        return _unit(cell)
    if isinstance(cell, Estimate):
        if cell.interval is None:
            return cell.value
        return {"value": cell.value, "interval": list(cell.interval)}
    if isinstance(cell, Span):
        return [cell.low, cell.high]
    if isinstance(cell, Word):
        return cell.text
    if isinstance(cell, Tally):
        return {word.text: count for word, count in cell.counts}
    return cell
