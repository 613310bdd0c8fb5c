"""Calibration text: the prompts of a scan, from wherever they come, before a tokenizer sees them.

Three sources, one result. `builtin` gives the prompts that ship with srdd, `read_prompts` reads a
file or standard input, `from_strings` takes the objects of a Python program:

    text          one prompt a line; blank lines are skipped
    JSON Lines    one object a line (.jsonl, .ndjson, .json)
    Parquet       one row a prompt (.parquet), as the trainer verl lays it out

In JSON Lines and Parquet the prompt is under `prompt`, `messages` or `text`; the first of these
that is there and not null counts. It is a string, or a list of chat messages with `role` and
`content`. Messages are kept as they are, because only the tokenizer knows the chat template.

Reading stops at the limit, so that eight prompts of a large file cost eight prompts; the
rest isn't read. Only blank lines are skipped without a message.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import chain, islice
from pathlib import Path
from typing import IO

from srdd.errors import InputError, UsageError, unknown_name
from srdd.prompts.sources import (
    JSON_SUFFIXES,
    TABLE_SUFFIXES,
    Lines,
    encodable,
    json_object,
    kind,
    lines,
    listed,
    parquet,
    unreadable,
)

KEYS = ("prompt", "messages", "text")
"""Where a record keeps its prompt, in order of preference."""

_MESSAGE_HINT = 'write each chat message as {"role": "user", "content": "Hello"}'


@dataclass(frozen=True)
class Prompt:
    """One prompt: either plain `text` or chat `messages` with at least `role` and `content`."""

    text: str | None = None
    messages: tuple[dict[str, str], ...] | None = None

    def plain(self) -> str:
        """The prompt without a chat template: its text, or its contents joined by newlines."""
        if self.messages is None:
            return self.text or ""
        return "\n".join(message["content"] for message in self.messages)

    def chat(self) -> list[dict[str, str]]:
        """The prompt as chat messages; plain text becomes one message of the user."""
        if self.messages is None:
            return [{"role": "user", "content": self.text or ""}]
        return [dict(message) for message in self.messages]


@dataclass(frozen=True)
class PromptSet:
    """Prompts in the order of their source.

    Attributes:
        source: `builtin`, `stdin`, `python`, or the file as it was named.
        prompts: at least one.
        first: how many prompts of the source were skipped, which is the 0-based global index of
            `prompts[0]`. Two halves of one file thus number their prompts as the whole file does.
    """

    source: str
    prompts: tuple[Prompt, ...]
    first: int = 0


def builtin(limit: int | None = None, skip: int = 0) -> PromptSet:
    """The calibration prompts that ship with srdd; the first eight are short."""
    name = "calibration.jsonl"
    with resources.files("srdd.prompts").joinpath(name).open("rb") as stream:
        return _collect("builtin", _from_json(lines(stream, name), name), limit, skip)


def from_strings(
    prompts: Iterable[str | Sequence[Mapping[str, str]]], limit: int | None = None, skip: int = 0
) -> PromptSet:
    """Prompts from Python: strings, lists of chat messages, or both mixed.

    Raises:
        InputError: for one bare string, for anything that is neither, and for no prompts at all.
    """
    if isinstance(prompts, str):
        raise InputError("the prompts are one string, not a list", "pass a list: [prompt]")
    checked = (
        prompt_from(value, f"prompt {number}") for number, value in enumerate(prompts, start=1)
    )
    return _collect("python", checked, limit, skip)


def read_prompts(
    path: str | Path,
    stdin: IO[bytes] | None = None,
    limit: int | None = None,
    skip: int = 0,
    column: str | None = None,
) -> PromptSet:
    """The prompts of a file, or of standard input where `path` is `-`.

    The name's ending chooses the reader. Standard input, and a name without an ending (a pipe such
    as /dev/fd/63), is JSON Lines if its first character other than blanks is `{`, and text if not.

    Arguments:
        path: a file, or `-`.
        stdin: bytes to read for `-`; the process's own standard input by default.
        limit: read at most so many prompts, at least 1; `None` reads all.
        skip: leave out so many prompts at the start, 0 or more.
        column: key or column that holds the prompts; the first there is of KEYS by default.

    Raises:
        InputError: the file cannot be read, or something in it is no prompt.
        UsageError: a limit or skip out of range, or a column of plain text.
    """
    keys = KEYS if column is None else (column,)
    if str(path) == "-":
        stream = sys.stdin.buffer if stdin is None else stdin
        return _collect("stdin", _read(stream, "standard input", "", keys), limit, skip)
    path, name = Path(path), str(path)
    suffix = path.suffix.lower()
    if suffix in TABLE_SUFFIXES:
        raise InputError(
            f"{name} looks like a table, whose lines are no prompts",
            "write the prompts to a .txt (one a line), a .jsonl or a .parquet file",
        )
    try:
        with path.open("rb") as stream:
            return _collect(name, _read(stream, name, suffix, keys), limit, skip)
    except OSError as error:
        raise unreadable(path, error) from error


def _collect(source: str, prompts: Iterator[Prompt], limit: int | None, skip: int) -> PromptSet:
    """The prompts between `skip` and `limit`; the iterator isn't asked for any beyond."""
    if limit is not None and limit < 1:
        raise UsageError(f"the limit is {limit} prompts", "use `limit` 1 or more, or leave it out")
    if skip < 0:
        raise UsageError(f"{skip} prompts cannot be skipped", "use `skip` 0 or more")
    skipped = sum(1 for _ in islice(prompts, skip))
    taken = tuple(islice(prompts, limit))
    if not taken and not skipped:
        raise InputError(f"{source} has no prompts", "give at least one prompt that isn't blank")
    if not taken:
        problem = f"skipping {skip} of the prompts leaves none: {source} has {skipped}"
        raise InputError(problem, f"use `skip` {skipped - 1} or less")
    return PromptSet(source, taken, skip)


def _read(stream: IO[bytes], name: str, suffix: str, keys: Sequence[str]) -> Iterator[Prompt]:
    """The prompts of a stream; without a suffix, the first line shows what it is."""
    if suffix == ".parquet":
        return _from_parquet(stream, name, keys)
    numbered = lines(stream, name)
    first = [] if suffix else list(islice(numbered, 1))
    if suffix in JSON_SUFFIXES or any(line.lstrip()[0] == "{" for _, line in first):
        return _from_json(chain(first, numbered), name, keys)
    if keys != KEYS:
        raise UsageError(f"{name} is plain text, which has no columns", "leave out `prompt_column`")
    return (Prompt(text=line) for _, line in chain(first, numbered))


def _from_json(numbered: Lines, name: str, keys: Sequence[str] = KEYS) -> Iterator[Prompt]:
    for number, line in numbered:
        where = f"line {number} of {name}"
        yield _prompt_of(json_object(line, where), where, keys)


def _from_parquet(stream: IO[bytes], name: str, keys: Sequence[str]) -> Iterator[Prompt]:
    with parquet(stream, name) as table:
        columns = table.schema_arrow.names
        column = next((key for key in keys if key in columns), None)
        if column is None and keys != KEYS:
            raise unknown_name(f"column of {name}", keys[0], columns)
        if column is None:
            raise InputError(
                f"{name} has no column with prompts: its columns are {listed(columns)}",
                f"name the column one of: {', '.join(KEYS)}, or give `prompt_column`",
            )
        # Small batches: a limit of eight must not cost the decoding of a whole row group.
        batches = table.iter_batches(batch_size=64, columns=[column])
        values = chain.from_iterable(batch.column(0).to_pylist() for batch in batches)
        for row, value in enumerate(values, start=1):
            yield _prompt_of({column: value}, f"row {row} of {name}", keys)


def _prompt_of(record: Mapping[str, object], where: str, keys: Sequence[str]) -> Prompt:
    """The prompt of one JSON object or Parquet row."""
    for key in keys:
        value = record.get(key)
        if value is not None:
            return prompt_from(value, where)
    present = listed(f"{key} (null)" if record[key] is None else key for key in record)
    raise InputError(
        f"{where} has no prompt: its keys are {present}",
        f"use {' or '.join(KEYS)}, or give `prompt_column`",
    )


def prompt_from(value: object, where: str) -> Prompt:
    if isinstance(value, str):
        return Prompt(text=encodable(value, where))
    if not isinstance(value, list | tuple):
        problem = f"{where} is {kind(value)}, neither text nor a list of chat messages"
        raise InputError(problem, _MESSAGE_HINT)
    if not value:
        raise InputError(f"{where} is an empty list of chat messages", _MESSAGE_HINT)
    numbered = enumerate(value, start=1)
    messages = tuple(_message(entry, f"message {n} in {where}") for n, entry in numbered)
    return Prompt(messages=messages)


def _message(value: object, where: str) -> dict[str, str]:
    if not isinstance(value, Mapping):
        problem = f"{where} is {kind(value)}, not an object with role and content"
        raise InputError(problem, _MESSAGE_HINT)
    for key in ("role", "content"):
        text = value.get(key)
        if text is None:
            raise InputError(f"{where} has no {key}: it has {listed(value)}", _MESSAGE_HINT)
        if not isinstance(text, str):
            raise InputError(f"the {key} of {where} is {kind(text)}, not text", _MESSAGE_HINT)
    # A template may use further texts, such as a name; what isn't text (tool calls) has no place.
    texts = {str(key): text for key, text in value.items() if isinstance(text, str)}
    return {key: encodable(text, where) for key, text in texts.items()}
