"""Where results go: a file that is free, or standard output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from srdd.cli import console
from srdd.reports.text import safe

if TYPE_CHECKING:
    from srdd.reports.view import Block


def show(blocks: Sequence[Block], *, as_json: bool = False) -> None:
    """Print the blocks of a report on standard output, as JSON if asked for."""
    from srdd.reports.json_tables import to_json
    from srdd.reports.terminal import render

    if as_json:
        console.write_result(to_json(blocks))
    else:
        console.show(*render(blocks))


@dataclass(frozen=True)
class Destination:
    """The options that say where a result goes.

    Attributes:
        output: a file, or `-` for standard output; None for what the command does without it.
        force: whether files are overwritten.
        quiet: whether notes are left out; `srdd.cli.app` reads it.
    """

    output: str | None = None
    force: bool = False
    quiet: bool = False

    def path(self) -> Path | None:
        """The file, which can be written; None for standard output.

        Raises:
            OutputError: it exists and is not to be overwritten, or cannot be written.
        """
        from srdd.documents.document import check_target

        if self.output is None or self.output == "-":
            return None
        check_target(Path(self.output), force=self.force)
        return Path(self.output)

    def write(self, content: bytes | Sequence[Block], *, as_json: bool = False) -> None:
        """Write a document, or the blocks of a report, as JSON if asked for."""
        from srdd.documents.document import write_whole
        from srdd.reports.json_tables import to_json
        from srdd.reports.terminal import plain

        if as_json and not isinstance(content, bytes):
            content = to_json(content)

        target = self.path()
        if target is not None:
            whole = content if isinstance(content, bytes) else plain(content).encode()
            write_whole(target, whole, force=self.force)
            console.say(f"wrote {safe(str(target))}")
        elif isinstance(content, bytes):
            console.write_result(content)
        else:
            show(content)
