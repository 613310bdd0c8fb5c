"""Prompt sources: what is read, in which order, and what a person is told when it cannot be."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from srdd.errors import InputError, SrddError, UsageError
from srdd.prompts.reading import Prompt, PromptSet, builtin, from_strings, read_prompts

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]

Write = Callable[[str, str | bytes], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def _write(name: str, content: str | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return _write


def texts(prompts: PromptSet) -> list[str]:
    return [prompt.plain() for prompt in prompts.prompts]


def refusal(path: str | Path, **options: Any) -> SrddError:
    """The error that reading a file ends with."""
    with pytest.raises(SrddError) as caught:
        read_prompts(path, **options)
    assert caught.value.hint
    return caught.value


def stdin_prompts(content: str | bytes, **options: Any) -> PromptSet:
    raw = content.encode() if isinstance(content, str) else content
    return read_prompts("-", stdin=io.BytesIO(raw), **options)


# The prompts that ship with srdd


@pytest.fixture(scope="module")
def records() -> list[dict[str, str]]:
    folder = Path(sys.modules["srdd.prompts.reading"].__file__ or "").parent
    lines = (folder / "calibration.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_builtin_set_has_enough_prompts_and_text(records: list[dict[str, str]]) -> None:
    prompts = [record["prompt"] for record in records]
    english = [
        word
        for record in records
        if record["kind"] in {"prose", "math", "dialogue", "short"}
        for word in record["prompt"].split()
    ]
    assert len(prompts) >= 68
    assert len(set(prompts)) == len(prompts)
    assert sum(map(len, prompts)) >= 24_000
    assert len(english) >= 3_300


def test_exactly_the_first_eight_builtin_prompts_are_short(records: list[dict[str, str]]) -> None:
    assert [record["kind"] == "short" for record in records] == [True] * 8 + [False] * (
        len(records) - 8
    )
    assert all(6 <= len(record["prompt"].split()) <= 15 for record in records[:8])
    assert all(len(record["prompt"]) > 100 for record in records[8:])


def test_any_prefix_of_the_long_builtin_prompts_is_a_fair_mix(
    records: list[dict[str, str]],
) -> None:
    kinds = ["prose", "math", "code", "dialogue", "multilingual"]
    for length in range(8, len(records) + 1):
        counts = Counter(record["kind"] for record in records[8:length])
        assert set(counts) <= set(kinds)
        assert max(counts[kind] for kind in kinds) - min(counts[kind] for kind in kinds) <= 1


def test_the_builtin_set_is_read_as_it_is_written(records: list[dict[str, str]]) -> None:
    assert texts(builtin()) == [record["prompt"] for record in records]
    assert builtin().source == "builtin"
    assert texts(builtin(limit=8)) == [record["prompt"] for record in records[:8]]


# Reading


@pytest.mark.parametrize("name", ["a.txt", "a.text", "a.md", "a.prompts", "a"])
def test_a_text_file_has_one_prompt_a_line_and_blank_lines_do_not_count(
    write: Write, name: str
) -> None:
    path = write(name, "one\n\n  \t\r\ntwo  words\r\n  three")
    assert texts(read_prompts(path)) == ["one", "two  words", "  three"]
    assert read_prompts(path).source == str(path)


@given(st.lists(st.text(st.characters(exclude_characters="\n\r\0", codec="utf-8")), max_size=8))
def test_text_comes_back_line_by_line_whatever_characters_it_has(lines: list[str]) -> None:
    first = "first, so that the others are text whatever they begin with"
    content = "\n".join([first, *lines])
    kept = [line for line in lines if line.strip()]
    assert texts(stdin_prompts(content)) == [first, *kept]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json", "A.JSONL"])
def test_json_lines_have_their_prompt_under_one_of_three_keys(write: Write, name: str) -> None:
    rows = [
        {"prompt": "one"},
        {"text": "two\nlines", "id": 7},
        {"messages": CHAT},
        {"prompt": CHAT},
        {"prompt": None, "text": "five"},
        {"text": "rendered", "messages": CHAT},
    ]
    path = write(name, "\n\n".join(json.dumps(row) for row in rows))
    chat = Prompt(messages=tuple(CHAT))
    plain = [Prompt(text="one"), Prompt(text="two\nlines"), Prompt(text="five")]
    assert list(read_prompts(path).prompts) == [plain[0], plain[1], chat, chat, plain[2], chat]


def test_of_a_message_the_texts_are_kept_and_the_rest_is_not(write: Write) -> None:
    message = {"role": "user", "content": "Hi", "name": "Ada", "tool_calls": None, "weight": 1}
    path = write("a.jsonl", json.dumps({"messages": [message]}))
    assert read_prompts(path).prompts[0].chat() == [
        {"role": "user", "content": "Hi", "name": "Ada"}
    ]


def test_a_chat_without_template_is_its_contents_line_by_line() -> None:
    assert Prompt(messages=tuple(CHAT)).plain() == "Be brief.\nHello"


def test_plain_text_as_a_chat_is_one_message_of_the_user() -> None:
    assert Prompt(text="Hello").chat() == [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_byte_order_mark_is_no_part_of_the_first_prompt(write: Write, name: str) -> None:
    content = '{"prompt": "one"}' if name == "a.jsonl" else "one"
    assert texts(read_prompts(write(name, b"\xef\xbb\xbf" + content.encode()))) == ["one"]


def test_standard_input_is_json_lines_if_it_begins_with_a_brace() -> None:
    assert texts(stdin_prompts('\n  {"prompt": "one"}\n{"text": "two"}\n')) == ["one", "two"]
    assert texts(stdin_prompts("one\n{two}\n")) == ["one", "{two}"]
    assert stdin_prompts("one").source == "stdin"


def test_the_processs_own_standard_input_is_read_by_default() -> None:
    program = (
        "from srdd.prompts.reading import read_prompts; print(read_prompts('-').prompts[0].text)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=b"from a pipe\n", capture_output=True, check=True
    )
    assert done.stdout == b"from a pipe\n"


def test_a_file_without_an_ending_is_looked_at_like_standard_input(write: Write) -> None:
    assert texts(read_prompts(write("63", '{"prompt": "one"}'))) == ["one"]
    assert texts(read_prompts(write("a.txt", '{"prompt": "one"}'))) == ['{"prompt": "one"}']


def test_a_python_program_gives_strings_and_chats() -> None:
    prompts = from_strings(["one", CHAT, tuple(CHAT)], limit=3)
    chat = Prompt(messages=tuple(CHAT))
    assert prompts == PromptSet("python", (Prompt(text="one"), chat, chat))


# Parquet


def parquet(path: Path, columns: dict[str, list[object]], **options: int) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


@pytest.mark.parametrize("column", ["prompt", "messages"])
def test_parquet_as_verl_lays_it_out_gives_chats(tmp_path: Path, column: str) -> None:
    path = parquet(tmp_path / "a.parquet", {"data_source": ["x", "y"], column: [CHAT, CHAT[1:]]})
    chats = [prompt.chat() for prompt in read_prompts(path).prompts]
    assert chats == [CHAT, CHAT[1:]]


@pytest.mark.parametrize("column", ["prompt", "text"])
def test_parquet_with_plain_strings_gives_text(tmp_path: Path, column: str) -> None:
    path = parquet(tmp_path / "a.PARQUET", {column: ["one", "two"], "id": [1, 2]})
    assert texts(read_prompts(path)) == ["one", "two"]


def test_parquet_is_read_up_to_the_limit_and_no_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "a.parquet", {"prompt": [str(n) for n in range(1000)]})
    decoded: list[int] = []
    whole = pq.ParquetFile.iter_batches

    def counted(self: pq.ParquetFile, **options: object) -> Iterator[pa.RecordBatch]:
        for batch in whole(self, **options):
            decoded.append(batch.num_rows)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    assert texts(read_prompts(path, limit=3, skip=2)) == ["2", "3", "4"]
    assert sum(decoded) < 100


def test_parquet_without_pyarrow_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = parquet(tmp_path / "a.parquet", {"prompt": ["one"]})
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    error = refusal(path)
    assert error.message == f"reading {path} needs pyarrow, which is not installed"
    assert error.hint == "pip install pyarrow"


def test_parquet_without_a_column_for_prompts_lists_its_columns(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"question": ["one"], "answer": ["two"]})
    error = refusal(path)
    assert error.message == f"{path} has no column with prompts: its columns are question, answer"
    assert "prompt, messages, text" in error.hint


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (["one", None], "row 2 of {path} has no prompt: its keys are prompt (null)"),
        ([1, 2], "row 1 of {path} is a number, neither text nor a list of chat messages"),
    ],
)
def test_a_parquet_row_without_prompt_is_named(
    tmp_path: Path, rows: list[object], problem: str
) -> None:
    path = parquet(tmp_path / "a.parquet", {"prompt": rows})
    assert refusal(path).message == problem.format(path=path)


def test_parquet_that_is_cut_short_or_damaged_is_refused(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"prompt": [str(n) for n in range(1000)]})
    whole = path.read_bytes()
    damaged = whole[:4] + b"\xff" * 200 + whole[204:]
    for content in (whole[: len(whole) // 2], b"no Parquet at all", b"", damaged):
        path.write_bytes(content)
        error = refusal(path)
        assert isinstance(error, InputError)
        assert error.message.startswith(f"{path} is no readable Parquet file: ")
        assert "\n" not in error.message


def test_parquet_strings_that_are_not_utf8_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    binary = pa.array([b"caf\xe9"], pa.binary())
    array = pa.StringArray.from_buffers(1, *binary.buffers()[1:])
    pq.write_table(pa.table({"prompt": array}), path)
    assert "is no readable Parquet file: 'utf-8' codec can't" in refusal(path).message


def test_an_empty_parquet_file_has_no_prompts(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), path)
    assert refusal(path).message == f"{path} has no prompts"


@pytest.mark.parametrize("suffix", ["csv", "tsv", "XLSX"])
def test_tables_are_not_taken_for_text(suffix: str, write: Write) -> None:
    error = refusal(write(f"a.{suffix}", "prompt,answer\nWhat is 2+2?,4\n"))
    assert "looks like a table" in error.message
    assert ".jsonl" in error.hint


# Limit and skip


def test_two_halves_number_their_prompts_as_the_whole_does(write: Write) -> None:
    path = write("a.txt", "a\nb\n\nc\nd\ne\n")
    whole = read_prompts(path)
    front, back = read_prompts(path, limit=2), read_prompts(path, skip=2)
    assert front.prompts + back.prompts == whole.prompts
    assert (whole.first, front.first, back.first) == (0, 0, 2)


def test_a_limit_beyond_the_end_gives_all(write: Write) -> None:
    assert texts(read_prompts(write("a.txt", "a\nb"), limit=10)) == ["a", "b"]


def test_what_stands_behind_the_limit_is_not_read(write: Write) -> None:
    path = write("a.jsonl", '{"prompt": "one"}\nnonsense')
    assert texts(read_prompts(path, limit=1)) == ["one"]


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(write: Write, limit: int) -> None:
    error = refusal(write("a.txt", "a"), limit=limit)
    assert isinstance(error, UsageError)
    assert error.message == f"the limit is {limit} prompts"
    assert error.hint == "use `limit` 1 or more, or leave it out"
    with pytest.raises(UsageError, match="the limit is"):
        builtin(limit=limit)


def test_a_negative_skip_is_refused(write: Write) -> None:
    error = refusal(write("a.txt", "a"), skip=-1)
    assert isinstance(error, UsageError)
    assert error.message == "-1 prompts cannot be skipped"


def test_skipping_every_prompt_is_refused(write: Write) -> None:
    path = write("a.txt", "a\nb\nc")
    error = refusal(path, skip=3)
    assert error.message == f"skipping 3 of the prompts leaves none: {path} has 3"
    assert error.hint == "use `skip` 2 or less"


# What cannot be read


def test_a_missing_file_names_those_with_a_similar_name(write: Write, tmp_path: Path) -> None:
    write("prompts.jsonl", "")
    write("weights.bin", "")
    error = refusal(tmp_path / "prompt.jsonl")
    assert isinstance(error, InputError)
    assert error.message == f"there is no file {tmp_path / 'prompt.jsonl'}"
    assert error.hint == f"did you mean {tmp_path / 'prompts.jsonl'}?"


def test_a_missing_file_with_nothing_like_it_says_where_was_looked(tmp_path: Path) -> None:
    assert refusal(tmp_path / "a.txt").hint.startswith(f"no name in {tmp_path} is similar")
    inner = tmp_path / "nowhere" / "a.txt"
    assert refusal(inner).hint.startswith(f"the folder {tmp_path / 'nowhere'} does not exist")


@pytest.mark.parametrize("name", ["data", "data.parquet"])
def test_a_folder_is_not_a_file(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    assert refusal(folder).message == f"{folder} is a folder, not a file"
    (folder / "a.txt").touch()
    assert refusal(folder).hint == f"name one file in it, such as {folder / 'a.txt'}"


def test_a_file_that_cannot_be_opened_says_why(write: Write) -> None:
    inside_a_file = write("a.txt", "a") / "b.txt"
    assert refusal(inside_a_file).message == f"cannot read {inside_a_file}: Not a directory"
    long = Path("x" * 5000)
    assert refusal(long).message.startswith("cannot read xxx")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_says_so(write: Write) -> None:
    path = write("a.txt", "a")
    path.chmod(0)
    assert refusal(path).message == f"cannot read {path}: Permission denied"


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a"])
@pytest.mark.parametrize("content", [b"", b"\n \r\n\t\n", b"\xef\xbb\xbf"])
def test_a_file_with_nothing_in_it_is_refused(write: Write, name: str, content: bytes) -> None:
    path = write(name, content)
    error = refusal(path)
    assert isinstance(error, InputError)
    assert error.message == f"{path} has no prompts"
    assert error.hint == "give at least one prompt that isn't blank"


@pytest.mark.parametrize(
    "content",
    [b"text\n\0\0\0", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "UTF-16".encode("utf-16")],
    ids=["late", "picture", "utf-16"],
)
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_binary_content_is_refused(write: Write, name: str, content: bytes) -> None:
    path = write(name, content.replace(b"text", b'{"text": "x"}'))
    error = refusal(path)
    assert error.message == f"{path} is binary: it has NUL bytes"
    assert "UTF-16" in error.hint


def test_bytes_that_are_not_utf8_are_located(write: Write) -> None:
    path = write("a.txt", "größer\n\n".encode() + "naïf, café".encode("latin1"))
    error = refusal(path)
    assert error.message == f"{path} is not UTF-8: byte 0xef at offset 12 (line 3)"
    assert path.read_bytes()[12] == 0xEF
    assert "iconv" in error.hint


def test_standard_input_is_named_in_errors() -> None:
    with pytest.raises(InputError, match=r"^standard input is binary"):
        stdin_prompts(b"a\0b")
    with pytest.raises(InputError, match=r"^stdin has no prompts"):
        stdin_prompts(b"")


# Records that hold no prompt

LONE = r'{"prompt": "half a smile: \ud83d"}'
RECORDS = {
    '{"prompt": "cut': "line 2 of {path} is not valid JSON: Unterminated string",
    "just text": "line 2 of {path} is not valid JSON: Expecting value (column 1)",
    '{"prompt": "a"} {}': "line 2 of {path} is not valid JSON: Extra data (column 17)",
    "[" * 100_000: "line 2 of {path} is not valid JSON: maximum recursion depth",
    '{"prompt": ' + "9" * 5000 + "}": "line 2 of {path} is not valid JSON: Exceeds the limit",
    '["a", "b"]': "line 2 of {path} is a list, not a JSON object",
    '"a"': "line 2 of {path} is a string, not a JSON object",
    "null": "line 2 of {path} is null, not a JSON object",
    "12": "line 2 of {path} is a number, not a JSON object",
    '{"question": 1, "id": 2}': "line 2 of {path} has no prompt: its keys are question, id",
    '{"text": null}': "line 2 of {path} has no prompt: its keys are text (null)",
    "{}": "line 2 of {path} has no prompt: its keys are none",
    r'{"\ud800": 1}': r"line 2 of {path} has no prompt: its keys are \ud800",
    '{"prompt": 1}': "line 2 of {path} is a number, neither text nor a list of chat messages",
    '{"prompt": {"role": "user"}}': "line 2 of {path} is an object, neither text nor a list",
    '{"prompt": true}': "line 2 of {path} is true or false, neither text nor a list",
    '{"messages": []}': "line 2 of {path} is an empty list of chat messages",
    '{"messages": ["Hi"]}': "message 1 in line 2 of {path} is a string, not an object with role",
    '{"messages": [{"role": "user"}]}': (
        "message 1 in line 2 of {path} has no content: it has role"
    ),
    '{"messages": [{"from": "human", "value": "Hi"}]}': (
        "message 1 in line 2 of {path} has no role: it has from, value"
    ),
    '{"messages": [{"role": "user", "content": "Hi"}, {"role": "user", "content": [1]}]}': (
        "the content of message 2 in line 2 of {path} is a list, not text"
    ),
    LONE: r"line 2 of {path} has a lone surrogate \ud83d, which is no character",
    r'{"messages": [{"role": "user", "content": "\udfff"}]}': (
        r"message 1 in line 2 of {path} has a lone surrogate \udfff, which is no character"
    ),
}


@pytest.mark.parametrize("line", RECORDS, ids=[line[:50] for line in RECORDS])
def test_a_record_without_a_usable_prompt_is_named_with_its_line(write: Write, line: str) -> None:
    path = write("a.jsonl", f'{{"prompt": "fine"}}\n{line}\n')
    error = refusal(path)
    assert isinstance(error, InputError)
    assert error.message.startswith(RECORDS[line].format(path=path))
    error.message.encode("utf-8")


def test_a_json_array_comes_with_a_way_to_turn_it_into_lines(write: Write) -> None:
    error = refusal(write("a.json", '[\n  {"prompt": "one"}\n]\n'))
    assert "is not valid JSON" in error.message
    assert "jq -c '.[]'" in error.hint


def test_a_pair_of_surrogates_is_one_character(write: Write) -> None:
    assert texts(read_prompts(write("a.jsonl", r'{"prompt": "\ud83d\ude00"}'))) == ["😀"]


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [
        ("one string", "the prompts are one string, not a list"),
        ([], "python has no prompts"),
        (["fine", 3], "prompt 2 is a number, neither text nor a list of chat messages"),
        (["half \ud83d"], r"prompt 1 has a lone surrogate \ud83d, which is no character"),
        ([[{"role": "user"}]], "message 1 in prompt 1 has no content: it has role"),
        ([object()], "prompt 1 is of type object, neither text nor a list of chat messages"),
    ],
)
def test_a_python_program_is_reported_what_is_no_prompt(prompts: list[str], problem: str) -> None:
    with pytest.raises(InputError) as caught:
        from_strings(prompts)
    assert caught.value.message == problem
    assert caught.value.hint


def test_reading_prompts_imports_neither_torch_nor_transformers_nor_pyarrow() -> None:
    program = (
        "import sys; from srdd.prompts.reading import builtin; builtin();"
        "print([m for m in ('torch', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"[]"


# Another column


def test_another_column_holds_the_prompts_if_it_is_named(write: Write, tmp_path: Path) -> None:
    lines = write("a.jsonl", '{"prompt": "no", "question": "one"}\n{"question": "two"}\n')
    assert texts(read_prompts(lines, column="question")) == ["one", "two"]
    rows = parquet(tmp_path / "a.parquet", {"prompt": ["no"], "dialog": [CHAT]})
    assert read_prompts(rows, column="dialog").prompts[0].chat() == CHAT


def test_a_column_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a.parquet", {"id": [1], "question": ["one"]})
    error = refusal(path, column="qestion")
    assert error.message == f"unknown column of {path} 'qestion'"
    assert error.hint == "choose from: question, id"


@pytest.mark.parametrize("name", ["a.txt", "pipe"])
def test_plain_text_has_no_columns(name: str, write: Write) -> None:
    error = refusal(write(name, "one\ntwo\n"), column="question")
    assert isinstance(error, UsageError)
    assert error.hint == "leave out `prompt_column`"
