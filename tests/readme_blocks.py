"""What the program prints, as it stands in README.md and docs/, and how to write it anew.

    python tests/readme_blocks.py          every block, and docs/cli.md
    python tests/readme_blocks.py help     help pages alone, in a few seconds

A block stands between `<!-- output: srdd scan demo -->` (or `help:`) and `<!-- end -->`. Commands
run in one folder in the order of their page, so that `srdd report` finds what `srdd scan` wrote;
`| head -5` keeps the first lines, and `(stderr)` in front takes standard error.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CLI = ROOT / "docs" / "cli.md"
BLOCK = re.compile(r"<!-- (help|output): (.+?) -->\n```text\n(.*?)```\n<!-- end -->", re.DOTALL)
PROTOTYPE = ROOT / "tests" / "data" / "prototype_scan.json"

INTRODUCTION = """# The command line

Results go to standard output, everything else to standard error. Exit codes: 0 done; 1 a gate or
check failed; 2 usage, input or internal error; 130 interrupted. `srdd --install-completion` adds
completion to your shell.

This page is made by `python tests/readme_blocks.py help` from the program's own help.
"""


def printed(kind: str, command: str, folder: str | Path) -> str:
    """What a command prints in a terminal of 80 columns, without blanks at the ends of lines."""
    line, _, lines = command.removeprefix("(stderr) ").partition(" | head -")
    words = shlex.split(line)[1:] + (["--help"] if kind == "help" else [])
    environment = os.environ | {"COLUMNS": "80", "PYTHONIOENCODING": "utf-8", "NO_COLOR": "1"}
    run = subprocess.run(
        [sys.executable, "-m", "srdd", *words],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        cwd=folder,
    )
    text = run.stderr if command.startswith("(stderr) ") else run.stdout
    kept = text.strip("\n").splitlines()[: int(lines) if lines else None]
    return "\n".join(line.rstrip() for line in kept) + "\n"


def blocks_of(text: str) -> Iterator[tuple[str, str, str]]:
    """Kind, command and content of each block of a page's text."""
    for match in BLOCK.finditer(text):
        yield match[1], match[2], match[3]


def blocks(page: Path) -> Iterator[tuple[str, str, str]]:
    """The same of a page."""
    return blocks_of(page.read_text(encoding="utf-8"))


def commands() -> list[str]:
    """The names of all commands, in the order of the help."""
    from srdd.cli.app import app

    return [info.name for info in app.registered_commands if info.name]


def cli_page() -> str:
    """docs/cli.md: the help of every command."""
    parts = [INTRODUCTION]
    with tempfile.TemporaryDirectory() as folder:
        for command in ["srdd", *(f"srdd {name}" for name in commands())]:
            text = printed("help", command, folder)
            parts.append(f"## {command}\n\n```text\n{text}```\n")
    return "\n".join(parts)


def rewritten(page: Path, kinds: set[str]) -> str:
    """The page with its blocks of these kinds as the program prints them now."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "prototype.json").write_bytes(PROTOTYPE.read_bytes())

        def anew(match: re.Match[str]) -> str:
            kind, command, _ = match.groups()
            if kind not in kinds:
                return match[0]
            text = printed(kind, command, folder)
            return f"<!-- {kind}: {command} -->\n```text\n{text}```\n<!-- end -->"

        return BLOCK.sub(anew, page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    chosen = set(sys.argv[1:]) or {"help", "output"}
    CLI.write_text(cli_page(), encoding="utf-8")
    for page in PAGES:
        page.write_text(rewritten(page, chosen), encoding="utf-8")
