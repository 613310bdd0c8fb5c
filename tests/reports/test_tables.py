"""The tables of a scan: the right figures, all of them whole, at any width."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from made_scans import made, rising, thorough, with_metric
from rich.console import Console, RenderableType

from srdd.documents.scan import Record, Scan
from srdd.numerics.metrics import METRICS, Thresholds
from srdd.reports.tables import Column, Fitted, Share, scan_tables, worst
from srdd.reports.verdict import status, verdict

ESCAPE = "\x1b"


def printed(*parts: RenderableType, width: int = 80, encoding: str = "utf-8", **how: Any) -> str:
    """What a terminal of that width would get."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    console = Console(file=file, width=width, highlight=False, markup=False, **how)
    for part in parts:
        console.print(part, crop=False)
    file.flush()
    return raw.getvalue().decode(encoding)


def table(text: str, title: str) -> list[list[str]]:
    """The cells of a table as words, header first."""
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith(title):
            break
    else:
        raise AssertionError(f"no table {title!r}")
    rows = []
    for line in lines:
        if not line.strip() or line.startswith("("):
            break
        rows.append(line.split())
    return rows


def shown(scan: Scan, **how: Any) -> str:
    return printed(*scan_tables(scan), **how)


# Verdicts


def record(
    sqnr_db: float | None = None, vs_floor_db: float | None = None, **metrics: float | None
) -> Record:
    """A record with the metrics given; the others are harmless."""
    harmless = {"deadzone": 0.0, "saturation": 0.0, "relative_error": 0.0}
    scan = with_metric(made([0.2]), 0, **{"sqnr_db": sqnr_db, **harmless, **metrics})
    return scan.records[0].model_copy(update={"vs_floor_db": vs_floor_db})


@pytest.mark.parametrize(
    ("vs_floor_db", "word"),
    [
        (5.0, "at floor"),
        (0.0, "at floor"),
        (-1.0, "at floor"),
        (-1.01, "poor"),
        (-3.0, "poor"),
        (-3.01, "bad"),
        (None, "flagged"),
    ],
)
def test_a_flagged_layer_is_judged_by_its_distance_from_the_floor(
    vs_floor_db: float | None, word: str
) -> None:
    assert verdict(record(15.0, vs_floor_db), Thresholds()) == word


@pytest.mark.parametrize("vs_floor_db", [5.0, 0.0, -9.0, None])
def test_a_layer_within_all_thresholds_is_ok(vs_floor_db: float | None) -> None:
    assert verdict(record(20.0, vs_floor_db), Thresholds()) == "ok"


@pytest.mark.parametrize(
    "metrics", [{"deadzone": 0.051}, {"saturation": 0.011}, {"relative_error": 0.101}]
)
def test_any_one_breach_flags_a_layer(metrics: dict[str, float]) -> None:
    assert verdict(record(25.0, -4.0, **metrics), Thresholds()) == "bad"
    at_the_limit = {name: round(value - 0.001, 3) for name, value in metrics.items()}
    assert verdict(record(25.0, -4.0, **at_the_limit), Thresholds()) == "ok"


def test_an_undefined_metric_breaches_nothing() -> None:
    assert verdict(record(**dict.fromkeys(METRICS)), Thresholds()) == "ok"


@pytest.mark.parametrize("sqnr_db", [25.0, 15.0, None])
def test_a_layer_with_non_finite_values_is_broken_whatever_its_figures(
    sqnr_db: float | None,
) -> None:
    one = record(sqnr_db)
    assert one.sums is not None
    sums = one.sums.model_copy(update={"nonfinite": 1})
    assert verdict(one.model_copy(update={"sums": sums}), Thresholds()) == "broken"


def test_a_status_counts_in_words() -> None:
    assert [status(n, 3) for n in range(4)] == [
        "all pass",
        "1 of 3 fail",
        "2 of 3 fail",
        "all fail",
    ]


def test_the_words_of_the_layers_stand_in_the_table() -> None:
    scan = thorough([0.02, 0.3, 0.34, 0.5])
    words = [row[-1] for row in table(shown(scan), "Layer by layer")[1:]]
    assert words == ["ok", "floor", "poor", "bad"]


# Statistics


def three() -> Scan:
    """Three layers with figures that are easy to reckon with."""
    scan = made([0.2, 0.2, 0.2])
    for layer, sqnr in enumerate((18.0, 21.0, 24.0)):
        share = 0.02 * (layer + 1)
        scan = with_metric(
            scan, layer, sqnr_db=sqnr, deadzone=share, saturation=share, relative_error=share
        )
    return scan


def test_overall_statistics_are_over_layers() -> None:
    rows = {" ".join(row[:2]): row[2:] for row in table(shown(three()), "Over all layers")}
    # The standard deviation of three evenly spaced values is their spacing times sqrt(2/3).
    assert rows["SQNR dB"] == [
        "18.0",
        "24.0",
        "21.0",
        "±2.4",
        "<20",
        "18.8",
        "1",
        "of",
        "3",
        "fail",
    ]
    assert rows["deadzone %"][:5] == ["2.0", "6.0", "4.0", "±1.6", ">5"]
    assert rows["deadzone %"][6:] == ["1", "of", "3", "fail"]
    assert rows["saturation %"][:5] == ["2.00", "6.00", "4.00", "±1.63", ">1"]
    assert rows["saturation %"][6:] == ["all", "fail"]
    assert rows["rel. error"][1:5] == ["2.0", "6.0", "4.0", "±1.6"]
    assert rows["rel. error"][7:] == ["all", "pass"]


def test_other_thresholds_are_shown_and_counted() -> None:
    scan = three()
    limits = scan.settings.thresholds.model_copy(update={"sqnr_db": 22.5})
    scan = scan.model_copy(
        update={"settings": scan.settings.model_copy(update={"thresholds": limits})}
    )
    (row,) = [r for r in table(shown(scan), "Over all layers") if r[0] == "SQNR"]
    assert row[6:] == ["<22.5", "18.8", "2", "of", "3", "fail"]


def test_zones_average_their_layers() -> None:
    scan = made([0.2] * 28)
    for layer in range(4):
        scan = with_metric(
            scan, layer, sqnr_db=10.0 + layer, deadzone=0.1 * layer, relative_error=0.01 * layer
        )
    rows = table(shown(scan), "By zone")
    assert rows[1] == ["First", "0-3", "1.5", "15.0", "11.5"]
    assert [row[:2] for row in rows[2:]] == [
        ["Early-Mid", "4-9"],
        ["Middle", "10-19"],
        ["Late-Mid", "20-25"],
        ["Last", "26-27"],
    ]


def test_an_interval_is_shown_as_half_its_width() -> None:
    scan = thorough([0.2, 0.3])
    first = scan.records[0]
    assert first.intervals is not None
    assert first.intervals.sqnr_db is not None
    low, high = first.intervals.sqnr_db
    row = table(shown(scan), "Layer by layer")[1]
    assert row[2:4] == [f"{first.metrics.sqnr_db:.2f}", f"±{(high - low) / 2:.2f}"]


def test_a_single_prompt_has_no_interval() -> None:
    text = shown(made([0.2, 0.3]))
    assert "±" not in "".join(map(str, table(text, "Layer by layer")))
    assert "stability needs at least two prompts" in text.replace("\n", " ")


# The worst


def test_the_worst_come_first_and_ties_in_order_of_layers() -> None:
    scan = made([0.2, 0.5, 0.3, 0.5, 0.4])
    assert [r.layer for r in worst(scan.records, "relative_error", 4)] == [1, 3, 4, 2]
    assert [r.layer for r in worst(scan.records, "sqnr_db", 3)] == [1, 3, 4]


def test_low_sqnr_is_worst_and_high_error_is_worst() -> None:
    scan = made([0.2, 0.3, 0.4])
    for layer in range(3):
        scan = with_metric(scan, layer, sqnr_db=10.0 + layer)
    assert [r.layer for r in worst(scan.records, "sqnr_db", 3)] == [0, 1, 2]
    assert [r.layer for r in worst(scan.records, "relative_error", 3)] == [2, 1, 0]


def test_an_undefined_layer_is_in_no_list() -> None:
    scan = with_metric(made([0.2, 0.3]), 1, relative_error=None)
    assert [r.layer for r in worst(scan.records, "relative_error", 5)] == [0]


def test_ten_by_error_and_five_by_sqnr_are_listed() -> None:
    text = shown(thorough(rising(28)))
    by_error = [row[:2] for row in table(text, "Worst by relative error")[1:]]
    by_sqnr = [row[:2] for row in table(text, "Worst by SQNR")[1:]]
    assert by_error == [[str(n + 1), str(27 - n)] for n in range(10)]
    assert by_sqnr == [[str(n + 1), str(27 - n)] for n in range(5)]


# Widths


def awkward() -> Scan:
    """Figures as wide as they can become."""
    scan = thorough(rising(12))
    records = []
    for one in scan.records:
        assert one.intervals is not None
        intervals = one.intervals.model_copy(
            update={"sqnr_db": (-60.0, 60.0), "relative_error": (0.0, 3.0)}
        )
        metrics = one.metrics.model_copy(
            update={"sqnr_db": -12.34, "relative_error": 1.5, "saturation": 1.0, "deadzone": 1.0}
        )
        records.append(
            one.model_copy(
                update={"metrics": metrics, "intervals": intervals, "vs_floor_db": -31.13}
            )
        )
    return scan.model_copy(update={"records": records})


FIGURE = re.compile(r"[-+<>±]*\d[\d.,]*")


@pytest.mark.parametrize("scan", [thorough(rising(28)), awkward()], ids=["usual", "awkward"])
@pytest.mark.parametrize("width", [20, 40, 59, 60, 70, 77, 78, 79, 80, 81, 100])
def test_every_figure_that_is_shown_is_whole(width: int, scan: Scan) -> None:
    every = set(FIGURE.findall(shown(scan, width=300)))
    some = FIGURE.findall(shown(scan, width=width))
    assert set(some) <= every
    assert {"28", "12"} & set(some)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
@pytest.mark.parametrize("scan", [thorough(rising(28)), awkward()], ids=["usual", "awkward"])
def test_no_line_is_wider_than_the_terminal(width: int, scan: Scan) -> None:
    assert max(map(len, shown(scan, width=width).splitlines())) <= width


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_figures_that_matter_are_shown_at_any_width(width: int) -> None:
    scan = thorough(rising(28))
    rows = table(shown(scan, width=width), "Layer by layer")[1:]
    for one, row in zip(scan.records, rows, strict=True):
        assert row[0] == str(one.layer)
        assert f"{one.metrics.sqnr_db:.2f}" in row
        assert f"{100 * (one.metrics.relative_error or 0):.1f}" in row


def test_what_a_narrow_terminal_leaves_out_is_said() -> None:
    narrow = " ".join(shown(thorough(rising(4)), width=40).split())
    assert (
        "(a wider terminal also shows: zone, vs floor, tokens 5 50 95 %, dead %, sat. %)" in narrow
    )
    assert "a wider terminal" not in shown(thorough(rising(4)), width=120)


def test_the_columns_for_the_widest_terminals_go_first() -> None:
    columns = [
        Column("always", ["1"]),
        Column("medium", ["2"], 10),
        Column("widest", ["3"], 11),
    ]
    assert printed(Fitted("t", columns), width=20).split()[1:4] == ["always", "medium", "widest"]
    assert printed(Fitted("t", columns), width=19).split()[1:3] == ["always", "medium"]
    assert printed(Fitted("t", columns), width=12).split()[1:3] == ["always", "1"]


# Terminals with less


def test_ascii_is_enough() -> None:
    text = shown(thorough(rising(28)), encoding="ascii")
    assert "+-" in text
    assert "#" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_bar_is_as_long_as_its_share() -> None:
    columns = [Column("", [Share(0.0), Share(0.5), Share(1.0)], 0, "left")]
    lines = printed(Fitted("t", columns)).splitlines()[-3:]
    assert [line.rstrip() for line in lines] == ["", "███", "██████"]


def test_a_bar_shows_the_relative_error_against_the_largest() -> None:
    rows = table(shown(made([0.2, 0.4]), width=100), "Layer by layer")[1:]
    bars = [[word for word in row if "█" in word] for row in rows]
    assert bars == [["███"], ["██████"]]


def test_without_a_terminal_there_are_no_escape_codes() -> None:
    assert ESCAPE not in shown(thorough(rising(4)))
    assert ESCAPE in shown(thorough(rising(4)), force_terminal=True, color_system="standard")


# Scans of all kinds


def undefined(scan: Scan, layer: int) -> Scan:
    """The scan with one layer that was reproduced exactly or is all zero."""
    none = dict.fromkeys(METRICS)
    scan = with_metric(scan, layer, **none)
    records = [
        one.model_copy(update={"vs_floor_db": None, "intervals": None})
        if one.layer == layer
        else one
        for one in scan.records
    ]
    return scan.model_copy(update={"records": records})


def test_undefined_metrics_are_dashes_and_counted() -> None:
    text = shown(undefined(thorough([0.2, 0.3, 0.4]), 1))
    row = table(text, "Layer by layer")[2]
    assert row[2:7] == ["-"] * 5
    overall = [row for row in table(text, "Over all layers") if row[0] == "SQNR"]
    assert overall[0][-2:] == ["1", "undefined"]
    assert "nan" not in text


def test_a_scan_without_any_defined_metric_is_shown() -> None:
    scan = undefined(undefined(made([0.2, 0.3]), 0), 1)
    text = shown(scan)
    assert table(text, "Over all layers")[1][2:5] == ["-", "-", "-"]
    assert "nan" not in text


def test_a_single_layer_is_shown() -> None:
    text = shown(thorough([0.3]))
    assert [row[0] for row in table(text, "Layer by layer")[1:]] == ["0"]
    assert "| 1 layer |" in text.replace("\n", " ")


def test_a_thousand_layers_are_shown() -> None:
    text = shown(made(rising(1000)))
    rows = table(text, "Layer by layer")[1:]
    assert [row[0] for row in rows] == [str(n) for n in range(1000)]
    assert max(map(len, text.splitlines())) <= 80


def test_a_scan_of_nothing_says_so() -> None:
    text = shown(made([0.2]).model_copy(update={"records": [], "rankings": []}))
    assert "nothing was measured here" in text


def test_modules_that_were_not_measured_are_listed() -> None:
    from srdd.documents.scan import NotMeasured

    missing = [NotMeasured(module="model.layers.9\x1b[31m", reason="no forward pass")]
    text = shown(made([0.2]).model_copy(update={"not_measured": missing}))
    assert "not measured: model.layers.9\\x1b[31m: no forward pass" in text


@pytest.mark.parametrize("name", ["\x1b[31mred", "[red]x[/red]", "a\u202eb", "a\nb", "\x9b31m"])
def test_a_hostile_name_is_shown_and_not_obeyed(name: str) -> None:
    text = shown(made([0.2], name=name), force_terminal=True, color_system=None)
    assert ESCAPE not in text
    assert "\x9b" not in text
    assert "\u202e" not in text
    assert text.startswith(name.encode("unicode_escape").decode() + " |")


def test_the_heading_says_what_was_measured() -> None:
    heading = shown(thorough([0.2] * 3), width=200).splitlines()[0]
    assert heading == (
        "made/up | MadeForCausalLM | bfloat16 | 3 layers | 64 prompts, 5,000 tokens | "
        "mxfp4:floor, site output"
    )


def test_another_rounding_is_named() -> None:
    scan = made([0.2])
    settings = scan.settings.model_copy(update={"rounding": "stochastic"})
    text = shown(scan.model_copy(update={"settings": settings}), width=200)
    assert "mxfp4:floor, rounding stochastic, site output" in text
    (row,) = [r for r in table(text, "Over all layers") if r[0] == "SQNR"]
    assert "16.0" in row  # the floor under stochastic rounding


def test_the_ranking_of_weights_is_exact() -> None:
    text = shown(made([0.2, 0.3, 0.4], site="weight"), width=200)
    assert "Ranking by relative error: exact, since weights depend on no prompt" in text
    assert "at least two prompts" not in text
