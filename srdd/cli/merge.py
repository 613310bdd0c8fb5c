"""`srdd merge`: scans of the parts of a prompt set become the scan of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from srdd.cli import console
from srdd.cli.options import command
from srdd.cli.output import Destination
from srdd.errors import UsageError, counted
from srdd.reports.text import safe


@command
def merge(parts: list[str], destination: Destination, repeated: bool = False) -> None:
    """Merge scans of parts of a prompt set into the scan of the whole.

    Make the parts with `srdd scan --skip N --limit N`, on several machines or one after the other.
    Needs no model.
    """
    from srdd.cli.scans import load
    from srdd.documents.merge import merge_scans

    _check_parts(parts)
    destination.path()
    scans = [load(part) for part in parts]
    names = ["standard input" if part == "-" else safe(part) for part in parts]
    whole = merge_scans(scans, repeated=repeated, names=names)
    destination.write(whole.to_json())
    text = whole.calibration
    console.say(
        f"merged {counted(len(scans), 'part')}: {counted(text.prompts or 0, 'prompt')}, "
        f"{counted(text.tokens or 0, 'token')}"
    )
    for warning in whole.warnings:
        console.warn(warning)


def _check_parts(parts: Sequence[str]) -> None:
    """Refuse a single part, and one that is named twice, before any file is read.

    Raises:
        UsageError: there is only one part, or one is named twice.
    """
    if len(parts) == 1:
        raise UsageError("there is only one part to merge", "name two scans or more")
    known: dict[object, str] = {}
    for part in parts:
        path = Path(part)
        there = part != "-" and path.exists()
        key = (path.stat().st_dev, path.stat().st_ino) if there else part
        if key in known:
            twice = known[key] == part
            what = f"{part} is named twice" if twice else f"{known[key]} and {part} are one file"
            raise UsageError(what, "name every part once")
        known[key] = part
