"""Tables as JSON: what a terminal shows, in the units of documents and with all digits."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from made_scans import rising, thorough

import srdd
from srdd.cli.app import run
from srdd.reports.json_tables import to_json
from srdd.reports.view import Column, Estimate, Measure, Span, Table, Tally, Text, Word


def test_values_are_those_of_a_document_and_keep_their_intervals() -> None:
    share, nats = Measure("%", scale=100.0, digits=1), Measure("mnat", scale=1000.0, digits=2)
    columns = (Column("dead", share), Column("KL", nats), Column("verdict"), Column(""), Column(""))
    row = (
        Estimate(0.123456, (0.1, 0.2)),
        Span(0.001, 0.002),
        Tally(((Word("bad", "bad"), 2), (Word("ok", "good"), 1))),
        share,
        None,
    )
    table = Table("a\x1b title", columns, (row,), ("a note",))
    text, shown = json.loads(to_json([Text("so", "answer"), table]))
    assert text == {"text": "so", "role": "answer"}
    assert shown["columns"][:2] == [
        {"title": "dead", "unit": "fraction"},
        {"title": "KL", "unit": "nats"},
    ]
    assert shown["rows"] == [
        {
            "dead": {"value": 0.123456, "interval": [0.1, 0.2]},
            "KL": [0.001, 0.002],
            "verdict": {"bad": 2, "ok": 1},
            "": "fraction",
            "'": None,
        }
    ]
    assert shown["notes"] == ["a note"]


@pytest.mark.parametrize(
    "line",
    [
        "report scan.json --json",
        "compare scan.json other.json --json",
        "suggest scan.json -o rin.yaml --json -q",
        "formats --json",
    ],
)
def test_commands_print_their_tables_as_json(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    thorough(rising(4)).save("scan.json")
    thorough(rising(4, 0.3)).save("other.json")
    assert run(line.split()) == 0
    blocks = json.loads(capfd.readouterr().out)
    tables = [block for block in blocks if "rows" in block]
    assert tables
    assert all(set(row) == {c["title"] for c in t["columns"]} for t in tables for row in t["rows"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("report scan.json --json --as csv", "--json and --as exclude each other"),
        ("suggest scan.json --json", "which goes to a file"),
        ("suggest scan.json --json --strategy all -o plan", "of one configuration"),
    ],
)
def test_where_there_is_no_table_json_is_refused(
    line: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    thorough(rising(4)).save("scan.json")
    assert run(line.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err


def test_help_of_a_scan_in_python_shows_the_defaults() -> None:
    parameters = inspect.signature(srdd.scan_model).parameters
    assert parameters["kl_samples"].default == 4
    assert parameters["sites"].default == ("output", "input")
    assert not any(each.kind is each.VAR_KEYWORD for each in parameters.values())
