"""Untrusted text in Markdown, read back by a Markdown parser that is not ours."""

from __future__ import annotations

import html
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from srdd.reports.markdown import code, escape, fold, grid, render, render_within
from srdd.reports.view import (
    Block,
    Chart,
    Column,
    Estimate,
    Measure,
    Table,
    Tally,
    Text,
    Word,
)

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
    rendered = PARSER.render(grid(["name", "n"], [[write(name), "1"]], [False, False]))  # type: ignore[operator]
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
    assert grid(["a", "b"], [["x", "1"]], [False, True]) == (
        "| a | b |\n| --- | ---: |\n| x | 1 |\n"
    )


@pytest.mark.parametrize("row", [["one"], ["one", "two", "three"], ["one", "t\nwo"]])
def test_rows_that_are_none_are_a_mistake(row: list[str]) -> None:
    with pytest.raises(ValueError, match="not 2 cells"):
        grid(["a", "b"], [row], [False, False])


def test_what_is_folded_is_still_markdown() -> None:
    rendered = PARSER.render(fold("a <b>", grid(["x"], [["1"]], [False])))
    assert "<summary>a &lt;b&gt;</summary>" in rendered
    assert "<td>1</td>" in rendered


TABLE = Table(
    "figures | of *a*",
    (
        Column("kind", align="left", code=True),
        Column("SQNR", Measure("dB", digits=1)),
        Column("verdict", align="left"),
    ),
    (
        ("q,k,v", Estimate(18.04, (17.9, 18.3)), Word("bad", "bad")),
        ("o", None, Tally(((Word("poor", "warning"), 3),))),
    ),
    ("see `srdd eval` and `rm -rf`",),
)


def test_a_table_has_units_in_its_head_values_as_text_and_notes_below() -> None:
    lines = render([TABLE]).splitlines()
    assert lines[0] == "### figures &#124; of \\*a\\*"
    assert lines[2:6] == [
        "| kind | SQNR (dB) | verdict |",
        "| --- | ---: | --- |",
        "| `q,k,v` | 18.0 ±0.2 | **bad** |",
        "| `o` | - | 3 poor |",
    ]
    assert lines[-1] == "see `srdd eval` and \\`rm -rf\\`"


def test_details_are_folded_and_charts_left_to_pages() -> None:
    folded = render([Table("t", TABLE.columns, TABLE.rows, details=True)])
    assert folded.startswith("<details>\n<summary>t</summary>")
    assert render([Chart("c", "lines", "x", (1,), Measure(), ())]) == ""


def test_sentences_follow_each_other_as_a_list() -> None:
    text = render(
        [Text("h", "heading"), Text("a", "answer"), Text("b", "answer"), Text("w", "warning")]
    )
    assert text == "## h\n\n- a\n- b\n\n> **Warning:** w\n"


def test_what_does_not_fit_is_tried_shorter_and_then_cut() -> None:
    def lines(count: int) -> list[Block]:
        return [Text("x" * 9)] * count

    attempts = [lambda: lines(100), lambda: lines(3), lambda: lines(1)]
    assert render_within(40, attempts).count("x" * 9) == 3
    assert len(render_within(5, attempts)) <= 5
