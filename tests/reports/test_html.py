"""The page without a browser: charts as geometry, text that stays text, one whole file."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

import pytest
from made_scans import PROTOTYPE, made, rising, scan_of, with_metric

from srdd.documents.scan import NotMeasured, Scan, load_scan
from srdd.documents.sensitivity import Changed, Sensitivity
from srdd.reports.answer import answer
from srdd.reports.groups import groups_of
from srdd.reports.html import Section, render
from srdd.reports.html_charts import HEIGHT, Plot, heat_of, plot_of, values_table
from srdd.reports.html_page import page
from srdd.reports.view import Chart, Column, Measure, Series, Table, Tally, Text, Word

DECIBELS = Measure("dB", digits=1)
SITES = {"mlp.down_proj": [16.0, 15.0, 17.0], "self_attn.q_proj": [18.0, 18.5, 18.6]}


def shown(*scans: Scan) -> str:
    return page([(f"scan {n}", groups_of(scan)) for n, scan in enumerate(scans)])


def lines(values: Sequence[float | None], **options: object) -> Chart:
    series = (Series("one", tuple(values)),)
    return Chart("t", "lines", "layer", tuple(range(len(values))), DECIBELS, series, **options)  # type: ignore[arg-type]


def costed(scan: Scan) -> Scan:
    """The scan with what three layers' linears cost in mxfp4:floor: 0.1 and 0.3 nats a token."""
    changes = [
        Changed(
            nats=[10 * cost, 10 * cost],
            value=cost,
            interval=None,
            layer=layer,
            tensor=f"model.layers.{layer}.{name}",
            format="mxfp4:floor",
            operands="both",
        )
        for layer in range(3)
        for name, cost in (("self_attn.q_proj", 0.1), ("mlp.down_proj", 0.3))
    ]
    rest: dict[str, Any] = {"joint": [], "noise": [], "checks": [], "not_measured": {}}
    section = Sensitivity(method="direct", samples=0, tokens=[10, 10], changes=changes, **rest)
    return scan.model_copy(update={"sensitivity": section})


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text outside of script and style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.words.append(data)

    def count(self, tag: str, **attributes: str) -> int:
        return sum(
            tag == own and all(held.get(name) == value for name, value in attributes.items())
            for own, held in self.found
        )

    @property
    def classes(self) -> set[str | None]:
        return {attributes.get("class") for _, attributes in self.found}

    @property
    def text(self) -> str:
        return "".join(self.words)


class TestLines:
    def test_values_are_placed_on_a_linear_scale(self) -> None:
        plot = plot_of(lines([10.0, 12.0, 11.0]))
        ((_, first), (_, second), (_, third)) = plot.lines[0].marks
        assert third == pytest.approx((first + second) / 2, abs=0.1)
        assert 0 < second < first < HEIGHT
        assert [x for x, _ in plot.lines[0].marks] == [16.67, 50, 83.33]

    def test_a_tick_stands_where_a_value_of_its_size_does(self) -> None:
        measure = Measure("%", scale=100.0, digits=0)
        series = (Series("one", (0.1, 0.2, 0.4)),)
        plot = plot_of(Chart("t", "lines", "layer", (0, 1, 2), measure, series))
        ticks = {text: y for y, text in plot.ticks}
        marks = [y for _, y in plot.lines[0].marks]
        assert [ticks["10"], ticks["20"], ticks["40"]] == marks
        assert marks[0] - marks[-1] > HEIGHT / 2

    def test_a_gap_breaks_the_line_and_a_lonely_value_is_marked(self) -> None:
        line = plot_of(lines([1.0, 2.0, None, 3.0])).lines[0]
        assert line.path.count("M") == 2
        assert len(line.marks) == 3
        many = plot_of(lines([1.0, None, *[2.0] * 100])).lines[0]
        assert len(many.marks) == 1

    def test_intervals_are_a_band_around_the_line(self) -> None:
        series = Series("one", (1.0, 2.0, 3.0), ((0.5, 1.5), (1.5, 2.5), None))
        line = plot_of(Chart("t", "lines", "layer", (0, 1, 2), DECIBELS, (series,))).lines[0]
        points = [tuple(map(float, p.split())) for p in line.band.strip("MZ").split("L")]
        assert [x for x, _ in points] == [x for x, _ in reversed(points)]
        low, _, _, high = (y for _, y in points)
        assert (low + high) / 2 == pytest.approx(line.marks[0][1], abs=0.1)

    def test_a_gap_in_the_intervals_breaks_the_band(self) -> None:
        end = (0.5, 1.5)
        series = Series("one", (1.0,) * 6, (end, end, None, end, end, None))
        line = plot_of(Chart("t", "lines", "layer", tuple(range(6)), DECIBELS, (series,))).lines[0]
        assert (line.path.count("M"), line.band.count("M")) == (1, 2)

    @pytest.mark.parametrize("values", [[], [None, None], [5.0], [0.0, 0.0], [1e-9, 2e12]])
    def test_odd_values_have_a_scale(self, values: list[float | None]) -> None:
        plot = plot_of(lines(values))
        assert plot.ticks
        assert all(0 <= y <= HEIGHT for _, y in plot.lines[0].marks)

    def test_no_more_labels_than_fit(self) -> None:
        assert len(plot_of(lines([1.0] * 12)).labels) == 12
        assert [text for _, text in plot_of(lines([1.0] * 28)).labels] == [
            str(n) for n in range(0, 28, 5)
        ]

    def test_every_reference_is_inside_and_labelled_apart(self) -> None:
        references = (("floor a", 18.8), ("floor b", 18.7))
        plot = plot_of(lines([17.0, 16.0], references=references))
        assert [level.text for level in plot.references] == ["floor a: 18.8 dB", "floor b: 18.7 dB"]
        assert all(0 < level.y < HEIGHT for level in plot.references)
        first, second = plot.references
        assert first.side != second.side or abs(first.baseline - second.baseline) >= 14

    def test_a_pointer_finds_every_series_at_a_place(self) -> None:
        both = (Series("a", (1.0, None), ((0.5, 1.5), None)), Series("b", (2.0, 3.0)))
        plot = plot_of(Chart("t", "lines", "layer", (4, 7), DECIBELS, both))
        assert [tip for _, _, tip in plot.columns] == [
            ("layer 4", "a: 1.0 ±0.5 dB", "b: 2.0 dB"),
            ("layer 7", "b: 3.0 dB"),
        ]

    def test_the_table_holds_what_is_drawn(self) -> None:
        table = values_table(lines([1.0, None], references=()))
        assert [column.title for column in table.columns] == ["layer", "one"]
        assert [
            [c.text(v) for c, v in zip(table.columns, row, strict=True)] for row in table.rows
        ] == [
            ["0", "1.0"],
            ["1", "-"],
        ]


class TestBars:
    @pytest.fixture
    def plot(self) -> Plot:
        series = (Series("q", (1.0, 2.0)), Series("down", (3.0, None)), Series("o", (1.0, None)))
        return plot_of(Chart("KL", "bars", "layer", (0, 1), Measure("nat"), series))

    def test_parts_are_stacked_from_zero_on(self, plot: Plot) -> None:
        first, second, third, alone = plot.bars
        assert first.y == pytest.approx(second.y + second.height)
        assert second.y == pytest.approx(third.y + third.height)
        assert first.y + first.height == HEIGHT == alone.y + alone.height
        assert second.height == pytest.approx(3 * first.height, abs=0.3)
        assert [bar.series for bar in plot.bars] == [0, 1, 2, 0]

    def test_the_highest_stack_fits(self, plot: Plot) -> None:
        assert min(bar.y for bar in plot.bars) > 0
        assert {text: y for y, text in plot.ticks}["0"] == HEIGHT


class TestHeat:
    def test_signed_values_are_worse_below_zero(self) -> None:
        measure = Measure("dB", digits=1, signed=True)
        series = (Series("down", (-6.0, -3.0, 0.0, 3.0, 99.0, None)),)
        heat = heat_of(Chart("t", "heat", "layer", tuple(range(6)), measure, series, full=6.0))
        ((label, cells),) = heat.rows
        assert label == "down"
        assert [cell.shade for cell in cells] == [
            "worse m10",
            "worse m5",
            "better m0",
            "better m5",
            "better m10",
            "none",
        ]
        assert cells[1].text == "-3.0"
        assert cells[1].tip == "down, layer 1: -3.0 dB"
        assert (heat.low, heat.high, heat.key[0]) == ("-6.0 dB", "+6.0 dB", "worse m10")

    @pytest.mark.parametrize(
        ("columns", "size", "kept"),
        [(8, "few", 8), (12, "many", 12), (28, "many", 6), (80, "dense", 8)],
    )
    def test_labels_of_columns_thin_out(self, columns: int, size: str, kept: int) -> None:
        series = (Series("down", (0.0,) * columns),)
        chart = Chart("t", "heat", "layer", tuple(range(columns)), DECIBELS, series)
        heat = heat_of(chart)
        assert heat.size == size
        assert sum(keep for _, keep in heat.labels) == kept

    def test_others_are_the_worse_the_larger(self) -> None:
        series = (Series("down", (0.0, 1.0, 2.0)),)
        heat = heat_of(Chart("t", "heat", "layer", (0, 1, 2), Measure("nat", digits=1), series))
        assert [cell.shade for cell in heat.rows[0][1]] == ["worse m0", "worse m5", "worse m10"]
        assert (heat.low, heat.high) == ("0.0 nat", "2.0 nat")


class TestBlocks:
    def test_text_between_marks_is_code(self) -> None:
        text = render("t", [Text("run `srdd eval` now", "answer"), Text("a`b")], [])
        assert "run <code>srdd eval</code> now" in text
        assert "a`b" in text

    def test_verdicts_have_a_colour_and_a_word(self) -> None:
        tally = Tally(((Word("bad", "bad"), 2), (Word("ok", "good"), 3)))
        table = Table("t", (Column("verdict", align="left"),), ((tally,), (Word("ok", "good"),)))
        found = Elements(render("t", [], [Section("s", [table])]))
        assert found.count("i", **{"class": "dot bad"}) == 1
        assert found.count("i", **{"class": "dot good"}) == 2
        assert "2 bad3 ok" in found.text

    def test_rare_columns_stand_in_folded_tables_alone(self) -> None:
        columns, rows = (Column("a"), Column("rare", priority=9)), ((1, 2),)
        for details in (False, True):
            table = Table("t", columns, rows, details=details)
            text = Elements(render("t", [], [Section("s", [table])])).text
            assert ("rare" in text) is details

    def test_sections_without_blocks_are_left_out(self) -> None:
        text = render("t", [], [Section("full", [Text("x")]), Section("empty", [])])
        assert "full" in text
        assert "empty" not in Elements(text).text


class TestScans:
    def test_the_answer_stands_before_any_figure(self) -> None:
        scan = scan_of({"input": SITES})
        text = shown(scan)
        (first, *_) = answer(groups_of(scan))
        assert Elements(text).text.index(first) < Elements(text).text.index("vs floor")

    def test_a_heat_map_for_each_site_with_kinds_comes_first(self) -> None:
        scan = scan_of({"output": {"output": [18.0, 18.1, 18.2]}, "input": SITES})
        found = Elements(shown(scan))
        titles = [a.get("aria-label") for t, a in found.found if a.get("role") == "region"]
        assert titles[0] == "SQNR vs floor, site input, mxfp4:floor"
        assert found.count("table", **{"class": "heat few"}) == 1

    def test_a_chart_of_sqnr_for_each_site_with_its_floor(self) -> None:
        scan = scan_of(
            {"input": SITES, "weight": SITES}, formats={"mxfp4:floor": 0.0, "nvfp4:token": 1.5}
        )
        text = Elements(shown(scan)).text
        for site in ("input", "weight"):
            assert f"SQNR, site {site}" in text
        assert text.count("Gaussian floor of mxfp4:floor: 18.8 dB") == 2

    def test_products_with_one_operand_quantized_are_columns_and_no_charts(self) -> None:
        found = Elements(shown(scan_of({"linear": SITES})))
        assert found.count("table", **{"class": "heat few"}) == 1
        assert "SQNR, site linear, both quantized" in found.text
        assert "SQNR, site linear, input quantized" not in found.text
        assert "W4A16" in found.text

    def test_what_quantization_costs_stands_beside_sqnr(self) -> None:
        scan = costed(scan_of({"input": SITES}))
        found = Elements(shown(scan))
        sections = [word for word in found.words if word == "By layer"]
        assert len(sections) == 2  # the heading, and the link to it
        assert found.count("rect", **{"class": "s0"}) == 3
        assert found.count("rect", **{"class": "s1"}) == 3
        assert "layer 2\nq: 100.000 mnat\ndown: 300.000 mnat" in found.text

    def test_costs_of_formats_that_are_not_shown_are_left_out(self) -> None:
        formats = {"mxfp4:floor": 0.0, "nvfp4:token": 1.0}
        scan = costed(scan_of({"input": SITES}, formats=formats))
        text = page([("a", groups_of(scan, formats=["nvfp4"]))])
        assert "mnat" not in text

    def test_scans_lie_over_each_other(self) -> None:
        text = shown(made([0.2, 0.3]), made([0.2, 0.3, 0.4]))
        found = Elements(text)
        assert found.count("svg", role="img") == 3  # one for SQNR, one a scan for noise
        for name in ("scan 0: mxfp4:floor", "scan 1: mxfp4:floor"):
            assert name in found.text

    def test_the_prototype(self) -> None:
        found = Elements(shown(load_scan(PROTOTYPE)))
        assert found.count("circle") == 28 * 5  # SQNR, and four strategies
        assert "heat many" not in found.classes

    def test_multipliers_are_those_of_suggest(self) -> None:
        text = shown(load_scan(PROTOTYPE))
        assert "layer 0\nuniform: 1.000\ntargeted: 0.000\nvariable: 0.826\nzone: 0.000\n" in text
        assert "layer 12\nuniform: 1.000\ntargeted: 1.000\nvariable: 1.114\nzone: 1.000\n" in text

    def test_the_folded_table_has_a_row_for_each_tensor(self) -> None:
        scan = scan_of({"output": {"output": rising(30, 17, 18)}})
        text = shown(scan)
        folded = text.split("<summary>All layers")[1].split("</table>")[0]
        assert folded.count("<tr>") == 31

    def test_a_single_layer(self) -> None:
        found = Elements(shown(made([0.3])))
        assert found.count("circle", cx="50.0%") == 3  # SQNR, variable, uniform

    def test_undefined_metrics_leave_gaps_and_reasons(self) -> None:
        scan = with_metric(made([0.2, 0.3, 0.4]), 1, sqnr_db=None, relative_error=None)
        text = shown(scan)
        assert text.count("<circle") == 2
        assert "no configuration, because" in text

    def test_a_metric_that_no_layer_has_has_no_chart(self) -> None:
        none = dict.fromkeys(("sqnr_db", "deadzone", "saturation", "relative_error", "relative_l1"))
        scan = with_metric(with_metric(made([0.2, 0.3]), 0, **none), 1, **none)
        assert Elements(shown(scan)).count("svg", role="img") == 0


@pytest.fixture(scope="module")
def text() -> str:
    return shown(scan_of({"output": {"output": rising(28, 17, 18)}, "input": SITES}))


class TestFile:
    def test_nothing_is_loaded(self, text: str) -> None:
        for tag, attributes in Elements(text).found:
            for name in ("src", "href", "srcset", "data", "action", "poster"):
                value = attributes.get(name)
                assert value is None or value.startswith("#"), (tag, name, value)
            assert tag not in ("iframe", "object", "embed", "base", "form", "link", "img")

    def test_the_policy_names_script_and_style_by_their_hashes(self, text: str) -> None:
        (policy,) = [
            attributes["content"] or ""
            for _, attributes in Elements(text).found
            if attributes.get("http-equiv") == "Content-Security-Policy"
        ]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for kind in ("script", "style"):
            (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.S)
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in policy

    def test_no_element_has_a_style_that_the_policy_would_refuse(self, text: str) -> None:
        for _, attributes in Elements(text).found:
            assert not [name for name in attributes if name == "style" or name.startswith("on")]

    def test_it_is_small(self, text: str) -> None:
        assert len(text.encode()) < 200_000

    def test_a_thousand_layers(self) -> None:
        text = shown(made(rising(1000)))
        assert text.split("<summary>All layers")[1].count("<tr>") >= 1000
        assert len(text.encode()) < 2_000_000

    def test_it_is_the_same_page_every_time(self) -> None:
        assert shown(load_scan(PROTOTYPE)) == shown(load_scan(PROTOTYPE))


HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "</style></title></svg><!--<script>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ 7 * 7 }}{% for x in y %}",
    "<b>bold</b> <a href='javascript:alert(1)'>x</a>",
    "]]>' --",
    "a\x1b[31m\u202eb\u2028c",
]


def named(name: str) -> Scan:
    scan = made([0.2, 0.4], tensors=(name, f"{name}.q_proj"), site="input", name=name)
    run = scan.run.model_copy(update={"command": name, "started": name, "versions": {name: name}})
    model = scan.model.model_copy(update={"architecture": name, "revision": name, "dtype": name})
    return scan.model_copy(
        update={
            "model": model,
            "calibration": scan.calibration.model_copy(update={"source": name}),
            "run": run,
            "warnings": [name],
            "not_measured": [NotMeasured(module=name, reason=name)],
        }
    )


def several(name: str) -> str:
    """A page of two scans in which every text from outside is `name`."""
    return page([(name, groups_of(named(name))), ("other", groups_of(named(name)))])


@pytest.fixture(scope="module")
def harmless() -> Elements:
    return Elements(several("harmless"))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_brings_no_element_and_stays_readable(name: str, harmless: Elements) -> None:
    text = several(name)
    found = Elements(text)
    assert [tag for tag, _ in found.found] == [tag for tag, _ in harmless.found]
    assert [sorted(a) for _, a in found.found] == [sorted(a) for _, a in harmless.found]
    visible = name.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert visible in found.text
    assert "49" not in found.words
    assert not re.search("[\x1b\u202e]", text)
