"""Where results go: the form that a file's name asks for, a free target, and the delivery."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srdd.cli import console
from srdd.errors import UsageError
from srdd.reports.text import safe

if TYPE_CHECKING:
    from srdd.reports.view import Block

SUFFIXES = {
    ".txt": "terminal",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}
"""The form that the ending of a file's name asks for."""


def form_of(form: str | None, output: str | None, forms: Sequence[str]) -> str:
    """The form of the result: the one asked for, or by the name of the file, or for a terminal.

    Raises:
        UsageError: the file's ending stands for none of `forms`.
    """
    if form is not None:
        return form
    suffix = Path(output or "").suffix.lower()
    chosen = SUFFIXES.get(suffix, "terminal" if not suffix else "")
    if chosen not in forms:
        known = ", ".join(ending for ending, one in SUFFIXES.items() if one in forms)
        raise UsageError(
            f"no output form has the file ending {suffix}",
            f"end the name in {known}, or choose a form with --as",
        )
    return chosen


def free_target(output: str | None, *, force: bool) -> Path | None:
    """Where the result goes: a file that can be written, or None for standard output.

    Raises:
        OutputError: the file exists and is not to be overwritten, or cannot be written.
    """
    from srdd.documents.document import check_target

    if output in (None, "-"):
        return None
    target = Path(str(output))
    check_target(target, force=force)
    return target


def deliver(content: bytes | Sequence[Block], target: Path | None, *, force: bool = False) -> None:
    """Write a document, or the blocks of a report, to a file or to standard output."""
    from srdd.documents.document import write_whole
    from srdd.reports.terminal import plain, render

    if target is None:
        if isinstance(content, bytes):
            console.write_result(content)
        else:
            console.show(*render(content))
        return
    whole = content if isinstance(content, bytes) else plain(content).encode()
    write_whole(target, whole, force=force)
    console.say(f"wrote {safe(str(target))}")
