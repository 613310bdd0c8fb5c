"""The scan that a command starts from: a file, standard input, or the newest in the folder.

A scan is known by its content and not by its name. Files are looked at from the newest on, and of
each only the beginning is read, so that a folder with thousands of other files costs little.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from srdd.cli import console
from srdd.documents.document import load_object
from srdd.documents.scan import is_scan, load_scan
from srdd.errors import InputError
from srdd.reports.text import safe

if TYPE_CHECKING:
    from srdd.documents.scan import Scan

HEAD_BYTES = 1 << 16
_OURS = re.compile(rb'\s*\{\s*"kind"\s*:\s*"srdd\.scan"')
_MAYBE = (b'"srdd.scan"', b'"quant_type"')
"""What a scan with its keys in another order, or one of the prototype, holds near its beginning."""


def load(source: str | None) -> Scan:
    """The scan in a file, from standard input for `-`, or the newest in this folder for None.

    Raises:
        InputError: there is none, or it cannot be read.
    """
    source = source or newest()
    if source != "-" and _names_a_model(source):
        raise InputError(f"{source} is a model, not a scan", f"scan it first: srdd scan {source}")
    return load_scan(source)


def _names_a_model(source: str) -> bool:
    path = Path(source)
    if path.exists():
        return (path / "config.json").is_file()
    return source == "demo" or bool(re.fullmatch(r"[\w.-]+/(?!.*\.json$)[\w.-]+", source))


def newest() -> str:
    """The newest scan in this folder, with a note on standard error that says which.

    Raises:
        InputError: there is none.
    """
    name = str(newest_scan(Path()))
    console.say(f"reading {safe(name)}, the newest scan here")
    return name


def newest_scan(folder: Path) -> Path:
    """The scan that was written last among the `.json` files of a folder; not below it.

    A file that begins like a scan and turns out to be broken is still the newest: reading it tells
    what is wrong with it, where an older one would be taken silently.

    Raises:
        InputError: there is none.
    """
    for path in newest_first(folder):
        return path
    raise InputError(
        f"there is no scan in {folder.resolve()}",
        "run `srdd scan MODEL` first, or name the file of a scan",
    )


def newest_first(folder: Path) -> Iterator[Path]:
    """The scans among the `.json` files of a folder, the one that was written last first."""
    files = []
    for path in folder.glob("*.json"):
        try:
            if path.is_file():
                files.append((path.stat().st_mtime_ns, path.name, path))
        except OSError:  # it went away, or its folder cannot be read
            continue
    for _, _, path in sorted(files, reverse=True):
        if _looks_like_scan(path):
            yield path


def _looks_like_scan(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if _OURS.match(head):
            return True
        return any(word in head for word in _MAYBE) and is_scan(load_object(path))
    except (OSError, InputError):
        return False
