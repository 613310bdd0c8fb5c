"""Documents: strict JSON with a kind and a schema version, checked when read, written atomically.

An undefined figure is null; NaN and Infinity are not JSON and are refused. Writing goes to a
temporary file beside the target, which takes the target's name only when every byte has reached the
disk.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import orjson
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from srdd.errors import InputError, OutputError

if TYPE_CHECKING:
    from typing_extensions import Self

MAX_BYTES = 1 << 30
"""Larger files are refused before they are read: no document of ours comes near."""

STDIN = "-"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

LARGEST_COUNT = 1 << 50
LARGEST = 1e100
"""Limits of figures in a document that is read: squares and sums of these stay finite."""

# Strict: neither text nor true and false are taken for numbers.
Count = Annotated[int, Field(strict=True, ge=0, le=1 << 62)]
Number = Annotated[float, Field(strict=True, ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(strict=True, ge=0, le=1e120)]
AboveZero = Annotated[float, Field(strict=True, gt=0, le=LARGEST)]
Fraction = Annotated[float, Field(strict=True, ge=0, le=1)]


def one_of(names: Iterable[str]) -> Any:
    """The constraint of a text field that it is one of `names`."""
    return Field(pattern=f"^({'|'.join(names)})$")


def _ordered(ends: tuple[float, float]) -> tuple[float, float]:
    if ends[0] > ends[1]:
        raise ValueError("it ends before it begins")
    return ends


Interval = Annotated[tuple[Number, Number], AfterValidator(_ordered)]


class Part(BaseModel):
    """A part of a document: unknown keys, NaN and Infinity are errors; instances do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Document(Part):
    """A document: `load` or `parse` reads one, `save` writes it, `json_schema` describes it.

    A subclass gives `kind` and `schema_version` their values as defaults.
    """

    HINT: ClassVar[str] = "write the document again"
    """What to do where a file is missing or holds something else."""

    PRETTY: ClassVar[bool] = False
    """Whether the file is indented, for people to read and compare."""

    kind: str
    schema_version: int

    @classmethod
    def load(cls, source: str | Path) -> Self:
        """Read a document from a file, or from standard input for `-`.

        Raises:
            InputError: it cannot be read, is of another kind, newer than this srdd, or invalid.
        """
        if str(source) == STDIN:
            return cls.parse(sys.stdin.buffer.read(), "standard input")
        return cls.from_object(load_object(Path(source), cls.HINT), str(source))

    @classmethod
    def parse(cls, content: bytes, name: str) -> Self:
        """Read a document from bytes; `name` is what errors call it. Errors as for `load`."""
        return cls.from_object(parse_object(content, name, cls.HINT), name)

    @classmethod
    def from_object(cls, content: dict[str, Any], name: str) -> Self:
        """A parsed JSON object -> the document; `name` is what errors call it.

        Raises:
            InputError: it is of another kind, newer than this srdd, or invalid.
        """
        kind, version = cls.identity()
        check_version(content, kind, version, name)
        try:
            document = cls.model_validate(cls.upgraded(content))
            document.check()
        except ValidationError as error:
            raise invalid(error, name) from None
        except ValueError as error:
            raise InputError(f"{name}: {error}", "write the document again") from None
        return document

    @classmethod
    def identity(cls) -> tuple[str, int]:
        """Its kind, and the schema version that is written."""
        fields = cls.model_fields
        return fields["kind"].default, fields["schema_version"].default

    @classmethod
    def upgraded(cls, content: dict[str, Any]) -> dict[str, Any]:
        """The object of an older schema version as one of the present; its parts may be invalid.

        Raises:
            ValueError: the version is no longer read.
        """
        kind, version = cls.identity()
        made_with = content["schema_version"]
        if made_with != version:
            raise ValueError(f"schema version {made_with} of {kind} is no longer read")
        return content

    def check(self) -> None:
        """Check what a document that was read must fulfil beyond its schema.

        Raises:
            ValueError: it contradicts itself; the text names the place.
        """

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """The JSON Schema (2020-12).

        It says what a document looks like. What no schema can say, such as that layers are numbered
        in order, is checked when srdd reads one.
        """
        return {"$schema": DIALECT, **cls.model_json_schema()}

    def to_json(self) -> bytes:
        """The document as `save` writes it, with a newline at its end.

        Raises:
            ValueError: it holds NaN or infinity, which copies with changed values are not checked
                for.
        """
        content = self.model_dump(mode="json")
        _check_finite(content, "")
        pretty = orjson.OPT_INDENT_2 if self.PRETTY else 0
        return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE | pretty)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the document to `path`, whole or not at all; over a file only with `force`.

        Raises:
            OutputError: it exists, or cannot be written.
        """
        write_whole(Path(path), self.to_json(), force=force)


def _check_finite(value: object, place: str) -> None:
    """Refuse what orjson would silently write as null."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place.lstrip('.')} is {value}, which JSON cannot hold")
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_finite(inner, f"{place}.{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_finite(inner, f"{place}.{index}")


def load_object(path: Path, hint: str = "write it again") -> dict[str, Any]:
    """The JSON object in a file; `hint` says how to get one.

    Raises:
        InputError: no such file, not readable, too large, not JSON, or JSON but no object.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} is larger than 1 GiB", "name a document that srdd wrote")
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"there is no file {path}", f"check the name; {hint}") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"cannot read {path}: {reason}", "name a file that can be read") from None
    return parse_object(content, str(path), hint)


def parse_object(content: bytes, name: str, hint: str = "write it again") -> dict[str, Any]:
    """The JSON object in `content`, which came from `name`; `hint` says how to get one.

    Raises:
        InputError: it is empty, cut short, not JSON, or not an object.
    """
    if not content.strip():
        raise InputError(f"{name} is empty", hint)
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        message = f"{name} is not valid JSON ({error.msg} at {place})"
        raise InputError(message, f"it may be cut short, or another format; {hint}") from None
    if not isinstance(value, dict):
        raise InputError(f"{name} holds no JSON object", hint)
    return value


READERS = {
    "srdd.scan": "that is a scan: `srdd report`, `suggest` and `compare` read it",
    "srdd.rin": "that is a noise configuration: `srdd eval --rin` reads it",
    "srdd.recipe": "that is a recipe: `srdd recipe` shows it, `srdd eval --recipe` measures it",
    "srdd.evaluation": "that is the result of `srdd eval`, for programs to read",
    "srdd.oscillation": "that is the result of `srdd compare` of two models, for programs to read",
    "srdd.comparison": "that is the result of `srdd compare`, for programs to read",
}
"""Kinds of documents, and who reads them."""


def check_version(content: dict[str, Any], kind: str, version: int, name: str) -> None:
    """Make sure that an object is a document of this kind in a version that can be read.

    Raises:
        InputError: it is another kind of document, or newer than this srdd.
    """
    actual = content.get("kind")
    if actual != kind:
        what = f"it is a {actual!r}" if isinstance(actual, str) else "it has no such `kind`"
        hint = READERS.get(str(actual), "name another file")
        raise InputError(f"{name} is not a document of kind {kind!r}: {what}", hint)
    made_with = content.get("schema_version")
    if not isinstance(made_with, int) or isinstance(made_with, bool) or made_with < 1:
        raise InputError(f"{name} has no usable schema_version", "write the document again")
    if made_with > version:
        raise InputError(
            f"{name} has schema version {made_with}, and this srdd reads up to {version}",
            "update srdd",
        )


def invalid(error: ValidationError, name: str) -> InputError:
    """The first thing that is wrong with a document, by its place in it."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"]) or "the document"
    more = error.error_count() - 1
    others = f" (and {more} more)" if more else ""
    message = first["msg"].removeprefix("Value error, ")
    return InputError(f"{name}: {place}: {message}{others}", "write the document again")


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError:
        raise OutputError(f"{path} exists already", "name another file, or add `force`") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            reason, hint = (
                "the disk is full",
                "free some space, or name a file elsewhere with `output`",
            )
        else:
            reason, hint = error.strerror or str(error), "name a file elsewhere with `output`"
        raise OutputError(f"cannot write {path}: {reason}", hint) from None


def check_target(path: Path, *, force: bool) -> None:
    """Make sure, before any work, that a document can be written to `path`.

    Raises:
        OutputError: it exists and `force` is not given, it is a folder, its folder is missing, or
            nothing can be written there.
    """
    with _as_output_error(path):
        if path.is_dir():
            raise OutputError(f"{path} is a folder", "name a file in it")
        if path.exists():
            if stat.S_ISREG(path.stat().st_mode) and not force:
                raise OutputError(f"{path} exists already", "name another file, or add `force`")
        elif not path.parent.is_dir():
            for folder in path.parents:
                if folder.exists() and not folder.is_dir():
                    raise OutputError(f"{folder} is a file, not a folder", "name another folder")
            raise OutputError(f"there is no folder {path.parent}", f"mkdir -p '{path.parent}'")
        target = path if path.exists() else path.parent
        if not os.access(target, os.W_OK):
            raise OutputError(f"{target} is not writable", "name a file elsewhere with `output`")
        if target.is_dir():  # some folders, such as /proc, take no new file all the same
            tempfile.TemporaryFile(dir=target).close()


def write_whole(path: Path, content: bytes, *, force: bool = False) -> None:
    """Write `content` to `path`, all of it or nothing.

    A device or pipe (`/dev/stdout`) is written to directly.

    Raises:
        OutputError: see `check_target`; also a disk that fills up while writing.
    """
    check_target(path, force=force)
    with _as_output_error(path):
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            path.write_bytes(content)
            return
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.umask(mask := os.umask(0o077))
            os.chmod(name, 0o666 & ~mask)
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
