"""The sensitivity of a scan as tables, sentences and a chart."""

from __future__ import annotations

import pytest
from made_scans import costing, made

from srdd.reports.sensitivity_view import (
    check_table,
    cost_chart,
    cost_table,
    local_agreement,
    sensitivity_blocks,
    summary,
)
from srdd.reports.view import Estimate, Table, Text

FORMAT = "mxfp4:floor"


def column(table: Table, title: str) -> list[object]:
    place = [each.title for each in table.columns].index(title)
    return [row[place] for row in table.rows]


def test_the_costliest_come_first_with_their_share() -> None:
    table = cost_table(costing([0.1, 0.2, 0.3, 0.4]), FORMAT, "tensor")
    assert column(table, "tensor") == ["up", "q", "up", "q"]
    assert column(table, "layer") == [1, 1, 0, 0]
    shares = column(table, "share")
    assert shares == pytest.approx([0.4, 0.3, 0.2, 0.1])
    first = column(table, "KL W4A4")[0]
    assert isinstance(first, Estimate)
    assert first.value == pytest.approx(0.4)


@pytest.mark.parametrize(("by", "rows"), [("layer", 2), ("kind", 2), ("tensor", 4)])
def test_tensors_add_up_to_layers_and_kinds(by: str, rows: int) -> None:
    table = cost_table(costing([0.1, 0.2, 0.3, 0.4]), FORMAT, by)
    assert len(table.rows) == rows
    assert sum(column(table, "share")) == pytest.approx(1)  # type: ignore[arg-type]


def test_all_rows_stand_in_the_models_order() -> None:
    table = cost_table(costing([0.1, 0.2, 0.3, 0.4]), FORMAT, "tensor", everything=True)
    assert column(table, "layer") == [0, 0, 1, 1]


def test_checks_end_with_the_whole() -> None:
    table = check_table(costing([0.1, 0.2, 0.3, 0.4]), FORMAT)
    assert table is not None
    assert column(table, "tensor")[-1] == "all linears"
    ratio = column(table, "ratio")[-1]
    assert isinstance(ratio, Estimate)
    assert ratio.value == pytest.approx(0.5)


def test_an_estimate_that_does_not_hold_is_said_to_be_so() -> None:
    sentences = " ".join(summary(costing([0.1, 0.2, 0.3, 0.4]), FORMAT))
    assert "their sum does NOT give" in sentences  # only the whole is off
    direct = " ".join(summary(costing([0.1, 0.2, 0.3, 0.4], "direct"), FORMAT))
    assert "hold" not in direct


def test_local_figures_that_rank_alike_have_a_tau_of_one() -> None:
    """Errors rise with the layer; both tensors of a layer have the same."""
    taus = local_agreement(costing([0.1, 0.1, 0.2, 0.2, 0.3, 0.3]), FORMAT)
    assert taus["sqnr_db"] == pytest.approx(1)
    assert taus["relative_error"] == pytest.approx(1)
    falling = local_agreement(costing([0.3, 0.3, 0.2, 0.2, 0.1, 0.1]), FORMAT)
    assert falling["sqnr_db"] == pytest.approx(-1)


def test_the_chart_stacks_kinds_by_layer() -> None:
    chart = cost_chart(costing([0.1, 0.2, 0.3, 0.4]), FORMAT)
    assert chart.kind == "bars"
    assert chart.x == (0, 1)
    values = {series.label: series.values for series in chart.series}
    assert values["q"] == pytest.approx((0.1, 0.3))
    assert values["up"] == pytest.approx((0.2, 0.4))


def test_a_scan_without_it_names_the_option() -> None:
    (note,) = sensitivity_blocks(made([0.1, 0.2]))
    assert isinstance(note, Text)
    assert "--kl" in note.text
