"""Blocks on a terminal: every figure whole at any width, words and colours, nothing obeyed."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from made_scans import made, rising, thorough
from rich.console import Console

from srdd.reports.groups import groups_of
from srdd.reports.scan_view import scan_blocks
from srdd.reports.terminal import plain, render
from srdd.reports.view import Block, Chart, Column, Estimate, Measure, Table, Tally, Text, Word

ESCAPE = "\x1b"
FIGURE = re.compile(r"[-+<>±]*\d[\d.,]*")


def printed(*blocks: Block, width: int = 80, encoding: str = "utf-8", **how: Any) -> str:
    """What a terminal of that width would get."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=file, width=width, highlight=False, markup=False, **how)
    for part in render(blocks):
        console.print(part, crop=False)
    file.flush()
    return raw.getvalue().decode(encoding)


USUAL = scan_blocks(groups_of(thorough(rising(28))), everything=True)

WIDE = Measure("dB", digits=2, signed=True)
AWKWARD = Table(
    "figures as wide as they can become",
    (
        Column("layer"),
        Column("kind", align="left"),
        Column("SQNR", WIDE, priority=2),
        Column("vs floor", WIDE),
        Column("dead", Measure("%", 100.0, 1), priority=4),
        Column("verdict", align="left", priority=1),
    ),
    (
        (1000, "gate,up", Estimate(-123.45, (-160.0, 60.0)), -31.13, 1.0, Word("bad", "bad")),
        (7, "o", Estimate(None), None, None, Tally(((Word("poor", "warning"), 12),))),
    ),
)
SMALL = Table(
    "t",
    (Column("always"), Column("medium", priority=1), Column("first-to-go", priority=2)),
    ((1, 2, 3),),
)


class TestLayout:
    def test_columns_stand_two_apart_over_a_rule_with_units_above_it(self) -> None:
        lines = printed(AWKWARD).splitlines()
        assert lines[0] == AWKWARD.title
        head, units, rule, first, second = lines[1:6]
        assert head.split("  ")[:2] == ["layer", "kind"]
        assert units.split() == ["dB", "dB", "%"]
        assert set(rule) == {"─"}
        assert len(rule) >= max(map(len, lines[1:]))
        assert re.split(r" {2,}", first.strip()) == [
            "1,000",
            "gate,up",
            "-123.45 ±110.00",
            "-31.13",
            "100.0",
            "bad",
        ]
        assert re.split(r" {2,}", second.strip()) == ["7", "o", "-", "-", "-", "12 poor"]

    def test_a_table_without_units_has_no_line_for_them(self) -> None:
        assert len(printed(SMALL).splitlines()) == 4

    @pytest.mark.parametrize("width", [40, 80, 200])
    def test_no_line_ends_in_blanks(self, width: int) -> None:
        for line in printed(*USUAL, AWKWARD, width=width).splitlines():
            assert line == line.rstrip()

    def test_a_pipe_or_file_has_whole_lines_and_no_blanks_at_their_ends(self) -> None:
        blocks = scan_blocks(groups_of(thorough(rising(4), name="n" * 300)))
        lines = plain(blocks).splitlines()
        assert all(line == line.rstrip() for line in lines)
        assert not any(line.startswith("(hidden") for line in lines)
        sentences = [block.text for block in blocks if isinstance(block, Text)]
        assert set(sentences) <= {line.removeprefix("warning: ") for line in lines}

    def test_a_chart_is_for_renderers_that_draw(self) -> None:
        assert printed(Chart("c", "lines", "x", (1,), Measure(), ())) == ""

    def test_an_empty_table_says_so(self) -> None:
        assert "nothing was measured here" in printed(Table("t", (Column("a"),), ()))


class TestWidths:
    @pytest.mark.parametrize("width", [20, 40, 59, 60, 70, 79, 80, 100, 160])
    def test_every_figure_that_is_shown_is_whole(self, width: int) -> None:
        def figures(width: int) -> set[str]:
            text = printed(*USUAL, AWKWARD, width=width)
            return {figure.rstrip(",.") for figure in FIGURE.findall(text)}

        every = figures(300)
        assert figures(width) <= every

    @pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
    def test_no_line_is_wider_than_the_terminal(self, width: int) -> None:
        lines = printed(*USUAL, AWKWARD, width=width).splitlines()
        assert max(map(len, lines)) <= width

    def test_the_columns_of_the_lowest_priority_go_first_and_are_named(self) -> None:
        assert printed(SMALL, width=30).splitlines()[1].split("  ") == [
            "always",
            "medium",
            "first-to-go",
        ]
        medium = printed(SMALL, width=26)
        assert medium.splitlines()[1].split() == ["always", "medium"]
        assert " ".join(medium.split()).endswith("(hidden at this width: first-to-go)")
        narrow = printed(SMALL, width=13)
        assert narrow.splitlines()[1].split() == ["always"]
        assert "medium" in narrow

    def test_a_hidden_column_without_a_title_is_not_named(self) -> None:
        *most, last = SMALL.columns
        table = replace(SMALL, columns=(*most, replace(last, title="")))
        words = " ".join(printed(table, width=13).split())
        assert re.search(r"this width: [a-z-]+\)", words)

    def test_words_of_titles_stand_above_each_other_where_that_saves_a_column(self) -> None:
        columns = (Column("vs floor", WIDE), Column("verdict", align="left", priority=1))
        table = Table("t", columns, ((-1.0, Word("poor", "warning")),))
        lines = printed(table, width=14).splitlines()
        assert [line.split() for line in lines[1:4]] == [["vs"], ["floor", "verdict"], ["dB"]]
        assert printed(table, width=17).splitlines()[1].split() == ["vs", "floor", "verdict"]

    def test_a_thousand_layers_are_shown(self) -> None:
        blocks = scan_blocks(groups_of(made(rising(1000))), everything=True)
        lines = printed(*blocks).splitlines()
        assert sum(bool(re.match(r" *\d+  \S", line)) for line in lines) == 1000
        assert max(map(len, lines)) <= 80


class TestTerminalsWithLess:
    def test_ascii_is_enough(self) -> None:
        text = printed(*USUAL, AWKWARD, encoding="ascii")
        assert "+-" in text
        assert max(map(len, text.splitlines())) <= 80

    def test_without_a_terminal_there_are_no_escape_codes(self) -> None:
        assert ESCAPE not in printed(*USUAL, AWKWARD)
        assert ESCAPE in printed(AWKWARD, force_terminal=True, color_system="standard")

    def test_severity_is_a_word_and_a_colour(self) -> None:
        text = printed(AWKWARD, force_terminal=True, color_system="standard")
        assert "\x1b[31mbad\x1b[0m" in text
        assert "\x1b[33m12 poor\x1b[0m" in text

    @pytest.mark.parametrize("name", ["\x1b[31mred", "[red]x[/red]", "a\u202eb", "a\nb", "\x9b31m"])
    def test_a_hostile_name_is_shown_and_not_obeyed(self, name: str) -> None:
        table = Table(name, (Column("c", align="left"),), ((name,),), (name,))
        text = printed(
            Text(name), Text(name, "warning"), table, force_terminal=True, color_system=None
        )
        for character in (ESCAPE, "\x9b", "\u202e"):
            assert character not in text
        assert text.count(name.encode("unicode_escape").decode()) == 5
