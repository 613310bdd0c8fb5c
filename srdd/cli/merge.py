"""`srdd merge`: scans of the parts of a prompt set become the scan of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from srdd.cli import console, options
from srdd.cli.options import flag, option
from srdd.errors import UsageError, counted
from srdd.reports.text import safe


def merge(
    parts: Annotated[
        list[str],
        typer.Argument(
            metavar="PART",
            help="Scans of one model with the same settings, in the order of their prompts.",
        ),
    ],
    output: Annotated[
        str,
        option(
            "Where the merged scan is written; - for standard output.", "FILE", "--output", "-o"
        ),
    ],
    repeated: Annotated[
        bool, flag("Count a prompt that several parts contain as often as it occurs.", "--repeated")
    ] = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Merge scans of parts of a prompt set into the scan of the whole.

    Make the parts with `srdd scan --skip N --limit N`, on several machines or one after the other.
    Needs no model.
    """
    from srdd.cli.output import deliver, free_target
    from srdd.cli.scans import load
    from srdd.documents.merge import merge_scans

    _check_parts(parts)
    target = free_target(output, force=force)
    scans = [load(part) for part in parts]
    names = ["standard input" if part == "-" else safe(part) for part in parts]
    whole = merge_scans(scans, repeated=repeated, names=names)
    deliver(whole.to_json(), target, force=force)
    text = whole.calibration
    console.say(
        f"merged {counted(len(scans), 'part')}: {counted(text.prompts or 0, 'prompt')}, "
        f"{counted(text.tokens or 0, 'token')}"
    )
    for warning in whole.warnings:
        console.warn(warning)


def _check_parts(parts: Sequence[str]) -> None:
    """Catch slips of the pen before any file is read.

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
