"""The README's blocks of program output, and how to write them anew.

    python tests/readme_blocks.py

A block stands between `<!-- help: srdd scan -->` or `<!-- output: srdd scan demo -->` and
`<!-- end -->`. Help pages are checked by a test; figures differ a little between processors.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"<!-- (help|output): (.+?) -->\n```text\n(.*?)```\n<!-- end -->", re.DOTALL)


def printed(kind: str, command: str) -> str:
    """What a command prints on standard output in a terminal of 80 columns."""
    words = command.split()[1:] + (["--help"] if kind == "help" else [])
    environment = os.environ | {"COLUMNS": "80", "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, "-m", "srdd", *words],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=folder,
        )
    return "\n".join(line.rstrip() for line in run.stdout.strip().splitlines()) + "\n"


def blocks() -> list[tuple[str, str, str]]:
    """Kind, command and text of each block."""
    return [match.groups() for match in BLOCK.finditer(README.read_text(encoding="utf-8"))]


def rewrite() -> None:
    def anew(match: re.Match[str]) -> str:
        kind, command, _ = match.groups()
        text = printed(kind, command)
        return f"<!-- {kind}: {command} -->\n```text\n{text}```\n<!-- end -->"

    README.write_text(BLOCK.sub(anew, README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    rewrite()
