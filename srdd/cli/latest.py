"""The newest scan of a folder, for commands that are given none.

A scan is known by its content and not by its name. Files are looked at from the newest on, and of
each only the beginning is read, so that a folder with thousands of other files costs little.
"""

from __future__ import annotations

import re
from pathlib import Path

from srdd.documents.document import load_object
from srdd.documents.reading import is_scan
from srdd.errors import InputError

HEAD_BYTES = 1 << 16
_OURS = re.compile(rb'\s*\{\s*"kind"\s*:\s*"srdd\.scan"')
_MAYBE = (b'"srdd.scan"', b'"quant_type"')
"""What a scan with its keys in another order, or one of the prototype, holds near its beginning."""


def newest_scan(folder: Path) -> Path:
    """The scan that was written last among the `.json` files of a folder; not below it.

    A file that begins like a scan and turns out to be broken is still the newest: reading it tells
    what is wrong with it, where an older one would be taken silently.

    Raises:
        InputError: there is none.
    """
    files = []
    for path in folder.glob("*.json"):
        try:
            if path.is_file():
                files.append((path.stat().st_mtime_ns, path.name, path))
        except OSError:  # it went away, or its folder does not let us look
            continue
    for _, _, path in sorted(files, reverse=True):
        if _looks_like_scan(path):
            return path
    raise InputError(
        f"there is no scan in {folder.resolve()}",
        "run `srdd scan MODEL` first, or name the file of a scan",
    )


def _looks_like_scan(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if _OURS.match(head):
            return True
        return any(word in head for word in _MAYBE) and is_scan(load_object(path))
    except (OSError, InputError):
        return False
