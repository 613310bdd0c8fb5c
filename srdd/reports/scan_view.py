"""A scan as blocks: the answer, its worst tensors, sites and formats beside each other, charts.

Every column of a scan's tables is one entry of `fields_of`. A figure that stands in no record, but
elsewhere in the document, is one more `Field` there, whose cell looks it up for a row's group,
layer and members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from srdd.documents.scan import Operands, Scan
from srdd.errors import counted
from srdd.noise.zones import zone_of
from srdd.numerics.metrics import METRICS, Metric
from srdd.numerics.sites import OPERANDS
from srdd.reports.answer import answer
from srdd.reports.groups import Group
from srdd.reports.rows import Row, kinds, operand_label, rows_of, whole, worst_first
from srdd.reports.sensitivity_view import sensitivity_blocks
from srdd.reports.verdicts import BAD_DB, LEGEND
from srdd.reports.view import (
    INDEX,
    Block,
    Cell,
    Chart,
    Column,
    Field,
    Measure,
    Series,
    Table,
    Text,
    tabulate,
)

MOST_ROWS = 20
MOST_MISSING = 5
MORE = (
    "`srdd report` shows more: --all every row, --by kind or layer the tensors pooled, --site and "
    "--format others, --as markdown or html the whole."
)
ALIKE_DB = 1.0
"""Two errors whose energies differ by less count as alike."""

QUANTILES = {"p5": "5th percentile", "p50": "median", "p95": "95th percentile"}
"""Quantiles of the SQNR of single tokens, as charts call them."""

DISTANCE = Measure("dB", digits=1, signed=True)
_DECIBELS = Measure.of("sqnr_db")


# Columns


def _left(
    title: str, priority: int, cell: Callable[[Row], Cell], *, code: bool = False
) -> Field[Row]:
    return Field(Column(title, align="left", priority=priority, code=code), cell)


def _metric(metric: Metric) -> Field[Row]:
    column = Column(metric.label, Measure.of(metric), priority=metric.priority)
    return Field(column, lambda row: row.estimate(metric.name))


def _token(quantile: str) -> Field[Row]:
    def cell(row: Row) -> Cell:
        value: float | None = getattr(row.record.token_sqnr_db, quantile, None)
        return value

    return Field(Column(quantile, _DECIBELS, priority=7), cell)


def _operand(spec: str, which: Operands) -> Field[Row]:
    def cell(row: Row) -> Cell:
        other = row.operands.get(which)
        return None if other is None else other.metrics.sqnr_db

    return Field(Column(operand_label(spec, which), _DECIBELS, priority=3), cell)


def fields_of(rows: Sequence[Row]) -> list[Field[Row]]:
    """Every column that these rows can fill; `tabulate` drops those that are empty."""
    places = {(row.group.site, row.group.spec) for row in rows}
    several_sites = len({site for site, _ in places}) > 1
    several_specs = len({spec for _, spec in places}) > 1
    spec = next((spec for _, spec in places), "")
    pooled = any(len(row.members) > 1 for row in rows)
    quantized = (
        [_operand(spec, "weight"), _operand(spec, "input")] if not several_specs and rows else []
    )
    first, *others = [_metric(metric) for metric in METRICS.values()]
    return [
        _left("site", 0, lambda row: row.group.site if several_sites else None),
        _left("format", 0, lambda row: row.group.spec if several_specs else None, code=True),
        Field(Column("layer", INDEX), lambda row: row.layer),
        _left("zone", 8, _zone),
        _left("tensor", 0, lambda row: row.kind),
        Field(Column("tensors", priority=6), lambda row: len(row.members) if pooled else None),
        first,
        Field(Column("vs floor", DISTANCE), lambda row: row.record.vs_floor_db),
        *map(_token, QUANTILES),
        *others,
        *quantized,
        Field(Column("vs sum", DISTANCE, priority=6), beyond_sum),
        _left("more from", 5, dominant),
        Field(
            Column("worst", DISTANCE, priority=2),
            lambda row: row.lowest.vs_floor_db if row.lowest else None,
        ),
        _left("in", 2, _where),
        _left("verdict", 1, lambda row: row.verdict),
        _left("module", 9, _module, code=True),
    ]


def _zone(row: Row) -> Cell:
    return None if row.layer is None else zone_of(row.group.zones, row.layer).name


def _module(row: Row) -> Cell:
    return row.record.tensor if len(row.members) == 1 and row.kind is not None else None


def _where(row: Row) -> Cell:
    """Which of a row's members is the worst."""
    if row.lowest is None:
        return None
    layer = None if row.layer is not None else f"layer {row.lowest.layer}"
    kind = None if row.kind is not None else kinds(row.lowest)
    return " ".join(part for part in (kind, layer) if part) or None


def beyond_sum(row: Row) -> float | None:
    """The SQNR with both operands quantized, minus that of errors whose energies add, dB."""
    weight, given, both = (
        None
        if record is None or record.metrics.sqnr_db is None
        else 10 ** (-record.metrics.sqnr_db / 10)
        for record in (row.operands.get("weight"), row.operands.get("input"), row.record)
    )
    if weight is None or given is None or both is None:
        return None
    return 10 * math.log10((weight + given) / both)


def dominant(row: Row) -> str | None:
    """`weight` or `input`, whose error has more energy, or `alike`."""
    weight, given = (
        None if which not in row.operands else row.operands[which].metrics.sqnr_db
        for which in OPERANDS[:2]
    )
    if weight is None or given is None:
        return None
    if abs(weight - given) < ALIKE_DB:
        return "alike"
    return "weight" if weight < given else "input"


# Tables


def heading(scan: Scan, groups: Sequence[Group] = ()) -> str:
    """What was scanned, on one line."""
    model, text = scan.model, scan.calibration
    facts = [model.name if len(model.name) <= 60 else f"…{model.name[-59:]}"]
    facts += [value for value in (model.architecture, model.dtype) if value]
    facts.append(counted(len(model.layers), "layer"))
    if text.prompts is not None and text.tokens is not None:
        facts.append(amount(text.prompts, text.tokens, of_rollouts=text.rollouts is not None))
    if scan.settings.rounding != "even":
        facts.append(f"rounding {scan.settings.rounding}")
    return " | ".join(facts)


def amount(prompts: int, tokens: int, *, of_rollouts: bool) -> str:
    """On how much text figures are, in words."""
    if of_rollouts:
        return f"{counted(prompts, 'rollout')}, {counted(tokens, 'response token')}"
    return f"{counted(prompts, 'prompt')}, {counted(tokens, 'token')}"


def scan_table(
    groups: Sequence[Group],
    by: str = "tensor",
    most: int | None = MOST_ROWS,
    *,
    details: bool = False,
) -> Table:
    """The rows of some groups of one scan, the worst first; in the model's order for no `most`."""
    rows = rows_of(groups, by)
    shown = rows if most is None else worst_first(rows)[:most]
    outputs = by == "tensor" and all(row.kind is None for row in rows)
    what = {"kind": "kinds of tensors"}.get(by, "layers" if outputs else f"{by}s")
    specs = ", ".join(dict.fromkeys(group.spec for group in groups))
    sites = ", ".join(dict.fromkeys(group.site for group in groups))
    some = f"Worst {len(shown)} of {len(rows):,} {what}"
    every = f"All {what}{', worst first' if most is not None else ''}"
    title = f"{some if len(shown) < len(rows) else every}, {specs}, site {sites}"
    return tabulate(title, fields_of(shown), shown, undefined(groups), details=details)


def undefined(groups: Sequence[Group]) -> list[str]:
    """A sentence for the metrics that are defined nowhere in these groups, with the reason."""
    records = [record for group in groups for record in group.tensors]
    by_reason: dict[str, list[str]] = {}
    for metric in METRICS.values():
        if records and all(getattr(r.metrics, metric.name) is None for r in records):
            reasons = [r.undefined[metric.name] for r in records if metric.name in r.undefined]
            reason = reasons[0] if reasons else "the scan does not say why"
            by_reason.setdefault(reason, []).append(metric.title)
    return [f"undefined: {', '.join(names)} ({reason})" for reason, names in by_reason.items()]


def sites_and_formats(groups: Sequence[Group]) -> Table | None:
    """A row for each site in each format, all tensors as one; None for a single one or no sums."""
    members = [group for group in groups if group.operands in (None, "both")]
    if len(members) < 2 or any(r.replicates is None for g in members for r in g.tensors):
        return None
    rows = [whole(group) for group in members]
    wanted = {
        "site",
        "format",
        "tensors",
        METRICS["sqnr_db"].label,
        "vs floor",
        "worst",
        "in",
        "verdict",
    }
    fields = [each for each in fields_of(rows) if each.column.title in wanted]
    return tabulate("Sites and formats, all tensors pooled", fields, rows)


def scan_blocks(
    groups: Sequence[Group], by: str = "tensor", *, everything: bool = False
) -> list[Block]:
    """What a terminal shows of one scan.

    Arguments:
        groups: what to show, at least one; the first format is the one whose rows are listed.
        by: what a row is, of srdd.reports.rows.VIEWS.
        everything: every row of every site and format, in the model's order.
    """
    scan, spec = groups[0].scan, groups[0].spec
    blocks: list[Block] = [Text(heading(scan), "heading")]
    blocks += [Text(sentence, "answer") for sentence in answer(groups)]
    if everything:
        for group in groups:
            if group.operands in (None, "both"):
                own = [g for g in groups if (g.site, g.spec) == (group.site, group.spec)]
                blocks.append(scan_table(own, by, None))
    else:
        blocks.append(scan_table([group for group in groups if group.spec == spec], by))
    if table := sites_and_formats(groups):
        blocks.append(table)
    if scan.sensitivity is not None:
        formats = {group.spec for group in groups}
        blocks += sensitivity_blocks(scan, by, everything=everything, formats=formats)
    if not everything:
        blocks.append(Text(MORE, "note"))
    blocks.append(Text(LEGEND, "note"))
    blocks += _missing(scan, None if everything else MOST_MISSING)
    blocks += [Text(warning, "warning") for warning in scan.warnings]
    return blocks


def _missing(scan: Scan, most: int | None) -> Iterable[Text]:
    for one in scan.not_measured[:most]:
        where = f" (site {one.site})" if one.site else ""
        yield Text(f"not measured: {one.module}{where}: {one.reason}", "note")
    if most is not None and len(scan.not_measured) > most:
        yield Text(f"not measured: {counted(len(scan.not_measured) - most, 'more module')}", "note")


# Charts


def profile(groups: Sequence[Group], metric: str, labels: Sequence[str] = ()) -> Chart:
    """A metric by layer, the tensors of a layer as one, a line for each group.

    Arguments:
        labels: of the lines; the groups' formats if left out.
    """
    layers = sorted({record.layer for group in groups for record in group.layers})
    series, references = [], {}
    for group, label in zip(groups, labels or [group.spec for group in groups], strict=True):
        of = {record.layer: record for record in group.layers}
        values = [getattr(of[n].metrics, metric) if n in of else None for n in layers]
        ends = [getattr(of[n].intervals, metric, None) if n in of else None for n in layers]
        series.append(Series(label, tuple(values), tuple(ends)))
        if (floor := group.floor.get(metric)) is not None:
            references[f"Gaussian floor of {group.spec}"] = floor
    title = METRICS[metric].title
    measure = Measure.of(metric)
    return Chart(
        title, "lines", "layer", tuple(layers), measure, tuple(series), tuple(references.items())
    )


def kind_heat(group: Group) -> Chart:
    """Distance from the floor by layer and kind of tensor: where in the model it hurts."""
    layers = sorted({record.layer for record in group.tensors})
    by_kind: dict[str, dict[int, float | None]] = {}
    for row in rows_of([group], "tensor"):
        cells = by_kind.setdefault(row.kind or "output", {})
        known = [
            v for v in (cells.get(row.members[0].layer), row.record.vs_floor_db) if v is not None
        ]
        cells[row.members[0].layer] = min(known, default=None)  # of several experts the worst
    series = tuple(
        Series(kind, tuple(cells.get(layer) for layer in layers)) for kind, cells in by_kind.items()
    )
    title = f"SQNR vs floor, site {group.place}, {group.spec}"
    return Chart(title, "heat", "layer", tuple(layers), DISTANCE, series, full=2 * BAD_DB)


def token_chart(group: Group) -> Chart:
    """Quantiles of the SQNR of single tokens by layer."""
    layers = [record.layer for record in group.layers]
    series = tuple(
        Series(
            label,
            tuple(getattr(record.token_sqnr_db, name, None) for record in group.layers),
        )
        for name, label in QUANTILES.items()
    )
    title = f"SQNR of single tokens, site {group.place}, {group.spec}"
    return Chart(title, "lines", "layer", tuple(layers), _DECIBELS, series)
