"""The page without a browser: its sections, text that stays text, one whole file."""

from __future__ import annotations

import base64
import hashlib
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from made_scans import PROTOTYPE, made, rising, scan_of, with_metric

from srdd.documents.scan import NotMeasured, Scan, load_scan
from srdd.documents.sensitivity import Changed, Sensitivity
from srdd.reports.answer import answer
from srdd.reports.groups import groups_of
from srdd.reports.html import Section, render
from srdd.reports.html_page import page
from srdd.reports.view import Column, Table, Tally, Text, Word

SITES = {"mlp.down_proj": [16.0, 15.0, 17.0], "self_attn.q_proj": [18.0, 18.5, 18.6]}


def shown(*scans: Scan) -> str:
    return page([(f"scan {n}", groups_of(scan)) for n, scan in enumerate(scans)])


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
        assert "layer 2\nq: 100.00 mnat\ndown: 300.00 mnat" in found.text

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
