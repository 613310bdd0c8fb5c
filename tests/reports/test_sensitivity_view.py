"""The sensitivity of a scan as tables, sentences and a chart."""

from __future__ import annotations

import numpy as np
import pytest
from made_scans import costing, made

from srdd.documents.sensitivity_figures import figure
from srdd.reports.groups import groups_of
from srdd.reports.guide import guide
from srdd.reports.rows import flat_rows
from srdd.reports.scan_view import scan_blocks
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


def test_a_report_of_one_format_has_the_costs_of_that_alone() -> None:
    """Two formats, of which the second costs as much as the first."""
    scan = costing([0.1, 0.2, 0.3, 0.4])
    assert scan.sensitivity is not None
    own = scan.sensitivity.changes
    changes = [*own, *(each.model_copy(update={"format": "nvfp4:token"}) for each in own)]
    settings = scan.settings.model_copy(update={"formats": [FORMAT, "nvfp4:token"]})
    sensitivity = scan.sensitivity.model_copy(update={"changes": changes})
    both = scan.model_copy(update={"sensitivity": sensitivity, "settings": settings})
    assert "nvfp4" in str(sensitivity_blocks(both))
    groups = [group for group in groups_of(both) if group.spec == FORMAT]
    assert {group.spec for group in groups} == {FORMAT}
    assert FORMAT in str(scan_blocks(groups))
    assert "nvfp4" not in str(scan_blocks(groups))
    assert "nvfp4" not in guide(groups)


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
    assert taus["sqnr_db"].value == pytest.approx(1)
    assert taus["relative_error"].value == pytest.approx(1)
    falling = local_agreement(costing([0.3, 0.3, 0.2, 0.2, 0.1, 0.1]), FORMAT)
    assert falling["sqnr_db"].value == pytest.approx(-1)


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


def test_rows_for_spreadsheets_hold_the_cost() -> None:
    scan = costing([0.01, 0.02, 0.03, 0.05])
    (group,) = groups_of(scan)
    for by in ("tensor", "kind", "layer"):
        rows, costs = flat_rows("scan", group, by), scan.sensitivities(by=by)
        assert [row["kl"] for row in rows] == pytest.approx([cost["kl"] for cost in costs])
        ends = [(row["kl_low"], row["kl_high"]) for row in rows]
        assert ends == [pytest.approx(cost["kl_interval"]) for cost in costs]
    plain = scan.model_copy(update={"sensitivity": None})
    assert {row["kl"] for row in flat_rows("scan", groups_of(plain)[0], "tensor")} == {None}


def test_the_agreement_with_local_figures_has_an_interval() -> None:
    scan = costing([0.1, 0.1, 0.2, 0.2, 0.3, 0.3])
    assert scan.sensitivity is not None
    assert local_agreement(scan, FORMAT)["sqnr_db"].interval is None  # of other groups
    rng = np.random.default_rng(0)
    record = scan.records[0]
    assert record.replicates is not None
    groups = len(record.replicates.tokens)
    tokens = np.full(groups, 10.0)
    changes = [
        change.model_copy(update=figure(10 * change.value * rng.uniform(0.2, 1.8, groups), tokens))
        for change in scan.sensitivity.changes
    ]
    update = {"tokens": [10] * groups, "changes": changes, "checks": []}
    scan = scan.model_copy(update={"sensitivity": scan.sensitivity.model_copy(update=update)})
    tau = local_agreement(scan, FORMAT)["sqnr_db"]
    assert tau.value is not None
    assert tau.interval is not None
    assert -1 <= tau.interval[0] < tau.value <= tau.interval[1] <= 1
