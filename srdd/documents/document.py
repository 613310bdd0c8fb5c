"""Documents on disk: strict JSON, read with checks and written whole or not at all.

A document is a JSON object with a `kind` and a `schema_version`. Undefined figures are null; NaN
and Infinity are not JSON and are refused. Writing goes to a temporary file beside the target, which
takes the target's name only when every byte has reached the disk.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from srdd.errors import InputError, OutputError

MAX_BYTES = 1 << 30
"""Larger files are refused before they are read: no document of ours comes near."""


class Part(BaseModel):
    """A part of a document: unknown keys, NaN and Infinity are errors; instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def to_bytes(document: Part) -> bytes:
    """The document as JSON on one line, with a newline at its end.

    Raises:
        ValueError: it holds NaN or infinity, which copies with changed values are not checked for.
    """
    found = document.model_dump(mode="json")
    _check_finite(found, "")
    return orjson.dumps(found, option=orjson.OPT_APPEND_NEWLINE)


def _check_finite(found: object, place: str) -> None:
    """Refuse what orjson would silently write as null."""
    if isinstance(found, float) and not math.isfinite(found):
        raise ValueError(f"{place.lstrip('.')} is {found}, which JSON cannot hold")
    if isinstance(found, dict):
        for key, value in found.items():
            _check_finite(value, f"{place}.{key}")
    elif isinstance(found, list):
        for index, value in enumerate(found):
            _check_finite(value, f"{place}.{index}")


def load_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        InputError: no such file, not readable, too large, not JSON, or JSON but no object.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than 1 GiB", "name a document that srdd wrote")
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}", "check the name, or run `srdd scan`") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read {path}: {reason}", "name a file that can be read") from None
    return parse_object(content, str(path))


def parse_object(content: bytes, name: str) -> dict[str, Any]:
    """The JSON object in `content`, which came from `name`.

    Raises:
        InputError: it is empty, cut short, not JSON, or not an object.
    """
    if not content.strip():
        raise InputError(f"{name} is empty", "write the document again")
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        hint = "the file may be cut short, or hold NaN, which is not JSON; write it again"
        raise InputError(f"{name} is not valid JSON ({error.msg} at {where})", hint) from None
    if not isinstance(found, dict):
        raise InputError(f"{name} holds no JSON object", "name a document that srdd wrote")
    return found


READERS = {
    "srdd.scan": "that is a scan: `srdd report`, `suggest` and `compare` read it",
    "srdd.rin": "that is a noise configuration: `srdd eval --rin` reads it",
    "srdd.evaluation": "that is what `srdd eval` found, for programs to read",
    "srdd.comparison": "that is what `srdd compare` found, for programs to read",
}
"""Kinds of documents, and who reads them."""


def check_version(found: dict[str, Any], kind: str, version: int, name: str) -> None:
    """Make sure that `found` is a document of this kind in a version that can be read.

    Raises:
        InputError: it is another kind of document, or newer than this srdd.
    """
    if found.get("kind") != kind:
        held = found.get("kind")
        what = f"it is a {held!r}" if isinstance(held, str) else "it has no such `kind`"
        hint = READERS.get(str(held), "name another file")
        raise InputError(f"{name} is not a document of kind {kind!r}: {what}", hint)
    made_with = found.get("schema_version")
    if not isinstance(made_with, int) or isinstance(made_with, bool) or made_with < 1:
        raise InputError(f"{name} has no usable schema_version", "write the document again")
    if made_with > version:
        raise InputError(
            f"{name} has schema version {made_with}, and this srdd reads up to {version}",
            "update srdd",
        )


def describe(error: ValidationError, name: str) -> InputError:
    """The first thing that is wrong with a document, by its place in it."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the document"
    more = error.error_count() - 1
    others = f" (and {more} more)" if more else ""
    message = first["msg"].removeprefix("Value error, ")
    return InputError(f"{name}: {place}: {message}{others}", "write the document again")


@contextlib.contextmanager
def _told_as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise OutputError(f"{path} exists already", "name another file, or add --force") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason, hint = "the disk is full", "free some space, or name a file elsewhere with -o"
        else:
            reason, hint = error.strerror or str(error), "name a file elsewhere with -o"
        raise OutputError(f"cannot write {path}: {reason}", hint) from None


def check_target(path: Path, *, force: bool) -> None:
    """Make sure, before any work, that a document can be written to `path`.

    Raises:
        OutputError: it exists and `force` is not given, it is a folder, its folder is missing, or
            nothing can be written there.
    """
    with _told_as_output_error(path):
        if path.is_dir():
            raise OutputError(f"{path} is a folder", "name a file in it")
        if path.exists():
            if stat.S_ISREG(path.stat().st_mode) and not force:
                raise OutputError(f"{path} exists already", "name another file, or add --force")
        elif not path.parent.is_dir():
            raise OutputError(f"there is no folder {path.parent}", f"mkdir -p '{path.parent}'")
        target = path if path.exists() else path.parent
        if not os.access(target, os.W_OK):
            raise OutputError(f"{target} is not writable", "name a file elsewhere with -o")


def write_whole(path: Path, content: bytes, *, force: bool = False) -> None:
    """Write `content` to `path`, all of it or nothing.

    A device or pipe (`/dev/stdout`) is written to directly.

    Raises:
        OutputError: see `check_target`; also a disk that fills up while writing.
    """
    check_target(path, force=force)
    with _told_as_output_error(path):
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            path.write_bytes(content)
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(name, 0o666 & ~_umask())
            if force:
                os.replace(name, path)
            else:
                # A link fails where a rename would overwrite a file that appeared meanwhile.
                _link_or_rename(name, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)


def _link_or_rename(name: str, path: Path) -> None:
    try:
        os.link(name, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        os.replace(name, path)


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current
