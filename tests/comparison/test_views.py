"""Comparisons by layer, by kind of tensor and by tensor; and metrics without a good direction."""

from __future__ import annotations

import math

import pytest
from made_pairs import scan_of

from srdd.comparison import Comparison, compare_scans, judge, parse_gate
from srdd.documents.comparison import Group
from srdd.documents.scan import Scan
from srdd.errors import UsageError

# Two layers; noise of q falls, of down rises, each by a factor of 2 in its second layer.
OLD = {"attn.q_proj": [[1.0] * 12, [2.0] * 12], "mlp.down_proj": [[1.0] * 12, [1.0] * 12]}
NEW = {"attn.q_proj": [[1.0] * 12, [1.0] * 12], "mlp.down_proj": [[1.0] * 12, [2.0] * 12]}


def compared(by: str, site: str = "input") -> Group:
    return whole(by, site).groups[0]


def whole(by: str, site: str = "input") -> Comparison:
    new = scan_of(NEW, site=site, weights="b" * 64)
    return compare_scans(scan_of(OLD, site=site), new, by=by)


def verdicts(group: Group) -> dict[str, str]:
    return {row.label: row.metrics["sqnr_db"].verdict for row in group.rows}


def test_by_layer_the_two_tensors_cancel() -> None:
    same = "no difference seen"
    assert verdicts(compared("layer")) == {"0": same, "1": same}


def test_by_tensor_each_has_a_row() -> None:
    assert verdicts(compared("tensor")) == {
        "0 attn.q_proj": "no difference seen",
        "0 mlp.down_proj": "no difference seen",
        "1 attn.q_proj": "better",
        "1 mlp.down_proj": "worse",
    }


def test_by_kind_layers_are_added() -> None:
    group = compared("kind")
    assert verdicts(group) == {"q": "better", "down": "worse"}
    (q, _) = group.rows
    assert q.layer is None
    assert q.metrics["sqnr_db"].difference == pytest.approx(10 * math.log10(3 / 2))


@pytest.mark.parametrize("by", ["layer", "kind", "tensor"])
def test_all_together_is_the_same_in_every_view(by: str) -> None:
    overall = compared(by).overall
    assert overall is not None
    assert overall["sqnr_db"] == compared("layer").overall["sqnr_db"]  # type: ignore[index]


def test_tensors_that_share_an_input_are_one_kind() -> None:
    def sharing(scan: Scan) -> Scan:
        records = [
            record.model_copy(update={"shared_with": [record.tensor.replace("q_proj", "k_proj")]})
            for record in scan.records
        ]
        return scan.model_copy(update={"records": records})

    tensors = {"attn.q_proj": OLD["attn.q_proj"]}
    scan = sharing(scan_of(tensors, site="input"))
    (group,) = compare_scans(scan, scan, by="kind").groups
    assert [row.label for row in group.rows] == ["q,k"]


@pytest.mark.parametrize(("by", "labels"), [("tensor", ["0", "1"]), ("kind", ["output"])])
def test_a_site_with_one_tensor_a_layer_has_every_view(by: str, labels: list[str]) -> None:
    scan = scan_of([[1.0] * 12, [2.0] * 12])
    (group,) = compare_scans(scan, scan, by=by).groups
    assert [row.label for row in group.rows] == labels


def test_ranks_are_those_of_the_rows() -> None:
    moved = {move.label: (move.old, move.new) for move in compared("kind").moved_in_rank}
    assert moved == {"q": (1, 2), "down": (2, 1)}


def test_gates_look_at_the_rows() -> None:
    gate = parse_gate("sqnr_db < -0.5")
    assert judge(whole("layer"), gate).passed
    assert [b.label for b in judge(whole("kind"), gate).breaches] == ["down"]
    assert [b.label for b in judge(whole("tensor"), gate).breaches] == ["1 mlp.down_proj"]


def test_an_unknown_view_lists_the_views() -> None:
    scan = scan_of([[1.0] * 12])
    with pytest.raises(UsageError) as caught:
        compare_scans(scan, scan, by="kinds")
    assert caught.value.hint == "choose from: kind, tensor, layer"


def test_flat_rows_hold_every_metric_and_all_together() -> None:
    rows = whole("tensor").rows()
    assert len(rows) == (4 + 1) * 6
    (row,) = [r for r in rows if (r["layer"], r["tensor"]) == (1, "mlp.down_proj")][:1]
    assert row["metric"] == "sqnr_db"
    assert row["difference"] == pytest.approx(row["new"] - row["old"])
    assert row["low"] <= row["difference"] <= row["high"]
    assert rows[-1]["layer"] is None is rows[-1]["tensor"]


def test_a_comparison_in_a_notebook_is_a_line() -> None:
    assert repr(whole("kind")) == (
        "Comparison([Group('input', mxfp4:floor -> mxfp4:floor, rows=2)], by kind, sqnr_db: "
        "1 better, 1 worse)"
    )


def saturated(scan: Scan, count: int) -> Scan:
    """The scan with so many clipped values in each replicate of each record."""
    records = [
        record.model_copy(
            update={
                "replicates": record.replicates.model_copy(
                    update={"saturated": [count] * len(record.replicates.tokens)}
                )
            }
        )
        for record in scan.records
        if record.replicates
    ]
    return scan.model_copy(update={"records": records})


@pytest.mark.parametrize("counts", [(10, 30), (30, 10)])
def test_saturation_changes_and_is_neither_better_nor_worse(counts: tuple[int, int]) -> None:
    scan = scan_of([[1.0] * 12])
    old, new = (saturated(scan, count) for count in counts)
    comparison = compare_scans(old, new)
    one = comparison.groups[0].rows[0].metrics["saturation"]
    assert one.difference == pytest.approx((counts[1] - counts[0]) / 1000)
    assert (one.verdict, one.significant) == ("changed", True)
    gate = parse_gate("saturation > 1%")
    assert judge(comparison, gate).passed == (counts[1] < counts[0])
