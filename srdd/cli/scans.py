"""What the commands that read scans have in common: which scan, and in which form it goes out."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srdd.cli import console
from srdd.errors import UsageError, unknown_name
from srdd.reports.text import safe

if TYPE_CHECKING:
    from srdd.documents.scan import Scan


def load(source: str | None) -> Scan:
    """The scan to start from: a file, `-` for standard input, or the newest in this folder.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    from srdd.documents.reading import load_scan, parse_scan

    if source == "-":
        return parse_scan(sys.stdin.buffer.read(), "standard input")
    if source is None:
        source = newest()
    return load_scan(Path(source))


def newest() -> str:
    """The newest scan in this folder, which is told.

    Raises:
        InputError: there is none.
    """
    from srdd.cli.latest import newest_scan

    found = str(newest_scan(Path()))
    console.say(f"reading {safe(found)}, the newest scan here")
    return found


def form_of(
    form: str | None, output: str | None, forms: Sequence[str], suffixes: Mapping[str, str]
) -> str:
    """The form of the result: the one asked for, or by the name of the file, or for a terminal.

    Raises:
        UsageError: no such form, or no form goes with the file's ending.
    """
    if form is not None:
        if form not in forms:
            raise unknown_name("form", form, forms)
        return form
    suffix = Path(output or "").suffix.lower()
    if suffix and suffix not in suffixes:
        raise UsageError(
            f"no form goes with the ending {suffix}",
            f"end the name in {', '.join(suffixes)}, or choose a form with --as",
        )
    return suffixes.get(suffix, "terminal")
