"""A comparison as plain data, for JSON, and as rows, for a spreadsheet: all metrics, all digits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from srdd.comparison import Comparison, Difference, Group, Outcome, Side
from srdd.documents.comparison import Comparison as Document
from srdd.reports.delimited import written


def compare_data(comparison: Comparison, outcomes: Sequence[Outcome] = ()) -> Document:
    """Everything about a comparison; fractions are fractions, and what is undefined is None.

    Arguments:
        outcomes: what became of the gates.
    """
    content = {
        "old": _side(comparison.old),
        "new": _side(comparison.new),
        "remarks": [asdict(remark) for remark in comparison.remarks],
        "left_out": list(comparison.left_out),
        "ranked_by": comparison.metric,
        "by": comparison.by,
        "groups": [_group(group) for group in comparison.groups],
        "gates": [_outcome(one) for one in outcomes],
    }
    return Document.model_validate(content)


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


def _difference(one: Difference) -> dict[str, Any]:
    return {
        "old": one.old,
        "new": one.new,
        "difference": one.difference,
        "interval": one.interval,
        "new_interval": one.new_interval,
        "exact": one.exact,
        "verdict": one.verdict,
    }


def _metrics(differences: dict[str, Difference]) -> dict[str, Any]:
    return {name: _difference(one) for name, one in differences.items()}


def _group(group: Group) -> dict[str, Any]:
    matched = group.matched
    return {
        "site": matched.site,
        "operands": matched.operands,
        "old_format": matched.old_format,
        "new_format": matched.new_format,
        "intervals": group.basis,
        "overall": None if group.overall is None else _metrics(group.overall),
        "rows": [{**asdict(row.place), "metrics": _metrics(row.differences)} for row in group.rows],
        "moved_in_rank": [
            {
                **asdict(move.place),
                "old": move.old,
                "new": move.new,
                "significant": move.significant,
            }
            for move in group.moves
        ],
        "kendall_tau": group.tau,
    }


def _outcome(one: Outcome) -> dict[str, Any]:
    return {
        "gate": one.gate.text,
        "passed": one.passed,
        "breaches": [
            {
                "site": breach.group.matched.site,
                "operands": breach.group.matched.operands,
                "old_format": breach.group.matched.old_format,
                "new_format": breach.group.matched.new_format,
                **asdict(breach.place),
                "value": breach.value,
            }
            for breach in one.breaches
        ],
        "unsure": one.unsure,
        "looked_at": one.looked_at,
        "unknown": one.unknown,
    }


def compare_csv(comparison: Comparison) -> str:
    """A line for each metric of each row, and of all together (`all`); empty where undefined."""

    def labelled(row: dict[str, Any]) -> dict[str, Any]:
        together = row["layer"] is None and row["tensor"] is None
        return row | {"layer": "all"} if together else row

    return written(list(map(labelled, comparison.rows())), "csv")
