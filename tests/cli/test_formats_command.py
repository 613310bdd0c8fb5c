"""`srdd formats`: the table at any width, and the same as data."""

from __future__ import annotations

import json

import pytest

from srdd.cli.app import run
from srdd.numerics.formats import FORMATS, USED_BY, parse_specs


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_table_fits_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    assert run(["formats"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert max(map(len, out.splitlines())) <= width
    for name in FORMATS:
        assert [line for line in out.splitlines() if line.startswith(f"{name} ")], name
    mxfp4 = next(line for line in out.splitlines() if line.startswith("mxfp4 ")).split()
    assert mxfp4[1:4] == ["4.25", "18.8", "19.0"]
    assert ("E2M1" in out) == (width >= 80)


def test_every_rule_says_who_uses_it_if_anyone_does(capfd: pytest.CaptureFixture[str]) -> None:
    run(["formats"])
    out, _ = capfd.readouterr()
    assert "scale rule even is used by compressed-tensors, llm-compressor, Quark" in out
    used = {rule for each in FORMATS.values() for rule in each.scale_rules}
    assert set(USED_BY) == used


def test_as_json_it_is_the_whole_table(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["formats", "--as", "json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert [each["name"] for each in told["formats"]] == list(FORMATS)
    mxfp4 = told["formats"][0]
    assert (mxfp4["block"], mxfp4["bits_per_value"], mxfp4["largest_element"]) == (32, 4.25, 6.0)
    assert mxfp4["gaussian_sqnr_db"]["even"] == pytest.approx(19.03, abs=0.01)
    assert [each["block"] for each in told["formats"]][-2:] == [None, None]
    for names in told["groups"].values():
        assert parse_specs(names)


def test_another_form_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["formats", "--as", "yaml"]) == 2
    assert "unknown form 'yaml'" in capfd.readouterr().err
