"""A scan's sensitivity as blocks: what quantization costs the predictions, and where.

Figures are thousandths of a nat a token (mnat). Tensors are listed the costliest first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srdd.documents.scan import Record, Scan
from srdd.documents.sensitivity import Checked
from srdd.documents.sensitivity_figures import BY, joint_of, rows_of, verdict
from srdd.model.kinds import ORDER
from srdd.numerics.confidence import kendall_tau, kendall_tau_interval, leave_one_out
from srdd.numerics.metrics import METRICS
from srdd.numerics.sites import OPERANDS
from srdd.numerics.sums import FIELDS, from_lists
from srdd.reports.rows import operand_label
from srdd.reports.view import (
    Block,
    Cell,
    Chart,
    Column,
    Estimate,
    Field,
    Measure,
    Series,
    Table,
    Text,
    tabulate,
)

KL = Measure.of("kl")
SHARE = Measure("%", scale=100.0, digits=1)
RATIO = Measure(digits=2)
MOST_ROWS = 20

LOCAL = (
    "Errors of single tensors do not tell what the predictions lose; "
    "`srdd scan --kl` estimates that for every linear."
)


def sensitivity_blocks(
    scan: Scan,
    by: str = "tensor",
    *,
    everything: bool = False,
    formats: Collection[str] | None = None,
) -> list[Block]:
    """What a terminal shows of the sensitivity; a note where the scan has none.

    Arguments:
        by: `tensor`, `layer` or `kind`.
        everything: every row, in the model's order.
        formats: only these, such as `mxfp4:floor`; all of the scan for None.
    """
    if scan.sensitivity is None:
        return [Text(LOCAL, "note")]
    blocks: list[Block] = []
    for spec in _formats(scan):
        if formats is not None and spec not in formats:
            continue
        blocks += [Text(sentence, "answer") for sentence in summary(scan, spec)]
        blocks.append(cost_table(scan, spec, by if by in BY else "tensor", everything=everything))
        if table := check_table(scan, spec):
            blocks.append(table)
    return blocks


def summary(scan: Scan, spec: str) -> list[str]:
    """What all linears cost, whether the estimate holds, and how local errors rank beside it."""
    assert scan.sensitivity is not None
    joint = joint_of(scan.sensitivity, spec)
    label = operand_label(spec, "both")
    whole = Column("", KL).text(Estimate(joint["predicted"], joint["predicted_interval"]))
    sentence = f"{label} in {spec} costs {whole} mnat (thousandths of a nat a token)"
    if joint["measured"] is not None:
        measured = Estimate(joint["measured"], joint["measured_interval"])
        sentence += (
            f" as the sum over its tensors; measured at once: {Column('', KL).text(measured)}"
        )
    sentences = [f"{sentence}."]
    if scan.sensitivity.method == "estimate":
        words = verdict(scan.sensitivity, spec)[1]
        sentences.append(f"{words[0].upper()}{words[1:]}.")
    taus = local_agreement(scan, spec)
    if taus:
        column = Column("", Measure(digits=2))
        listed = ", ".join(f"{METRICS[name].title} {column.text(t)}" for name, t in taus.items())
        sentences.append(
            f"Kendall's tau of this cost with local figures of the same tensors: {listed}."
        )
    return sentences


def cost_table(scan: Scan, spec: str, by: str, *, everything: bool = False) -> Table:
    """What each tensor, layer or kind costs, the costliest first."""
    assert scan.sensitivity is not None
    measured = {c.operands for c in scan.sensitivity.changes if c.format == spec}
    rows = rows_of(scan.sensitivity, spec, "both", by)
    others = {
        operands: {_place(row): row for row in rows_of(scan.sensitivity, spec, operands, by)}
        for operands in OPERANDS
        if operands != "both" and operands in measured
    }
    shown = rows if everything else sorted(rows, key=lambda row: -row["kl"])[:MOST_ROWS]
    some = f"Costliest {len(shown)} of {len(rows)} {by}s" if len(shown) < len(rows) else f"{by}s"
    fields = [
        Field[dict[str, Any]](Column("layer"), lambda row: row["layer"]),
        Field[dict[str, Any]](Column("tensor", align="left"), lambda row: row["kind"]),
        Field[dict[str, Any]](
            Column(f"KL {operand_label(spec, 'both')}", KL),
            lambda row: Estimate(row["kl"], row["kl_interval"]),
        ),
        Field[dict[str, Any]](Column("share", SHARE), lambda row: row["share"]),
        *(_other(operand_label(spec, operands), found) for operands, found in others.items()),
        Field[dict[str, Any]](
            Column("module", align="left", priority=9, code=True), lambda row: row["tensor"]
        ),
    ]
    title = f"{some[0].upper()}{some[1:]} by what quantizing them costs, {spec}"
    return tabulate(title, fields, shown)


def check_table(scan: Scan, spec: str) -> Table | None:
    """Estimates beside what was measured directly; None where nothing was."""
    assert scan.sensitivity is not None
    checks = [check for check in scan.sensitivity.checks if check.format == spec]
    if not checks:
        return None
    fields = [
        Field[Checked](
            Column("tensor", align="left", code=True), lambda check: check.tensor or "all linears"
        ),
        Field[Checked](Column("estimate", KL), lambda check: check.estimate),
        Field[Checked](Column("measured", KL), lambda check: Estimate(check.value, check.interval)),
        Field[Checked](
            Column("ratio", RATIO), lambda check: Estimate(check.ratio, check.ratio_interval)
        ),
    ]
    ordered = sorted(checks, key=lambda check: (check.tensor is None, -check.value))
    return tabulate(f"Estimates checked by direct measurement, {spec}", fields, ordered)


def cost_chart(scan: Scan, spec: str) -> Chart:
    """What each layer costs, stacked by kind of tensor."""
    assert scan.sensitivity is not None
    cells: dict[str, dict[int, float]] = {}
    for row in rows_of(scan.sensitivity, spec):
        by_layer = cells.setdefault(row["kind"], {})
        by_layer[row["layer"]] = by_layer.get(row["layer"], 0.0) + row["kl"]
    layers = tuple(range(len(scan.model.layers)))
    known = [kind for kind in ORDER if kind in cells]
    series = tuple(
        Series(kind, tuple(cells[kind].get(layer, 0.0) for layer in layers))
        for kind in [*known, *(kind for kind in cells if kind not in known)]
    )
    title = f"What quantizing each layer's linears costs, {operand_label(spec, 'both')} in {spec}"
    return Chart(title, "bars", "layer", layers, KL, series)


def local_agreement(scan: Scan, spec: str) -> dict[str, Estimate]:
    """Kendall's tau of what tensors cost with local metrics, 1 where both call the same bad.

    At site `linear` where the scan has it, else `input`; of metrics that say how large an error is.
    The 95 % intervals are over groups of prompts, which are left out of both in turn.
    """
    assert scan.sensitivity is not None
    site = next((site for site in ("linear", "input") if site in scan.settings.sites), None)
    if site is None:
        return {}
    records = {
        name: record
        for record in scan.select(site, spec)
        for name in (record.tensor, *record.shared_with)
    }
    changes = [
        change
        for change in scan.sensitivity.changes
        if (change.format, change.operands) == (spec, "both") and change.tensor in records
    ]
    if len(changes) < 3:
        return {}
    local = [records[change.tensor] for change in changes]
    costs = np.array([change.value for change in changes])
    used = np.array(scan.sensitivity.tokens) > 0
    # All tensors have the same tokens, so that sums rank as means do.
    costs_without = leave_one_out(np.array([change.nats for change in changes]).T[used])
    sums = _sums_by_group(local, len(used))
    without = None if sums is None else leave_one_out(sums[used])
    taus = {}
    for metric in METRICS.values():
        values = [getattr(record.metrics, metric.name) for record in local]
        if metric.higher_is_better is None or None in values:
            continue
        scores = -metric.sign * np.array(values)
        tau = kendall_tau(costs, scores)
        interval = None
        if without is not None:
            others = -metric.sign * metric.compute(without)
            interval = kendall_tau_interval(costs, scores, costs_without, others)
        if tau == tau:
            taus[metric.name] = Estimate(tau, interval)
    return taus


def _sums_by_group(records: Sequence[Record], groups: int) -> NDArray[np.float64] | None:
    """Sums (groups, records, fields); None where they are not kept, or of other groups."""
    stacked = np.zeros((groups, len(records), len(FIELDS)))
    for place, record in enumerate(records):
        if record.replicates is None:
            return None
        own = from_lists(vars(record.replicates))
        if len(own) > groups:
            return None
        stacked[: len(own), place] = own
    return stacked


def _formats(scan: Scan) -> list[str]:
    assert scan.sensitivity is not None
    return list(dict.fromkeys(change.format for change in scan.sensitivity.changes))


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return row["layer"], row["kind"], row["tensor"]


def _other(title: str, found: Mapping[tuple[Any, ...], Mapping[str, Any]]) -> Field[dict[str, Any]]:
    def cell(row: dict[str, Any]) -> Cell:
        other = found.get(_place(row))
        return None if other is None else other["kl"]

    return Field(Column(title, KL, priority=3), cell)
