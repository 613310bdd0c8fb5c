"""Untrusted names, tables and folds as Markdown, as GitHub renders it.

A name may hold markup, links, mentions and line ends. `code` sets it as code, in which nothing of
that means anything; `escape` keeps it running text. What either gives back has no line end and is
safe in a table's cell and out of it.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from typing import Literal

from srdd.reports.text import safe

Align = Literal["left", "right"]

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


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], align: Sequence[Align] | None = None
) -> str:
    """A table of Markdown cells, ending in a line end.

    Arguments:
        header: a title for each column.
        rows: cells; names among them have been through `code` or `escape`. A bar in a cell is
            escaped.
        align: of each column; all to the left for None.

    Raises:
        ValueError: a row has another number of cells, or a cell has a line end.
    """
    sides = align or ["left"] * len(header)
    rules = ["---:" if side == "right" else "---" for side in sides]
    lines = []
    for cells in (header, rules, *rows):
        if len(cells) != len(header) or any("\n" in cell or "\r" in cell for cell in cells):
            raise ValueError(f"these are not {len(header)} cells without a line end: {cells}")
        lines.append("| " + " | ".join(_PIPE.sub(r"\\|", cell) for cell in cells) + " |\n")
    return "".join(lines)


def fold(summary: str, body: str) -> str:
    """`body` (Markdown) folded away under `summary` (plain text), ending in a line end."""
    title = html.escape(safe(summary), quote=False)
    return f"<details>\n<summary>{title}</summary>\n\n{body.strip()}\n\n</details>\n"
