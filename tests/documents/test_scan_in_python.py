"""A scan in Python and in a notebook: its texts, its rows and its data frame."""

from __future__ import annotations

import sys
from html.parser import HTMLParser

import pytest
from made_scans import made, scan_of

from srdd.documents.scan import Scan
from srdd.errors import UsageError
from srdd.numerics.metrics import METRICS

LINEARS = {"mlp.up_proj": [18.0, 12.0], "mlp.down_proj": [17.0, 16.0]}


@pytest.fixture(scope="module")
def scan() -> Scan:
    return scan_of(
        {"output": {"output": [19.0, 18.0]}, "linear": LINEARS},
        formats={"mxfp4:floor": 0.0, "nvfp4:token": 1.5},
        prompts=2,
    )


def test_the_repr_is_one_short_line(scan: Scan) -> None:
    assert repr(scan) == str(scan)
    assert "\n" not in repr(scan)
    assert len(repr(scan)) < 200
    assert repr(scan).startswith("Scan('made/up', layers=2, sites=['output', 'linear']")


def cells(page: str) -> list[str]:
    found: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            found.append("") if tag in ("td", "th") else None

        def handle_data(self, data: str) -> None:
            if found:
                found[-1] += data

    Reader().feed(page)
    return found


def test_a_notebook_gets_a_row_for_each_site_and_format(scan: Scan) -> None:
    shown = cells(scan._repr_html_())
    assert shown.count("output") == 2
    assert shown.count("linear") == 6
    place = shown.index("both")
    assert shown[place : place + 5] == ["both", "mxfp4:floor", "4", "11.96", "1"]


def test_names_stay_text_in_a_notebook() -> None:
    page = made([0.2], name="<script>x", warnings=["<b>"])._repr_html_()
    assert "<script" not in page
    assert "&lt;b&gt;" in page


def test_all_gives_every_site_format_and_operands(scan: Scan) -> None:
    rows = scan.rows("all", "all", "all")
    assert len(rows) == len(scan.records) == 28
    assert {row["operands"] for row in rows} == {None, "both", "weight", "input"}


@pytest.mark.parametrize(
    ("site", "format", "operands", "count"),
    [
        ("output", "mxfp4", None, 2),
        ("output", "all", None, 4),
        ("output", "mxfp4", "all", 2),
        ("linear", "mxfp4", None, 4),
        ("linear", "mxfp4", "all", 12),
        ("all", "mxfp4", None, 6),
        ("all", "mxfp4", "weight", 6),
    ],
)
def test_rows_are_those_asked_for(
    site: str, format: str, operands: str | None, count: int, scan: Scan
) -> None:
    assert len(scan.rows(site, format, operands)) == count  # type: ignore[arg-type]


def test_a_data_frame_has_the_rows(scan: Scan) -> None:
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = scan.to_pandas()
    assert len(frame) == len(scan.records)
    assert set(METRICS) < set(frame.columns)
    assert frame["sqnr_db"].tolist() == [row["sqnr_db"] for row in scan.rows("all", "all", "all")]


def test_without_pandas_the_error_says_so(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UsageError, match="pandas is not installed"):
        scan.to_pandas()
