"""Errors that srdd raises on purpose.

    SrddError
    ├── UsageError      a wrong name, option or combination of them
    ├── InputError      a file, model or prompt set that cannot be used as it is
    ├── OutputError     a result that cannot be written where it was wanted
    └── MergeError      documents that do not belong together

Each has a hint: what to do next. Any other exception that leaves srdd is a bug.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SrddError(Exception):
    """An error that the user can fix. `str` of it is the message and, on a second line, the hint.

    Arguments:
        message: what happened, as one sentence without the word "error".
        hint: what to do next.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message, hint)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}"


class UsageError(SrddError):
    """A name, an option or a combination of them that does not exist."""


class InputError(SrddError):
    """A file, a model or a set of prompts that cannot be used as it is."""


class OutputError(SrddError):
    """A result that cannot be written where it was wanted."""


class MergeError(SrddError):
    """Documents that do not belong together."""


def counted(count: int, noun: str) -> str:
    """`1 prompt`, `2,000 prompts`: a count with its noun, for a message."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UsageError:
    """The error for a `name` that is none of `known`; the hint lists them, closest first."""

    def unlike(other: str) -> tuple[bool, float]:
        short = not other.lower().startswith(name.lower())  # `mxfp8` means `mxfp8_e4m3`
        return short, -difflib.SequenceMatcher(None, other.lower(), name.lower()).ratio()

    ordered = sorted(known, key=unlike)  # equally close names stay in their order
    return UsageError(f"unknown {kind} {name!r}", f"choose from: {', '.join(ordered)}")
