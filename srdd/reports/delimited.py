"""Rows as comma- or tab-separated values, or as JSON: all digits, a line or an object for each.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula. Text from outside
that begins so gets an apostrophe in front; figures do not, since they are written from numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import orjson

from srdd.errors import unknown_name
from srdd.reports.groups import Group
from srdd.reports.rows import flat_rows
from srdd.reports.text import safe

DELIMITERS = {"csv": ",", "tsv": "\t"}
FORMS = (*DELIMITERS, "json")

LONGEST = 1000
"""Characters of a name at most."""

FORMULA = frozenset("=+-@＝＋－＠")
"""What a formula begins with, also in full width."""

Flat: TypeAlias = Mapping[str, str | float | int | None]


def delimited(groups: Sequence[tuple[str, Group]], form: str, by: str = "layer") -> str:
    """A row for each layer, tensor or kind of tensor of some groups.

    Arguments:
        groups: each with the name of the file it is from; at least one.
        form: of FORMS.
        by: of srdd.reports.rows.VIEWS.
    """
    return written([row for name, group in groups for row in flat_rows(name, group, by)], form)


def written(rows: Sequence[Flat], form: str) -> str:
    """Rows of the same keys, at least one, as text with a header; an undefined figure is empty.

    Raises:
        UsageError: no such form.
    """
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    if form == "json":
        return orjson.dumps(rows, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    file = io.StringIO()
    writer = csv.writer(file, delimiter=DELIMITERS[form], lineterminator="\n")
    writer.writerow(rows[0])
    for row in rows:
        writer.writerow(harmless(cell) if isinstance(cell, str) else cell for cell in row.values())
    return file.getvalue()


def harmless(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    shown = safe(text, longest=LONGEST)
    return f"'{shown}" if shown.lstrip()[:1] in FORMULA else shown
