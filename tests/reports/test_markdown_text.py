"""Untrusted text in Markdown, read back by a Markdown parser that is not ours."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from srdd.reports.markdown_text import code, escape, fold, table

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])

HOSTILE = [
    "a|b",
    "`code` and ``more``",
    "x`|`y",
    "<img src=x onerror=alert(1)>",
    "<!-- gone -->",
    "&lt;b&gt; &amp;",
    "[text](http://evil.example)",
    "![picture](http://evil.example/x.png)",
    "<http://evil.example>",
    "http://evil.example www.evil.example",
    "*bold* __bold__ ~~struck~~ $x$",
    "- item",
    "+ item",
    "1. item",
    "12) item",
    "# heading",
    "===",
    "---",
    "> quoted",
    "    indented",
    "ends in \\",
    "\\| already escaped",
    "| a | b |",
    "@user and #12 and a@b.example",
]


def text_of(rendered: str) -> str:
    """What a reader sees: without tags and comments."""
    return html.unescape(re.sub(r"<!--.*?-->|</?(p|code)>", "", rendered)).strip()


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("write", [escape, code])
def test_a_reader_sees_the_name_and_nothing_else(name: str, write: object) -> None:
    rendered = PARSER.render(write(name))  # type: ignore[operator]
    assert text_of(rendered).split() == name.split()
    assert set(re.findall(r"<(\w+)", rendered)) <= {"p", "code"}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("write", [escape, code])
def test_a_cell_stays_one_cell(name: str, write: object) -> None:
    rendered = PARSER.render(table(["name", "n"], [[write(name), "1"]]))  # type: ignore[operator]
    assert rendered.count("<td>") == 2
    cell = re.search(r"<td>(.*?)</td>", rendered, re.DOTALL)
    assert cell is not None
    assert text_of(cell[1]).split() == name.split()
    assert set(re.findall(r"<(\w+)", cell[1])) <= {"code"}


@given(st.text(max_size=40))
def test_any_text_is_one_line_without_markup(name: str) -> None:
    for written in (escape(name), code(name)):
        assert "\n" not in written
        rendered = PARSER.render(f"x {written}")
        assert set(re.findall(r"<(\w+)", rendered)) <= {"p", "code"}


def test_mentions_and_references_are_split() -> None:
    assert escape("@user #12") == "@<!-- -->user #<!-- -->12"
    assert code("@user #12") == "`@user #12`"


def test_control_characters_are_shown_and_length_is_bounded() -> None:
    assert code("a\x1b[31m\nb") == "`a\\x1b[31m\\nb`"
    assert len(code("x" * 5000)) == 202
    assert escape("") == ""


def test_numbers_stand_to_the_right() -> None:
    assert table(["a", "b"], [["x", "1"]], ["left", "right"]) == (
        "| a | b |\n| --- | ---: |\n| x | 1 |\n"
    )


@pytest.mark.parametrize("row", [["one"], ["one", "two", "three"], ["one", "t\nwo"]])
def test_rows_that_are_none_are_a_mistake(row: list[str]) -> None:
    with pytest.raises(ValueError, match="not 2 cells"):
        table(["a", "b"], [row])


def test_what_is_folded_is_still_markdown() -> None:
    rendered = PARSER.render(fold("a <b>", table(["x"], [["1"]])))
    assert "<summary>a &lt;b&gt;</summary>" in rendered
    assert "<td>1</td>" in rendered
