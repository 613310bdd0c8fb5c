"""`compare --metric kl`: what quantization costs the predictions, in two scans."""

from __future__ import annotations

import pytest
from made_scans import costing, made

from srdd.comparison import compare_scans, judge, parse_gate
from srdd.errors import InputError
from srdd.reports.comparison_view import comparison_blocks
from srdd.reports.terminal import plain

OLD = costing([0.1, 0.2, 0.4, 0.5])
NEW = costing([0.1, 0.2, 0.1, 0.2])


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("layer", {"0": 0.0, "1": -0.6}),
        ("kind", {"q": -0.3, "up": -0.3}),
        ("tensor", {"0 layers.0.q_proj": 0.0, "1 layers.1.up_proj": -0.3}),
    ],
)
def test_rows_are_sums_of_tensors(by: str, expected: dict[str, float]) -> None:
    (group,) = compare_scans(OLD, NEW, metric="kl", by=by).costs
    differences = {row.label: row.metrics["kl"].difference for row in group.rows}
    assert {label: differences[label] for label in expected} == pytest.approx(expected)
    assert group.overall is not None
    assert group.overall["kl"].difference == pytest.approx(-0.6)


def test_a_lower_cost_is_better_and_the_same_is_no_difference() -> None:
    (group,) = compare_scans(OLD, NEW, metric="kl").costs
    assert [row.metrics["kl"].verdict for row in group.rows] == [
        "no difference seen",
        "better",
    ]
    interval = group.rows[1].metrics["kl"].interval
    assert interval == pytest.approx((-0.6, -0.6))


@pytest.mark.parametrize(
    ("gate", "passed"),
    [
        ("kl > 100 mnat", True),
        ("new.kl > 250 mnat", False),
        ("overall new.kl > 0.5", False),
        ("overall kl < -0.5", False),
        ("sqnr_db < -0.5", True),
    ],
)
def test_gates_look_at_their_metric_whatever_rows_are_ranked_by(gate: str, passed: bool) -> None:
    for metric in ("kl", "sqnr_db"):
        comparison = compare_scans(OLD, NEW, metric=metric)
        assert judge(comparison, parse_gate(gate)).passed == passed


def test_scans_without_it_say_how_to_get_it() -> None:
    with pytest.raises(InputError, match="no sensitivity to compare") as caught:
        compare_scans(
            OLD, costing([0.1, 0.2, 0.3, 0.4]).model_copy(update={"sensitivity": None}), metric="kl"
        )
    assert "`kl" in str(caught.value)
    plainly = compare_scans(made([0.1]), made([0.2]))
    with pytest.raises(InputError, match="nothing to judge"):
        judge(plainly, parse_gate("kl > 0.1"))


def test_it_is_shown_and_written() -> None:
    comparison = compare_scans(OLD, NEW, metric="kl")
    text = plain(comparison_blocks(comparison))
    assert "mnat" in text
    assert "-600" in text
    assert comparison.costs[0].rows[1].metrics["kl"].difference == pytest.approx(-0.6)
