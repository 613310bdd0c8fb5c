"""Where results go: a file that is free, or standard output."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srdd.cli import console
from srdd.reports.text import safe

if TYPE_CHECKING:
    from srdd.reports.view import Block


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


def deliver(
    content: bytes | str | Sequence[Block], target: Path | None, *, force: bool = False
) -> None:
    """Write a document, or the blocks of a report, to a file or to standard output."""
    from srdd.documents.document import write_whole
    from srdd.reports.terminal import plain, render

    if isinstance(content, str):
        content = content.encode()
    if target is None:
        if isinstance(content, bytes):
            console.write_result(content)
        else:
            console.show(*render(content))
        return
    write_whole(
        target, content if isinstance(content, bytes) else plain(content).encode(), force=force
    )
    console.say(f"wrote {safe(str(target))}")
