"""Scans as csv and tsv: every digit, one row a layer or tensor, and nothing a spreadsheet runs."""

from __future__ import annotations

import csv
import io
import json

import pytest
from made_scans import DATA, PROTOTYPE, made, thorough, with_metric

from srdd.documents.scan import Scan, load_scan
from srdd.errors import UsageError
from srdd.reports.delimited import delimited
from srdd.reports.groups import groups_of


def text_of(scan: Scan, form: str = "csv", by: str = "layer", name: str = "scan") -> str:
    return delimited([(name, group) for group in groups_of(scan)], form, by)


def rows_of(scan: Scan, form: str = "csv", by: str = "layer") -> list[dict[str, str]]:
    delimiter = {"csv": ",", "tsv": "\t"}[form]
    return list(csv.DictReader(io.StringIO(text_of(scan, form, by)), delimiter=delimiter))


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_the_published_figures_come_back_bit_for_bit(form: str) -> None:
    with (DATA / "qwen2.5-1.5b-instruct_mxfp4_output.csv").open() as file:
        published = list(csv.DictReader(file))
    rows = rows_of(load_scan(PROTOTYPE), form)
    assert len(rows) == 28
    for row, wanted in zip(rows, published, strict=True):
        assert row["layer"] == wanted["layer"]
        for name in ("sqnr_db", "deadzone", "relative_error"):
            assert float(row[name]) == float(wanted[name])
        assert row["saturation"] == row["sqnr_db_low"] == row["tokens"] == ""


def test_intervals_and_counts_stand_in_columns_of_their_own() -> None:
    scan = thorough([0.2, 0.3])
    row = rows_of(scan)[1]
    intervals = scan.records[1].intervals
    assert intervals is not None
    assert (float(row["sqnr_db_low"]), float(row["sqnr_db_high"])) == intervals.sqnr_db
    assert row["tokens"] == "640"
    assert row["zone"] == "Late-Mid"
    assert row["verdict"] == "at floor"


def test_a_row_a_tensor_or_a_layer() -> None:
    scan = thorough([0.2, 0.3], tensors=("x.q_proj", "x.o_proj"), site="input")
    assert [(r["layer"], r["tensor"]) for r in rows_of(scan)] == [("0", "all"), ("1", "all")]
    found = [(r["layer"], r["tensor"], r["kind"]) for r in rows_of(scan, by="tensor")]
    assert found == [
        ("0", "x.q_proj", "q"),
        ("0", "x.o_proj", "o"),
        ("1", "x.q_proj", "q"),
        ("1", "x.o_proj", "o"),
    ]


COLUMNS = (
    *("scan", "model", "site", "operands", "format", "scale_rule"),
    *("layer", "zone", "tensor", "kind", "shared_with"),
    *("sqnr_db", "sqnr_db_low", "sqnr_db_high", "deadzone", "deadzone_low", "deadzone_high"),
    *("saturation", "saturation_low", "saturation_high"),
    *("clipping_share", "clipping_share_low", "clipping_share_high"),
    *("relative_error", "relative_error_low", "relative_error_high"),
    *("relative_l1", "relative_l1_low", "relative_l1_high"),
    *(
        "vs_floor_db",
        "kl",
        "kl_low",
        "kl_high",
        "token_sqnr_db_p5",
        "token_sqnr_db_p50",
        "token_sqnr_db_p95",
    ),
    *("tokens", "elements", "nonfinite", "verdict"),
)
"""Spreadsheets and scripts of users read these names."""


def test_the_columns_keep_their_names() -> None:
    assert text_of(made([0.2])).splitlines()[0] == ",".join(COLUMNS)
    assert text_of(made([0.2]), "tsv").splitlines()[0] == "\t".join(COLUMNS)
    assert list(json.loads(text_of(made([0.2]), "json"))[0]) == list(COLUMNS)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum", " =1", "＝1", "=cmd|' /C calc'!A0"])
def test_text_is_no_formula(name: str) -> None:
    row = rows_of(made([0.2], name=name))[0]
    assert row["model"] == f"'{name}"
    assert text_of(made([0.2]), name=name).splitlines()[1].lstrip('"').startswith("'")


def test_negative_figures_stay_figures() -> None:
    scan = with_metric(made([0.2]), 0, sqnr_db=-12.5)
    assert rows_of(scan)[0]["sqnr_db"] == "-12.5"


@pytest.mark.parametrize("form", ["csv", "tsv"])
def test_names_with_delimiters_quotes_and_line_ends_stay_one_cell(form: str) -> None:
    name = 'a,b\t"c"\nd\re\x1b[31m'
    rows = rows_of(made([0.2], name=name), form)
    assert len(rows) == 1
    assert rows[0]["model"] == 'a,b\\t"c"\\nd\\re\\x1b[31m'
    assert "\x1b" not in text_of(made([0.2], name=name), form)


def test_a_very_long_name_is_cut() -> None:
    assert len(rows_of(made([0.2], name="n" * 100_000))[0]["model"]) == 1000


def test_undefined_figures_are_empty_cells() -> None:
    scan = with_metric(made([0.2, 0.3]), 1, sqnr_db=None, relative_error=None)
    row = rows_of(scan)[1]
    assert row["sqnr_db"] == row["relative_error"] == ""
    assert "nan" not in text_of(scan).lower()
    assert "None" not in text_of(scan)


def test_a_thousand_layers() -> None:
    assert [row["layer"] for row in rows_of(made([0.2] * 1000))] == [str(n) for n in range(1000)]


def test_a_row_a_kind_has_its_most_serious_verdict() -> None:
    scan = thorough([0.2, 0.5], tensors=("x.q_proj", "x.o_proj"), site="input")
    rows = rows_of(scan, by="kind")
    assert [(row["kind"], row["layer"], row["verdict"]) for row in rows] == [
        ("q", "", "bad"),
        ("o", "", "bad"),
    ]


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(UsageError, match="unknown form 'xls'"):
        text_of(made([0.2]), "xls")


def test_figures_agree_with_the_file() -> None:
    scan = thorough([0.2, 0.3, 0.4])
    document = json.loads(scan.to_json())
    for row, record in zip(rows_of(scan), document["records"], strict=True):
        for metric, value in record["metrics"].items():
            assert float(row[metric]) == value


def test_a_layers_output_is_of_no_kind() -> None:
    rows = rows_of(made([0.2, 0.3]))
    assert [row["kind"] for row in rows] == ["", ""]
