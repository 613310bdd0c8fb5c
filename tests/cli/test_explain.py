"""`srdd explain`: every word has its text, from where the word is defined."""

from __future__ import annotations

import math
import re

import pytest

from srdd.cli.app import run
from srdd.errors import UsageError
from srdd.noise import CONTROLS, STRATEGIES
from srdd.numerics import metrics
from srdd.numerics.formats import FORMATS, USED_BY
from srdd.numerics.sites import SITES
from srdd.reports.explanations import KINDS, explain, topics
from srdd.reports.verdicts import MEANINGS


def shown(name: str, capfd: pytest.CaptureFixture[str]) -> str:
    assert run(["explain", *name.split()]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    return re.sub(r"\s+", " ", out)


@pytest.fixture(autouse=True)
def _width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_every_word_that_a_person_meets_has_its_text() -> None:
    known = {topic.name for topic in topics()}
    for names in (metrics.METRICS, FORMATS, USED_BY, STRATEGIES, CONTROLS, SITES):
        assert set(names) <= known, set(names) - known
    assert {word.text for word in MEANINGS} <= known
    assert {topic.kind for topic in topics()} == set(KINDS)


@pytest.mark.parametrize("name", [*metrics.METRICS, *FORMATS])
def test_metrics_and_formats_have_every_section(name: str) -> None:
    titles = {title for title, _ in explain(name)[0].sections}
    assert titles >= {"Formula", "Unit", "Range", "Reading", "Pitfalls", "Source"}


@pytest.mark.parametrize("name", [*STRATEGIES, *CONTROLS])
def test_strategies_say_what_they_do_and_what_misleads(name: str) -> None:
    titles = {title for title, _ in explain(name)[0].sections}
    assert titles == {"Formula", "Reading", "Pitfalls", "Source"}


@pytest.mark.parametrize("name", metrics.METRICS)
def test_a_metric_shows_what_it_declares(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    page = shown(name, capfd)
    metric = metrics.METRICS[name]
    for title in ("formula", "range", "reading", "pitfalls", "source"):
        assert f"{title.capitalize()} {getattr(metric, title)}" in page


def test_a_format_s_grid_and_floor_by_hand(capfd: pytest.CaptureFixture[str]) -> None:
    page = shown("mxfp4", capfd)
    assert "0 and +- 0.5, 1, 1.5, 2, 3, 4, 6 " in page
    assert "4.25 bits" in page
    assert "floor 18.8, even 19.0, ceil 16.8, rceil 18.8" in page
    assert "OCP Microscaling v1.0, sections 5.3.3" in page
    assert "deadzone 8.8 %" in page
    assert "0 and +- 1, 2, 3, 4, 5, 6, 7 " in shown("int4_g32", capfd)
    assert f"0 and +- {2**-9:g}, {2**-8:g} ... 448" in shown("mxfp8_e4m3", capfd)
    assert f"0 and +- {1 / 64:g}, {2 / 64:g} ... {127 / 64:g}" in shown("mxint8", capfd)
    assert math.isclose(127 / 64, 1.98438, abs_tol=1e-5)


def test_a_format_with_its_rule_has_that_rule_s_floor(capfd: pytest.CaptureFixture[str]) -> None:
    assert "with even, ideal Gaussian data gets SQNR 19.0 dB, deadzone 9.7 %" in shown(
        "mxfp4:even", capfd
    )
    assert "Groups of 32 channels are rotated" in shown("mxfp4+hadamard32", capfd)


def test_words_are_found_however_they_are_written(capfd: pytest.CaptureFixture[str]) -> None:
    assert shown("at floor", capfd).startswith(
        "at floor (verdict) Of a layer or tensor: a threshold is"
    )
    assert shown("At-Floor", capfd).startswith("at floor (verdict)")
    assert shown("SQNR_DB", capfd).startswith("sqnr_db (metric)")
    assert shown("vs_floor_db", capfd).startswith("floor of a format (word)")


def test_a_word_of_several_meanings_shows_each(capfd: pytest.CaptureFixture[str]) -> None:
    zone = shown("zone", capfd)
    assert zone.startswith("zone (strategy)")
    assert "zones (word)" in zone
    tensor = shown("tensor", capfd)
    assert tensor.startswith("tensor (scale rule)")
    assert "tensor (word)" in tensor
    assert shown("kind", capfd).startswith("kind (word)")
    assert shown("rmsnorm", capfd).startswith("layer type (word)")


def test_a_scale_rule_has_its_formula(capfd: pytest.CaptureFixture[str]) -> None:
    assert "E = e - 1 - emax" in shown("floor", capfd)
    assert "nvfp4" in shown("token", capfd)


def test_without_a_name_all_are_listed_by_kind(capfd: pytest.CaptureFixture[str]) -> None:
    page = shown("", capfd)
    for topic in topics():
        assert topic.name in page
    for title in ("metrics", "formats", "scale rules", "strategies", "sites", "verdicts", "words"):
        assert f"{title} " in page


@pytest.mark.parametrize(
    ("name", "closest"),
    [
        ("sqn_db", "sqnr_db"),
        ("mxpf4", "mxfp4"),
        ("targetted", "targeted"),
        ("rel_error", "relative"),
    ],
)
def test_an_unknown_word_is_answered_with_the_closest(
    name: str, closest: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["explain", name]) == 2
    err = capfd.readouterr().err
    assert f"error: unknown word '{name}'" in err
    assert f"hint: the closest are {closest}" in err


def test_a_rule_that_a_format_lacks_lists_its_rules() -> None:
    with pytest.raises(UsageError, match="unknown scale rule for nvfp4 'floor'"):
        explain("nvfp4:floor")


@pytest.mark.parametrize("width", [40, 80])
def test_no_line_is_longer_than_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for topic in topics():
        assert run(["explain", *topic.name.split()]) == 0
    assert run(["explain"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width


def test_a_rotation_behind_the_rule_is_put_before_it() -> None:
    with pytest.raises(UsageError) as caught:
        explain("nvfp4:tensor+hadamard8")
    assert caught.value.hint == "write nvfp4+hadamard8:tensor"


def test_no_docstring_markup_for_programmers_is_shown() -> None:
    for topic in topics():
        told = " ".join([topic.summary, *topic.text, *(text for _, text in topic.sections)])
        assert "::" not in told, topic.name
        for word in ("Raises:", "Arguments:", "Returns:", "Attributes:", "`srdd."):
            assert word not in told, topic.name
