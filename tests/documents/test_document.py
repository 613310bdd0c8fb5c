"""Documents on disk: strict on reading, and written whole or not at all."""

from __future__ import annotations

import io
import os
import stat
import sys
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from srdd.documents import document
from srdd.documents.document import (
    LARGEST,
    Document,
    Number,
    check_target,
    check_version,
    invalid,
    load_object,
    parse_object,
    write_whole,
)
from srdd.errors import InputError, OutputError, SrddError


class Example(Document):
    """A document for these tests."""

    kind: Literal["example"] = "example"
    schema_version: Literal[2] = 2
    name: str
    value: Number | None = None
    many: list[Number] = Field(default_factory=list)


FIGURES = st.floats(-LARGEST, LARGEST)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


# Reading


@pytest.mark.parametrize("content", [b"", b" \n\t "])
def test_an_empty_file_is_told(content: bytes) -> None:
    with pytest.raises(InputError) as caught:
        parse_object(content, "scan.json")
    assert caught.value.message == "scan.json is empty"


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b"{'a': 1}",
        b'{"a": 1} {"b": 2}',
        b'{"a": "\xff"}',
        b"\x00\x01",
        b"[" * 100_000,
    ],
)
def test_what_is_not_strict_json_is_told_with_its_place(content: bytes) -> None:
    with pytest.raises(InputError) as caught:
        parse_object(content, "scan.json")
    assert caught.value.message.startswith("scan.json is not valid JSON (")
    assert "at line 1, column " in caught.value.message
    assert "cut short" in caught.value.hint


@given(cut=st.integers(0, 10_000))
def test_a_document_cut_short_anywhere_is_told(cut: int) -> None:
    whole = Example(name="x" * 20, value=1.5, many=[1.0, 2.0]).to_json()
    part = whole[: cut % (len(whole) - 1)].rstrip()
    with pytest.raises(InputError):
        parse_object(part, "scan.json")


@pytest.mark.parametrize("content", [b"[]", b"1", b'"text"', b"null"])
def test_json_that_is_no_object_is_told(content: bytes) -> None:
    with pytest.raises(InputError, match=r"scan\.json holds no JSON object"):
        parse_object(content, "scan.json")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_object(tmp_path / "gone.json")
    assert caught.value.message == f"there is no file {tmp_path / 'gone.json'}"


def test_a_folder_is_no_document(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        load_object(tmp_path)
    assert caught.value.message == f"cannot read {tmp_path}: Is a directory"


def test_a_name_too_long_for_a_file_is_told() -> None:
    with pytest.raises(InputError, match="cannot read"):
        load_object(Path("x" * 5000))


def test_a_file_too_large_to_be_a_document_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(document, "MAX_BYTES", 10)
    (tmp_path / "big.json").write_bytes(b"{}" + b" " * 9)
    with pytest.raises(InputError, match="is larger than 1 GiB"):
        load_object(tmp_path / "big.json")
    (tmp_path / "big.json").write_bytes(b"{}" + b" " * 8)
    assert load_object(tmp_path / "big.json") == {}


# Versions


def test_a_document_of_this_kind_and_version_is_accepted() -> None:
    check_version({"kind": "k", "schema_version": 1}, "k", 2, "file")
    check_version({"kind": "k", "schema_version": 2}, "k", 2, "file")


def test_a_newer_version_asks_for_an_update() -> None:
    with pytest.raises(InputError) as caught:
        check_version({"kind": "k", "schema_version": 3}, "k", 2, "file")
    assert caught.value.message == "file has schema version 3, and this srdd reads up to 2"
    assert caught.value.hint == "update srdd"


@pytest.mark.parametrize("version", [None, "1", 0, -1, 1.0, True, [1]])
def test_a_version_that_is_no_number_is_told(version: object) -> None:
    with pytest.raises(InputError, match="file has no usable schema_version"):
        check_version({"kind": "k", "schema_version": version}, "k", 2, "file")


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [("other", "it is a 'other'"), (None, "it has no such `kind`"), (5, "it has no such `kind`")],
)
def test_another_kind_is_told(kind: object, complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        check_version({"kind": kind, "schema_version": 1}, "k", 2, "file")
    assert caught.value.message == f"file is not a document of kind 'k': {complaint}"


def test_who_reads_another_kind_is_told() -> None:
    with pytest.raises(InputError) as caught:
        check_version({"kind": "srdd.rin", "schema_version": 1}, "srdd.scan", 1, "file")
    assert "srdd eval --rin" in caught.value.hint


def test_the_first_fault_is_named_by_its_place_and_the_others_are_counted() -> None:
    with pytest.raises(ValidationError) as caught:
        Example.model_validate({"value": "much", "many": [1, "two"], "more": 1})
    error = invalid(caught.value, "file")
    assert error.message == "file: name: Field required (and 3 more)"


# The way through a file


@pytest.mark.parametrize("as_text", [True, False])
def test_a_document_is_read_from_a_file_as_it_was_saved(as_text: bool, tmp_path: Path) -> None:
    path = tmp_path / "example.json"
    saved = Example(name="x", value=0.1)
    saved.save(str(path) if as_text else path)
    assert Example.load(str(path) if as_text else path) == saved


def test_a_hyphen_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    given = io.TextIOWrapper(io.BytesIO(Example(name="x").to_json()))
    monkeypatch.setattr(sys, "stdin", given)
    assert Example.load("-") == Example(name="x")


def test_an_invalid_document_is_an_input_error_that_names_the_source() -> None:
    with pytest.raises(InputError, match=r"^here: name: Field required"):
        Example.parse(b'{"kind": "example", "schema_version": 2}', "here")


def test_a_document_that_contradicts_itself_is_an_input_error() -> None:
    class Checked(Example):
        def check(self) -> None:
            raise ValueError("value: it is not the sum of many")

    with pytest.raises(InputError, match=r"^here: value: it is not the sum of many"):
        Checked.parse(Example(name="x").to_json(), "here")


def test_an_older_version_that_nothing_converts_is_refused() -> None:
    with pytest.raises(InputError, match="schema version 1 of example is no longer read"):
        Example.parse(b'{"kind": "example", "schema_version": 1, "name": "x"}', "here")


def test_the_schema_names_its_dialect_and_the_kind() -> None:
    schema = Example.json_schema()
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["properties"]["kind"]["const"] == "example"


@pytest.mark.parametrize("value", ["1.5", True, [1.5]])
def test_another_type_is_not_converted(value: object) -> None:
    with pytest.raises(InputError, match="here: value: "):
        Example.from_object(
            {"kind": "example", "schema_version": 2, "name": "x", "value": value}, "here"
        )


# Undefined figures


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_json_cannot_hold_never_gets_into_a_document(value: float) -> None:
    with pytest.raises(ValidationError):
        Example(name="x", value=value)
    with pytest.raises(ValidationError):
        Example(name="x", many=[1.0, value])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_slipped_in_is_not_written_as_null(value: float) -> None:
    slipped = Example(name="x").model_copy(update={"value": value})
    with pytest.raises(ValueError, match=r"value is (nan|inf), which JSON"):
        slipped.to_json()
    with pytest.raises(ValueError, match=r"many\.1 is"):
        Example(name="x").model_copy(update={"many": [1.0, value]}).to_json()


def test_undefined_is_null() -> None:
    assert orjson.loads(Example(name="x").to_json())["value"] is None


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError, match="extra"):
        Example.model_validate({"name": "x", "nmae": "y"})


def test_a_document_does_not_change() -> None:
    with pytest.raises(ValidationError):
        Example(name="x").name = "y"  # type: ignore[misc]


@given(
    name=st.text(),
    value=st.none() | FIGURES,
    many=st.lists(FIGURES),
)
def test_every_figure_survives_the_way_through_a_file(
    name: str, value: float | None, many: list[float]
) -> None:
    written = Example(name=name, value=value, many=many)
    raw = written.to_json()
    assert raw.endswith(b"}\n")
    assert raw.count(b"\n") == 1
    assert Example.parse(raw, "file") == written


# Writing


def test_a_new_file_is_written(tmp_path: Path) -> None:
    write_whole(tmp_path / "new.json", b"content")
    assert (tmp_path / "new.json").read_bytes() == b"content"
    assert names(tmp_path) == ["new.json"]


def test_an_existing_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_bytes(b"old")
    with pytest.raises(OutputError) as caught:
        write_whole(tmp_path / "old.json", b"new")
    assert caught.value.message == f"{tmp_path / 'old.json'} exists already"
    assert caught.value.hint == "name another file, or add `force`"
    assert (tmp_path / "old.json").read_bytes() == b"old"


def test_an_existing_file_is_overwritten_when_asked(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_bytes(b"old, and longer")
    write_whole(tmp_path / "old.json", b"new", force=True)
    assert (tmp_path / "old.json").read_bytes() == b"new"
    assert names(tmp_path) == ["old.json"]


@pytest.mark.parametrize("force", [False, True])
def test_a_file_that_appears_meanwhile_is_kept_unless_forced(
    force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "late.json"
    sync = os.fsync

    def appear(handle: int) -> None:
        target.write_bytes(b"theirs")
        sync(handle)

    monkeypatch.setattr(os, "fsync", appear)
    if force:
        write_whole(target, b"ours", force=True)
        assert target.read_bytes() == b"ours"
    else:
        with pytest.raises(OutputError, match="exists already"):
            write_whole(target, b"ours")
        assert target.read_bytes() == b"theirs"
    assert names(tmp_path) == ["late.json"]


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
@pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_a_failure_before_the_rename_leaves_the_old_file_and_nothing_else(
    step: str, failure: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "old.json"
    target.write_bytes(b"old")

    def fail(*args: object) -> None:
        raise failure

    if step == "write":

        class Full:
            def __init__(self, handle: int, mode: str) -> None:
                self.handle = handle

            def __enter__(self) -> Full:
                return self

            def __exit__(self, *args: object) -> None:
                os.close(self.handle)

            write = staticmethod(fail)

        monkeypatch.setattr(os, "fdopen", Full)
    else:
        monkeypatch.setattr(os, "fsync" if step == "fsync" else "replace", fail)
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        write_whole(target, b"new", force=True)
    if isinstance(caught.value, SrddError):
        assert caught.value.message == f"cannot write {target}: the disk is full"
    monkeypatch.undo()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["old.json"]


def test_without_hard_links_the_file_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_whole(tmp_path / "new.json", b"content")
    assert names(tmp_path) == ["new.json"]


def test_a_new_file_has_the_permissions_that_files_here_have(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "new.json", b"content")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new.json").stat().st_mode) == 0o640


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_told() -> None:
    with pytest.raises(OutputError) as caught:
        write_whole(Path("/dev/full"), b"content")
    assert caught.value.message == "cannot write /dev/full: the disk is full"
    assert caught.value.hint == "free some space, or name a file elsewhere with `output`"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes have no names there")
def test_a_named_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_whole(pipe, b"content")
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert names(tmp_path) == ["pipe"]


# Targets


def refusal(path: Path, **options: Any) -> SrddError:
    with pytest.raises(OutputError) as caught:
        check_target(path, **{"force": False, **options})
    assert caught.value.hint
    return caught.value


def test_a_target_in_a_missing_folder_says_how_to_make_it(tmp_path: Path) -> None:
    error = refusal(tmp_path / "a b" / "x.json")
    assert error.message == f"there is no folder {tmp_path / 'a b'}"
    assert error.hint == f"mkdir -p '{tmp_path / 'a b'}'"


def test_a_target_below_a_file_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "s.json").touch()
    for path in (tmp_path / "s.json" / "x.json", tmp_path / "s.json" / "a" / "x.json"):
        assert refusal(path).message == f"{tmp_path / 's.json'} is a file, not a folder"


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_folder_that_takes_no_file_is_noticed_before_the_work() -> None:
    assert refusal(Path("/proc/x.json")).message.startswith("cannot write /proc/x.json: ")


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_no_target(force: bool, tmp_path: Path) -> None:
    assert refusal(tmp_path, force=force).message == f"{tmp_path} is a folder"


def test_a_target_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Permissions do not hold for the superuser, whom tests may run as.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert refusal(tmp_path / "x.json").message == f"{tmp_path} is not writable"
    (tmp_path / "x.json").touch()
    assert refusal(tmp_path / "x.json", force=True).message == (
        f"{tmp_path / 'x.json'} is not writable"
    )


def test_a_name_too_long_for_a_file_is_no_target(tmp_path: Path) -> None:
    error = refusal(tmp_path / ("x" * 300))
    assert error.message.endswith(": File name too long")


def test_a_target_that_can_be_written_is_not_touched(tmp_path: Path) -> None:
    check_target(tmp_path / "x.json", force=False)
    assert names(tmp_path) == []
