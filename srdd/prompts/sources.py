"""Lines, JSON objects and Parquet files, with errors that a user can act on."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeAlias

from srdd.errors import InputError

TABLE_SUFFIXES = (".csv", ".tsv", ".xls", ".xlsx")
JSON_SUFFIXES = (".jsonl", ".ndjson", ".json")

Lines: TypeAlias = Iterable[tuple[int, str]]
"""Numbered from 1, without their line endings."""

_LINE_HINT = (
    'put one JSON object such as {"prompt": "Hello"} on each line;'
    " jq -c '.[]' makes such lines of an array"
)


def lines(stream: IO[bytes], name: str) -> Iterator[tuple[int, str]]:
    """The lines that aren't blank; only a newline ends one, as U+2028 may be part of a prompt."""
    offset = 0
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            if b"\0" in line + stream.read(8192):
                raise _binary(name) from error
            raise InputError(
                f"{name} is not UTF-8: byte 0x{line[error.start]:02x} at offset"
                f" {offset + error.start} (line {number})",
                "convert it, for example: iconv -f latin1 -t utf-8 OLD > NEW",
            ) from error
        if "\0" in text:
            raise _binary(name)
        if number == 1:
            text = text.removeprefix("\ufeff")
        if text.strip():
            yield number, text.rstrip("\r\n")
        offset += len(line)


def _binary(name: str) -> InputError:
    return InputError(
        f"{name} is binary: it has NUL bytes",
        "give UTF-8 text (UTF-16 has such bytes), JSON Lines, or Parquet named *.parquet",
    )


def json_object(line: str, where: str) -> dict[str, Any]:
    """The JSON object on a line.

    Raises:
        InputError: the line is something else.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # also a number or a nesting without end
        problem = re.sub(r": line 1 column (\d+).*", r" (column \1)", str(error))
        raise InputError(f"{where} is not valid JSON: {problem}", _LINE_HINT) from error
    if not isinstance(record, dict):
        raise InputError(f"{where} is {kind(record)}, not a JSON object", _LINE_HINT)
    return record


@contextmanager
def parquet(stream: IO[bytes], name: str) -> Iterator[Any]:
    """A file as pyarrow's ParquetFile; in here its errors are those of a file that is broken.

    Raises:
        InputError: pyarrow is not installed, or the file cannot be read.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        problem = f"reading {name} needs pyarrow, which is not installed"
        raise InputError(problem, "pip install pyarrow") from error
    try:
        yield pyarrow.parquet.ParquetFile(stream)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{name} is no readable Parquet file: {str(error).splitlines()[0]}",
            "check that it was copied completely, or write it again",
        ) from error


def encodable(text: str, where: str) -> str:
    """The text itself, if it has a UTF-8 form; tokenizers fail obscurely on what has none."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where} has a lone surrogate \\u{ord(text[error.start]):04x}, which is no character",
            "write the character itself, or both halves of the pair, such as \\ud83d\\ude00",
        ) from error
    return text


def kind(value: object) -> str:
    """What a JSON value is, for a message."""
    names = {"dict": "an object", "list": "a list", "str": "a string", "NoneType": "null"}
    names |= {"bool": "true or false", "int": "a number", "float": "a number"}
    return names.get(type(value).__name__, f"of type {type(value).__name__}")


def listed(names: Iterable[object]) -> str:
    """Names for a message, with escapes for what is not printable."""
    return ", ".join(repr(str(name))[1:-1] for name in names) or "none"


def unreadable(path: Path, error: OSError) -> InputError:
    """The error for a file that could not be opened or read, with names that are close to it."""
    if isinstance(error, IsADirectoryError):
        example = "".join(f", such as {path / name}" for name in _files(path)[:1])
        return InputError(f"{path} is a folder, not a file", f"name one file in it{example}")
    if not isinstance(error, FileNotFoundError):
        reason = error.strerror or str(error)
        return InputError(f"cannot read {path}: {reason}", "check the path and its permissions")
    close = difflib.get_close_matches(path.name, _files(path.parent), n=3, cutoff=0.5)
    if close:
        hint = f"did you mean {' or '.join(str(path.with_name(name)) for name in close)}?"
    elif path.parent.is_dir():
        hint = f"no name in {path.parent} is similar; check the path"
    else:
        hint = f"the folder {path.parent} does not exist either; check the path"
    return InputError(f"there is no file {path}", hint)


def _files(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    except OSError:
        return []
