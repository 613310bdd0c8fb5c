"""Scans from files: whoever made them, what comes out is a Scan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from srdd.documents.document import load_object, parse_object
from srdd.documents.prototype import is_prototype, read_prototype
from srdd.documents.scan import KIND, Scan, read_scan


def is_scan(found: dict[str, Any]) -> bool:
    """Whether a JSON object says that it is a scan, by srdd or by the prototype."""
    return found.get("kind") == KIND or is_prototype(found)


def scan_from(found: dict[str, Any], name: str) -> Scan:
    """A parsed JSON object -> the Scan; `name` is what errors call it.

    Raises:
        InputError: it is no scan, is newer than this srdd, or does not hold together.
    """
    if is_prototype(found):
        return read_prototype(found, name)
    return read_scan(found, name)


def load_scan(path: str | Path) -> Scan:
    """Read a scan from a file: one that srdd wrote, or one of the method's prototype.

    Raises:
        InputError: the file cannot be read, is no scan, is newer than this srdd, or does not hold
            together.
    """
    return scan_from(load_object(Path(path)), str(path))


def parse_scan(content: bytes, name: str) -> Scan:
    """Read a scan from bytes that came from `name`, such as standard input."""
    return scan_from(parse_object(content, name), name)
