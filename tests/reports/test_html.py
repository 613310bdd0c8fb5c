"""The page without a browser: figures that Plotly takes, text that stays text, one whole file."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from html.parser import HTMLParser
from typing import Any

import pytest
from made_scans import PROTOTYPE, made, rising, thorough, with_metric

from srdd.documents.reading import load_scan
from srdd.documents.scan import NotMeasured, Scan, TokenSqnr
from srdd.errors import InputError
from srdd.reports import html as module
from srdd.reports.groups import groups_of
from srdd.reports.html import page
from srdd.reports.html_charts import profile
from srdd.reports.html_series import Content

plotly = pytest.importorskip("plotly.graph_objects", reason="plotly is not installed")


def shown(*scans: Scan) -> str:
    return page([(f"scan {n}", groups_of(scan)) for n, scan in enumerate(scans)])


def figures(text: str) -> dict[str, Any]:
    (found,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', text, re.S)
    charts: dict[str, Any] = json.loads(found)
    return charts


class Elements(HTMLParser):
    """The elements of a page with their attributes, and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside in ("script", "style") else self.words).append(data)

    def rows(self, table: str) -> int:
        """Rows of the body of a table."""
        start = next(n for n, (_, a) in enumerate(self.found) if a.get("id") == table)
        count = 0
        for tag, attributes in self.found[start + 1 :]:
            if tag == "table":
                break
            count += tag == "tr" and "data-p" in attributes
        return count


@pytest.fixture(scope="module")
def text() -> str:
    """A page with all of Plotly in it."""
    return shown(load_scan(PROTOTYPE))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of Plotly's five megabytes, whose hash and parsing take long."""
    monkeypatch.setattr("plotly.offline.get_plotlyjs", lambda: "window.Plotly = {}")


def painted(found: Any, key: str = "") -> Any:
    """A figure with colours in place of the names that the page replaces."""
    if isinstance(found, str) and found.startswith("@"):
        assert re.search(r"colou?r(scale)?$", key), (key, found)
        return "Viridis" if key == "colorscale" else "#123456"
    if isinstance(found, list):
        return [painted(one, key) for one in found]
    if isinstance(found, dict):
        return {name: painted(one, name) for name, one in found.items()}
    return found


def test_plotly_takes_every_figure() -> None:
    scan = with_tokens(thorough([0.2, 0.3, 0.4]))
    charts = figures(shown(scan))
    for key in ("profile/0/sqnr_db", "tokens/0/0", "heat/0/relative_error", "noise/0"):
        assert plotly.Figure(painted(charts[key])).data


def with_tokens(scan: Scan) -> Scan:
    """The scan with 10 tokens at 15 dB and 30 at 16 dB in each layer."""
    counts = [10, 0, 0, 0, 30]
    tokens = TokenSqnr(p5=15.0, p50=16.1, p95=16.2, first_bin=220, counts=counts, undefined=0)
    records = [record.model_copy(update={"token_sqnr_db": tokens}) for record in scan.records]
    return scan.model_copy(update={"records": records})


def test_tokens_are_shares_of_the_layer_at_their_decibels() -> None:
    trace, _, median, _ = figures(shown(with_tokens(thorough([0.2, 0.3]))))["tokens/0/0"]["data"]
    assert trace["y"] == [15.125, 15.375, 15.625, 15.875, 16.125]
    assert trace["z"] == [[25, 25], [None] * 2, [None] * 2, [None] * 2, [75, 75]]
    assert (median["name"], median["y"]) == ("median", [16.1, 16.1])


def test_that_test_can_fail() -> None:
    with pytest.raises(ValueError, match="no_such_setting"):
        plotly.Figure({"data": [{"type": "scatter", "no_such_setting": 1}]})


def test_profiles_hold_every_layer_and_its_figure(text: str) -> None:
    charts, rows = figures(text), load_scan(PROTOTYPE).rows()
    for metric, scale in (("sqnr_db", 1), ("relative_error", 100), ("deadzone", 100)):
        line = next(t for t in charts[f"profile/0/{metric}"]["data"] if "customdata" in t)
        assert line["x"] == list(range(28))
        assert line["y"] == pytest.approx([scale * row[metric] for row in rows], rel=1e-5)
        assert len(line["customdata"]) == 28
    assert "profile/0/saturation" not in charts  # the prototype does not measure it
    assert not [key for key in charts if key.startswith("tokens")]


def test_floor_threshold_and_interval_are_drawn() -> None:
    scan = thorough([0.2, 0.3, 0.4])
    content = Content(["one"], [groups_of(scan)])
    figure = profile(content.members, "sqnr_db")
    assert figure is not None
    by_name = {trace["name"]: trace for trace in figure["data"]}
    assert by_name["Gaussian floor"]["y"] == [18.788, 18.788]
    assert by_name["threshold"]["y"] == [20, 20]
    band = by_name["95 % interval"]
    ends = [record.intervals.sqnr_db for record in scan.records if record.intervals]
    lows, highs = zip(*[end for end in ends if end], strict=True)
    assert band["y"] == pytest.approx([*lows, *reversed(highs)], rel=1e-5)
    assert band["x"] == [0, 1, 2, 2, 1, 0]


def test_the_heat_map_has_a_row_a_kind_and_the_worst_of_several() -> None:
    scan = thorough([0.2, 0.4], tensors=("x.down_proj", "x.q_proj", "y.q_proj"), site="input")
    records = [
        r.model_copy(update={"metrics": r.metrics.model_copy(update={"sqnr_db": 1.0 + n})})
        for n, r in enumerate(scan.records)
    ]
    scan = scan.model_copy(update={"records": records})
    (trace,) = figures(shown(scan))["heat/0/sqnr_db"]["data"]
    assert trace["y"] == ["input: q", "input: down"]
    names = {(r.layer, r.tensor): r.metrics.sqnr_db for r in records}
    assert trace["z"][0] == [
        min(names[layer, "x.q_proj"] or 0, names[layer, "y.q_proj"] or 0) for layer in (0, 1)
    ]
    assert trace["reversescale"] is True


def test_multipliers_are_those_of_suggest(text: str) -> None:
    lines = {trace["name"]: trace["y"] for trace in figures(text)["noise/0"]["data"]}
    assert set(lines) == {"targeted", "variable", "zone", "uniform", "inverse", "shuffled"}
    assert lines["uniform"] == [1] * 28
    assert lines["targeted"] == [float(10 <= layer < 20) for layer in range(28)]
    errors = [row["relative_error"] for row in load_scan(PROTOTYPE).rows()]
    mean = sum(errors) / 28
    assert lines["variable"] == pytest.approx([error / mean for error in errors], rel=1e-5)
    assert lines["zone"][4] == pytest.approx(0.6)


def test_tables_hold_a_row_a_layer_and_a_tensor() -> None:
    scan = thorough(rising(5), tensors=("x.q_proj", "x.o_proj"), site="input")
    found = Elements(shown(scan))
    assert found.rows("layers") == 5
    assert found.rows("tensors") == 10


def test_scans_stand_over_each_other() -> None:
    text = shown(made([0.2, 0.3]), made([0.2, 0.3, 0.4]))
    lines = [t for t in figures(text)["profile/0/sqnr_db"]["data"] if "customdata" in t]
    assert [len(line["x"]) for line in lines] == [2, 3]
    assert [line["name"] for line in lines] == ["scan 0 mxfp4:floor", "scan 1 mxfp4:floor"]
    assert Elements(text).rows("layers") == 5
    assert {"noise/0", "noise/1"} <= set(figures(text))


# One whole file


def test_the_figures_cannot_end_their_element(text: str) -> None:
    (found,) = re.findall(r'id="charts">(.*?)</script>', text, re.S)
    assert "<extra>" in json.dumps(json.loads(found))
    assert "<" not in found


def test_nothing_is_loaded(text: str) -> None:
    for tag, attributes in Elements(text).found:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, name, value)
        assert tag not in ("iframe", "object", "embed", "base", "form", "link")


def test_the_policy_names_the_scripts_by_their_hashes(text: str) -> None:
    found = Elements(text)
    (policy,) = [
        attributes["content"] or ""
        for _, attributes in found.found
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy.split("script-src")[1].split(";")[0]
    assert "unsafe-eval" not in policy
    named = set(re.findall(r"'sha256-([^']+)'", policy))
    scripts = re.findall(
        r"<script(?: type=\"text/plain\" id=\"plotly\")?>(.*?)</script>", text, re.S
    )
    held = {
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    }
    assert named == held
    assert len(named) == 2


def test_the_page_is_small_enough(text: str) -> None:
    assert len(text.encode()) < 8_000_000
    assert text.count("* plotly.js v") == 1


def test_it_is_the_same_page_every_time() -> None:
    assert shown(load_scan(PROTOTYPE)) == shown(load_scan(PROTOTYPE))


# Hostile and odd scans

HOSTILE = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    '"><svg onload=alert(1)>',
    "{{ 7 * 7 }}{% for x in y %}",
    "<b>bold</b> <a href='javascript:alert(1)'>x</a>",
    "]]>' --",
    "a\x1b[31m\u202eb\u2028c",
]


def named(name: str) -> Scan:
    scan = thorough([0.2, 0.4], tensors=(name, f"{name}.q_proj"), site="input", name=name)
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


@pytest.fixture(scope="module")
def harmless() -> Elements:
    return Elements(shown(named("harmless")))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_brings_no_element_and_stays_readable(name: str, harmless: Elements) -> None:
    text = shown(named(name))
    found = Elements(text)
    assert [tag for tag, _ in found.found] == [tag for tag, _ in harmless.found]
    assert [sorted(a) for _, a in found.found] == [sorted(a) for _, a in harmless.found]
    visible = name.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
    assert visible in "".join(found.words) or "\u2028" in name
    assert "49" not in found.words
    assert not re.search("[\x1b\u202e]", text.split('id="plotly"')[0])


@pytest.mark.parametrize("name", HOSTILE[:6])
def test_no_chart_holds_markup(name: str) -> None:
    content = Content([name], [groups_of(named(name))])
    assert content.series[0].label  # it is plain text, which the template escapes
    for figure in figures(
        page([(name, groups_of(named(name))), ("b", groups_of(named("b")))])
    ).values():
        for value in texts(figure):
            assert "<" not in value.replace("<extra></extra>", "")
            assert "<" not in name or html.unescape(value) != value or "lt" not in value


def texts(found: Any) -> list[str]:
    if isinstance(found, str):
        return [found]
    if isinstance(found, list):
        return [text for one in found for text in texts(one)]
    if isinstance(found, dict):
        return [text for one in found.values() for text in texts(one)]
    return []


def test_a_single_layer() -> None:
    text = shown(made([0.3]))
    assert Elements(text).rows("layers") == 1
    assert "The only layer breaches" in text
    assert [t["name"] for t in figures(text)["noise/0"]["data"]] == ["variable", "uniform"]


def test_undefined_metrics_leave_gaps() -> None:
    scan = with_metric(made([0.2, 0.3, 0.4]), 1, sqnr_db=None, relative_error=None)
    text = shown(scan)
    line = next(t for t in figures(text)["profile/0/sqnr_db"]["data"] if "customdata" in t)
    assert line["y"][1] is None
    assert line["y"][0] is not None
    assert "no configuration, because relative_error of layer 1 is undefined" in text
    assert "noise/0" not in figures(text)


def test_a_metric_that_no_layer_has_has_no_chart() -> None:
    none = dict.fromkeys(("sqnr_db", "deadzone", "saturation", "relative_error", "relative_l1"))
    scan = with_metric(with_metric(made([0.2, 0.3]), 0, **none), 1, **none)
    assert figures(shown(scan)) == {}


def test_a_thousand_layers() -> None:
    text = shown(made(rising(1000)))
    assert Elements(text).rows("layers") == 1000
    assert len(text) < 8_000_000


@pytest.mark.parametrize("missing", ["plotly", "jinja2"])
def test_what_is_missing_is_said_with_its_hint(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = module.importlib.util.find_spec
    monkeypatch.setattr(
        module.importlib.util, "find_spec", lambda name: None if name == missing else there(name)
    )
    with pytest.raises(InputError, match=f"the HTML report needs {missing}") as caught:
        shown(made([0.2]))
    assert caught.value.hint == f"pip install {missing}"
