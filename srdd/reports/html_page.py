"""What the page of scans holds, and in which order: the answer, where it hurts, charts, tables.

Several scans lie over each other in the charts by layer and stand one after the other elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan
from srdd.errors import counted
from srdd.noise import CONTROLS
from srdd.noise.figures import KL
from srdd.numerics.sites import SITES
from srdd.reports.answer import answer
from srdd.reports.groups import Group, groups_of
from srdd.reports.guide import noise_group, provenance
from srdd.reports.html import Section, render
from srdd.reports.noise import configurations, metric_for
from srdd.reports.scan_view import (
    heading,
    kind_heat,
    profile,
    scan_table,
    sites_and_formats,
    token_chart,
)
from srdd.reports.sensitivity_view import check_table, cost_chart, cost_table, summary
from srdd.reports.suggestion_view import costs_table, noise_chart
from srdd.reports.verdicts import LEGEND
from srdd.reports.view import Block, Chart, Column, Measure, Series, Table, Text

MOST_MODULES = 50
"""How many modules without figures are named."""

Scans = Sequence[tuple[str, Sequence[Group]]]


def page(scans: Scans) -> str:
    """The page as text.

    Arguments:
        scans: for each scan its name and its groups, at least one of each.

    Raises:
        InputError: several tensors of a layer have no sums.
    """
    models = list(dict.fromkeys(groups[0].scan.model.name for _, groups in scans))
    title = (models[0] or "unnamed") if len(models) == 1 else counted(len(models), "model")
    return render(
        title,
        list(_lead(scans)),
        [
            Section("Distance from the floor by layer and kind", list(_heats(scans))),
            Section("By layer", [*_costs(scans), *_profiles(scans)]),
            Section("SQNR of single tokens", list(_tokens(scans))),
            Section("Noise by strategy", list(_noise(scans))),
            Section("Tables", [block for one in scans for block in _tables(*one, scans)]),
            Section("Source and caveats", [b for one in scans for b in _source(*one, scans)]),
        ],
    )


def charts(scan: Scan) -> list[Chart]:
    """The charts of a scan's page: distance from the floor, cost and SQNR by layer, tokens."""
    scans = [("", groups_of(scan))]
    drawn = [*_heats(scans), *_costs(scans), *_profiles(scans), *_tokens(scans)]
    return [block for block in drawn if isinstance(block, Chart)]


def _lead(scans: Scans) -> Iterator[Text]:
    """The answer of each scan; what all of them end with stands once."""
    answers = [answer(groups) for _, groups in scans]
    last = answers[0][-1]
    common = all(sentences[-1] == last for sentences in answers)
    for (name, groups), sentences in zip(scans, answers, strict=True):
        yield Text(_of(name, scans) + heading(groups[0].scan), "heading")
        yield from (Text(each, "answer") for each in sentences[: -1 if common else None])
    if common:
        yield Text(last, "answer")


def _of(name: str, scans: Scans) -> str:
    """What tells the blocks of one of several scans apart."""
    return f"{name}: " if len(scans) > 1 else ""


def _shown(groups: Sequence[Group]) -> list[Group]:
    """Without the products of which one operand is quantized."""
    return [group for group in groups if group.operands in (None, "both")]


def _main(groups: Sequence[Group]) -> list[Group]:
    """Of these only the first format, which tables and the answer speak of."""
    return [group for group in _shown(groups) if group.spec == groups[0].spec]


def _heats(scans: Scans) -> Iterator[Chart]:
    for name, groups in scans:
        for group in _main(groups) if len(scans) > 1 else _shown(groups):
            chart = kind_heat(group)
            if len(chart.series) > 1 and any(v is not None for s in chart.series for v in s.values):
                yield replace(chart, title=_of(name, scans) + chart.title)


def _profiles(scans: Scans) -> Iterator[Chart]:
    """A chart for each site, with a line for each format of each scan."""
    by_place: dict[str, list[tuple[str, Group]]] = {}
    for name, groups in scans:
        for group in _shown(groups):
            by_place.setdefault(group.place, []).append((_of(name, scans) + group.spec, group))
    order = list(SITES)
    for place in sorted(by_place, key=lambda p: order.index(by_place[p][0][1].site)):
        labels, groups = zip(*by_place[place], strict=True)
        chart = profile(groups, "sqnr_db", labels)
        if any(value is not None for one in chart.series for value in one.values):
            yield replace(chart, title=f"{chart.title}, site {place}")


def _costs(scans: Scans) -> Iterator[Block]:
    """What quantization costs the predictions, in words and by layer, where a scan tells."""
    for name, groups in scans:
        for spec in _costed(groups):
            for sentence in summary(groups[0].scan, spec):
                yield Text(_of(name, scans) + sentence)
    for name, groups in scans:
        for spec in _costed(groups):
            chart = cost_chart(groups[0].scan, spec)
            yield replace(chart, title=_of(name, scans) + chart.title)


def _costed(groups: Sequence[Group]) -> list[str]:
    """The formats of a scan whose cost it tells."""
    sensitivity = groups[0].scan.sensitivity
    known = {change.format for change in sensitivity.changes} if sensitivity else set()
    return [spec for spec in dict.fromkeys(group.spec for group in groups) if spec in known]


def _tokens(scans: Scans) -> Iterator[Chart]:
    for name, groups in scans:
        for group in _main(groups):
            chart = token_chart(group)
            if any(value is not None for one in chart.series for value in one.values):
                yield replace(chart, title=_of(name, scans) + chart.title)


def _tables(name: str, groups: Sequence[Group], scans: Scans) -> Iterator[Block]:
    first = [group for group in groups if group.spec == groups[0].spec]
    tables: list[Table] = []
    for spec in _costed(groups):
        scan = groups[0].scan
        tables += [cost_table(scan, spec, "tensor"), *filter(None, [check_table(scan, spec)])]
    if all(record.replicates is not None for group in first for record in group.tensors):
        tables.append(scan_table(first, "kind"))
    tables.append(scan_table(first))
    if table := sites_and_formats(groups):
        tables.append(table)
    tables.append(replace(scan_table(groups, most=None), details=True))
    for table in tables:
        yield replace(table, title=_of(name, scans) + table.title)
    yield Text(LEGEND, "note")


def _noise(scans: Scans) -> Iterator[Block]:
    """The multipliers of every strategy; the controls are for `srdd suggest` to write."""
    texts: list[Text] = []
    for name, groups in scans:
        group = noise_group(groups)
        configs, failed = configurations(group)
        series = [
            Series(strategy, _multipliers(config))
            for strategy, config in configs.items()
            if strategy not in CONTROLS
        ]
        if series:
            ranked = "costs" if metric_for(group) == KL else f"site {group.place}"
            title = f"sigma over sigma_start, from {ranked}, {group.spec}"
            layers = tuple(range(len(group.scan.model.layers)))
            yield Chart(
                _of(name, scans) + title, "lines", "layer", layers, Measure(digits=3), tuple(series)
            )
            advice = next(iter(configs.values())).recommendation
            text = (
                f"recommended: {advice.strategy}, because {'; '.join(advice.reasons)}."
                if advice.reasons
                else "The layers differ enough for their ranking to matter."
            )
            texts.append(Text(_of(name, scans) + text, "note"))
            if table := costs_table(configs):
                chart = noise_chart(group.scan, group.spec, configs)
                for block in (chart, table):
                    yield replace(block, title=_of(name, scans) + block.title)
        for strategy, error in failed.items():
            reason = f"{strategy}: no configuration, because {error.message}."
            texts.append(Text(_of(name, scans) + reason, "note"))
    yield from texts
    yield Text(
        "`srdd suggest --strategy NAME` writes the configuration. None promises a gain in "
        "accuracy: run it against uniform noise and the controls inverse and shuffled.",
        "note",
    )


def _multipliers(config: RinConfig) -> tuple[float, ...]:
    """Each layer's sigma at the first noisy stage over that of uniform noise; 0 without noise."""
    factors = [0.0] * config.source.layers
    for entry in config.layers:
        factors[entry.layer] = entry.sigma / config.parameters.sigma_start
    return tuple(factors)


def _source(name: str, groups: Sequence[Group], scans: Scans) -> Iterator[Block]:
    scan = groups[0].scan
    yield from (Text(_of(name, scans) + warning, "warning") for warning in scan.warnings)
    columns = (Column("", align="left"), Column("", align="left"))
    yield Table(f"{_of(name, scans)}scan", columns, tuple(provenance(scan)))
    missing = scan.not_measured
    if missing:
        more = len(missing) - MOST_MODULES
        yield Table(
            f"{_of(name, scans)}{counted(len(missing), 'module')} not measured",
            (
                Column("module", align="left", code=True),
                Column("site", align="left"),
                Column("reason", align="left"),
            ),
            tuple((one.module, one.site, one.reason) for one in missing[:MOST_MODULES]),
            (f"and {more:,} more",) if more > 0 else (),
            details=True,
        )
