"""What a terminal would show, as plain text for a file."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, RenderableType

WIDTH = 100
"""Columns of a report that goes to a file."""


def plain(parts: Sequence[RenderableType]) -> bytes:
    """The parts as UTF-8 text without escape codes, WIDTH columns wide."""
    file = io.StringIO()
    console = Console(
        file=file,
        width=WIDTH,
        force_terminal=False,
        color_system=None,
        highlight=False,
        markup=False,
    )
    for part in parts:
        console.print(part)
    lines = (line.rstrip() for line in file.getvalue().splitlines())
    return ("\n".join(lines) + "\n").encode()
