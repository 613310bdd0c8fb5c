"""A comparison as its document, and as rows for a spreadsheet: all metrics, all digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from srdd.comparison import Comparison, Difference, Group, Outcome, Side
from srdd.documents.comparison import Comparison as Document
from srdd.reports.delimited import written

_FORMATS = ("site", "operands", "old_format", "new_format")


def compare_data(comparison: Comparison, outcomes: Sequence[Outcome] = ()) -> Document:
    """Everything about a comparison; fractions are fractions, and what is undefined is None.

    Arguments:
        outcomes: of the gates.
    """
    return Document.model_validate(
        {
            "old": _side(comparison.old),
            "new": _side(comparison.new),
            "remarks": [asdict(remark) for remark in comparison.remarks],
            "left_out": list(comparison.left_out),
            "ranked_by": comparison.metric,
            "by": comparison.by,
            "groups": [_group(group) for group in comparison.groups],
            "gates": [_outcome(one) for one in outcomes],
        }
    )


def _side(side: Side) -> dict[str, Any]:
    model, text = side.scan.model, side.scan.calibration
    return {
        "source": side.source,
        "model": model.name,
        "revision": model.revision,
        "fingerprint": model.fingerprint,
        "calibration_fingerprint": text.fingerprint,
        "prompts": text.prompts,
        "tokens": text.tokens,
    }


def _place(group: Group) -> dict[str, Any]:
    return {name: getattr(group.matched, name) for name in _FORMATS}


def _metrics(differences: Mapping[str, Difference]) -> dict[str, Any]:
    return {
        name: {key: value for key, value in asdict(one).items() if key != "metric"}
        for name, one in differences.items()
    }


def _group(group: Group) -> dict[str, Any]:
    return {
        **_place(group),
        "intervals": group.basis,
        "overall": None if group.overall is None else _metrics(group.overall),
        "rows": [{**asdict(row.place), "metrics": _metrics(row.differences)} for row in group.rows],
        "moved_in_rank": [_flat(asdict(move)) for move in group.moves],
        "kendall_tau": group.tau,
    }


def _outcome(one: Outcome) -> dict[str, Any]:
    breaches = [
        {**_place(each.group), **asdict(each.place), "value": each.value} for each in one.breaches
    ]
    counts = {name: getattr(one, name) for name in ("unsure", "looked_at", "unknown")}
    return {"gate": one.gate.text, "passed": one.passed, "breaches": breaches, **counts}


def _flat(move: dict[str, Any]) -> dict[str, Any]:
    return {**move.pop("place"), **move}


def compare_csv(comparison: Comparison) -> str:
    """A line for each metric of each row, and of all together (`all`); empty where undefined."""

    def labelled(row: dict[str, Any]) -> dict[str, Any]:
        together = row["layer"] is None and row["tensor"] is None
        return row | {"layer": "all"} if together else row

    return written(list(map(labelled, comparison.rows())), "csv")
