"""Reading rollouts from files, as trainers log them and as srdd generates them.

    .jsonl .ndjson .json    one rollout a line
    .parquet                one rollout a row
    .pt                     slime's dump of samples (torch.save)

A row that is no rollout is left out and recorded with its line; only a file without any rollout is
an error. srdd.prompts.rollout_rows says what a row may look like.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

from srdd.errors import InputError, SrddError, UsageError, unknown_name
from srdd.prompts.rollout_rows import HINT, NAMES, rollouts_of
from srdd.prompts.rollouts import Rollout, RolloutSet
from srdd.prompts.sources import JSON_SUFFIXES, json_object, kind, listed, parquet, unreadable

HEADER = "srdd.rollouts"
"""`kind` of the first line of a file that srdd generated: its settings, and no rollout."""


def parse_columns(text: str | None) -> dict[str, str]:
    """`prompt=a,response=b.c` as a mapping.

    Raises:
        UsageError: not of this form, or of something that no rollout has.
    """
    columns = {}
    for part in [] if text is None else text.split(","):
        field, equals, column = (piece.strip() for piece in part.partition("="))
        if not equals or not column:
            raise UsageError(
                f"--columns {part!r} names no column", "write --columns prompt=NAME,response=NAME"
            )
        if field not in NAMES:
            raise unknown_name("part of a rollout", field, NAMES)
        columns[field] = column
    return columns


def read_rollouts(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    limit: int | None = None,
    skip: int = 0,
    stdin: IO[bytes] | None = None,
) -> RolloutSet:
    """The rollouts of a file, or of standard input (JSON Lines) where `path` is `-`.

    Arguments:
        columns: what of a rollout is in which column, for some or all of NAMES; the rest is found.
        limit: read at most so many rollouts, at least 1; those that are left out count.
        skip: leave out so many at the start, 0 or more.
        stdin: bytes to read for `-`; the process's own standard input by default.

    Raises:
        InputError: the file cannot be read, or has no rollout.
        UsageError: a limit or skip out of range; a column that a Parquet file does not have.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"the limit is {limit} rollouts", "use `limit` 1 or more, or leave it out")
    if skip < 0:
        raise UsageError(f"{skip} rollouts cannot be skipped", "use `skip` 0 or more")
    columns = dict(columns or {})
    if str(path) == "-":
        stream = sys.stdin.buffer if stdin is None else stdin
        return _collect("stdin", _lines(stream, "standard input"), columns, limit, skip)
    path, name = Path(path), str(path)
    suffix = path.suffix.lower()
    if suffix not in (*JSON_SUFFIXES, ".parquet", ".pt", ""):
        raise InputError(
            f"{name} ends in {suffix}, which is no format of rollouts",
            "give a .jsonl, a .parquet, or slime's .pt file",
        )
    try:
        with path.open("rb") as stream:
            if suffix == ".parquet":
                rows = _parquet_rows(stream, name, columns)
            elif suffix == ".pt":
                rows = _samples(stream, name)
            else:
                rows = _lines(stream, name)
            return _collect(name, rows, columns, limit, skip)
    except OSError as error:
        raise unreadable(path, error) from error


Row = tuple[str, dict[str, Any] | SrddError]
"""Where it is, and what it holds, or why nothing can be read from it."""


def _lines(stream: IO[bytes], name: str) -> Iterator[Row]:
    for number, line in enumerate(stream, start=1):
        where = f"line {number} of {name}"
        if not line.strip():
            continue
        if number == 1 and b"\0" in line:
            raise InputError(
                f"{name} is binary: it has NUL bytes",
                "give JSON Lines in UTF-8, or Parquet named *.parquet",
            )
        try:
            yield where, json_object(line.decode("utf-8-sig" if number == 1 else "utf-8"), where)
        except UnicodeDecodeError:
            yield where, InputError(f"{where} is not UTF-8", "convert it")
        except InputError as error:
            yield where, error


def _parquet_rows(stream: IO[bytes], name: str, columns: Mapping[str, str]) -> Iterator[Row]:
    with parquet(stream, name) as table:
        present = table.schema_arrow.names
        for column in columns.values():
            if column not in present and column.partition(".")[0] not in present:
                raise unknown_name(f"column of {name}", column, present)
        known = {column for names in NAMES.values() for column in names}
        known |= {part for column in columns.values() for part in (column, column.split(".")[0])}
        chosen = [column for column in present if column in known]
        if not chosen:
            raise InputError(f"{name} has no rollouts: its columns are {listed(present)}", HINT)
        number = 0
        for batch in table.iter_batches(batch_size=64, columns=chosen):
            for record in batch.to_pylist():
                number += 1
                yield f"row {number} of {name}", record


def _samples(stream: IO[bytes], name: str) -> Iterator[Row]:
    """The samples of slime's --save-debug-rollout-data; nothing in the file is executed."""
    import pickle

    import torch

    try:
        content = torch.load(stream, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(
            f"{name} cannot be loaded as plain data: {str(error).splitlines()[0]}",
            "write the samples as JSON Lines, one `sample.to_dict()` a line",
        ) from error
    samples = content.get("samples") if isinstance(content, dict) else content
    if not isinstance(samples, list):
        raise InputError(
            f"{name} has no list of samples", "give what slime's --save-debug-rollout-data writes"
        )
    for number, sample in enumerate(samples, start=1):
        where = f"sample {number} of {name}"
        if isinstance(sample, dict):
            yield where, {str(key): value for key, value in sample.items()}
        else:
            yield where, InputError(f"{where} is {kind(sample)}, not an object", HINT)


def _collect(
    source: str, rows: Iterator[Row], columns: Mapping[str, str], limit: int | None, skip: int
) -> RolloutSet:
    header = next(rows, None)
    temperature = None
    if header is not None and isinstance(header[1], dict) and header[1].get("kind") == HEADER:
        given = header[1].get("logprobs_temperature")
        temperature = float(given) if isinstance(given, int | float) else None
    elif header is not None:
        rows = chain([header], rows)
    rollouts: list[Rollout] = []
    index: list[int] = []
    bad: list[str] = []
    first_error: SrddError | None = None
    count = 0
    for entry in islice(_entries(rows, columns), None if limit is None else skip + limit):
        count += 1
        if count <= skip:
            continue
        if isinstance(entry, Rollout):
            rollouts.append(entry)
            index.append(count - 1)
        else:
            first_error = first_error or entry
            bad.append(entry.message)
    if rollouts:
        return RolloutSet(source, tuple(rollouts), tuple(index), tuple(bad), temperature)
    if first_error is not None:
        raise InputError(f"{source} has no rollout: {first_error.message}", first_error.hint)
    if count:
        raise InputError(
            f"skipping {skip} of the rollouts leaves none: {source} has {count}",
            f"use `skip` {count - 1} or less",
        )
    raise InputError(f"{source} has no rollouts", HINT)


def _entries(rows: Iterator[Row], columns: Mapping[str, str]) -> Iterator[Rollout | SrddError]:
    """Each rollout of each row, or why there is none."""
    for where, record in rows:
        if isinstance(record, SrddError):
            yield record
            continue
        try:
            yield from rollouts_of(record, where, columns)
        except InputError as error:
            yield error
