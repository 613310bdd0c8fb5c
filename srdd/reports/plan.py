"""The experiment plan as Markdown: which runs would show whether noise helps, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from srdd.documents.rin import RinConfig, Tier
from srdd.documents.scan import Scan
from srdd.noise.experiment import (
    ALIKE,
    QUESTIONS,
    SEEDS,
    Difference,
    difference,
    most_moved,
    questions_for,
    smallest_difference,
    spans,
    standard_error,
)
from srdd.noise.exports.schedules import one_schedule
from srdd.reports.markdown import filled
from srdd.reports.suggestion_view import costs_table, stages_table
from srdd.reports.view import Column, Estimate, Field, Measure, Table, Word, tabulate

GAPS = (0.01, 0.02, 0.05)
"""Differences between accuracies that the plan says the number of questions for."""

TOKENS = 100
"""Length of an answer for which the plan says what its noise can move at most."""

_Pair = tuple[tuple[str, str], Difference]
_PERCENT = Measure("%", scale=100.0, digits=0)


def plan(
    configs: Mapping[str, RinConfig],
    *,
    scan: Scan | None = None,
    questions: int = QUESTIONS,
    baseline: float | None = None,
    left_out: Sequence[str] = (),
) -> str:
    """The plan as Markdown.

    Arguments:
        configs: the configurations by the name of their file; at least one, of one scan.
        scan: the one they were made from, for how far they differ in effect; only where it says
            what the noise of all of them costs.
        questions: size of the evaluation set.
        baseline: accuracy of the run without noise, a fraction; None if it is still unknown.
        left_out: what there is no configuration for, each with the reason.

    Raises:
        UsageError: see `srdd.noise.experiment.standard_error`.
    """
    accuracy = 0.5 if baseline is None else baseline
    percent = f"{100 * accuracy:.2f} %"
    costs = {name: each.kl for name, each in configs.items() if each.kl is not None}
    costed = scan is not None and len(costs) == len(configs)
    amounts = [
        kl.mean if costed and (kl := config.kl) else config.energy.relative_to_uniform
        for config in configs.values()
    ]
    known = baseline is not None
    ids = {name: f"R{number}" for number, name in enumerate(configs, 1)}
    pairs = _pairs(configs, scan) if costed and scan is not None else {}
    smallest = smallest_difference(accuracy, questions, max(SEEDS))
    text = filled(
        "plan.md",
        source=next(iter(configs.values())).source,
        reasons=_each_once(config.recommendation.reasons for config in configs.values()),
        runs=[_run(n, name, each) for n, (name, each) in enumerate(configs.items(), 1)],
        unequal=max(amounts) > 1.01 * min(amounts),
        costs=costs if costed else {},
        ids=ids,
        costs_table=costs_table({f"{ids[n]} {c.label}": c for n, c in configs.items()})
        if costed
        else None,
        stages_table=stages_table({f"{ids[n]} {c.label}": c for n, c in configs.items()})
        if costed
        else None,
        pairs=_pairs_table(pairs, ids) if pairs else None,
        alike=[f"{ids[a]} and {ids[b]}" for (a, b), each in pairs.items() if not each.told_apart],
        weak=[
            (ids[name], moved)
            for name, kl in costs.items()
            if costed and (moved := most_moved(kl.first, TOKENS)) < smallest
        ],
        tokens=TOKENS,
        most_seeds=max(SEEDS),
        smallest=smallest,
        needed={
            gap: [questions_for(gap, min(max(accuracy, 0.01), 0.99), seeds) for seeds in SEEDS]
            for gap in GAPS
        },
        seeds=SEEDS,
        left_out=left_out,
        questions=questions,
        error=standard_error(accuracy, questions),
        baseline=percent if known else "_to fill in_",
        at=percent if known else "an accuracy of 50 %, where it is largest",
        differences={seeds: smallest_difference(accuracy, questions, seeds) for seeds in SEEDS},
        warnings=_warnings(configs, ids),
    )
    return text.rstrip() + "\n"


def _pairs(configs: Mapping[str, RinConfig], scan: Scan) -> dict[tuple[str, str], Difference]:
    """How far each run differs from uniform noise, and each control from its strategy."""
    uniform = next((n for n, c in configs.items() if c.label == "uniform"), None)
    pairs = {}
    for name, config in configs.items():
        if uniform is not None and name != uniform:
            pairs[name, uniform] = difference(scan, config, configs[uniform])
    for name, config in configs.items():
        for other, strategy in configs.items():
            if config.control and not strategy.control and strategy.strategy == config.strategy:
                pairs[name, other] = difference(scan, config, strategy)
    return pairs


def _pairs_table(pairs: Mapping[tuple[str, str], Difference], ids: Mapping[str, str]) -> Table:
    fields = [
        Field[_Pair](
            Column("runs", align="left"), lambda row: f"{ids[row[0][0]]} against {ids[row[0][1]]}"
        ),
        Field[_Pair](
            Column("difference of mean KL", Measure("mnat", 1000.0, 2, signed=True)),
            lambda row: Estimate(row[1].kl, row[1].interval),
        ),
        Field[_Pair](
            Column("amount", Measure("%", scale=100.0, digits=0, signed=True)),
            lambda row: row[1].relative,
        ),
        Field[_Pair](Column("in other layers", _PERCENT), lambda row: row[1].elsewhere),
        Field[_Pair](Column("prompts to see it", Measure(digits=0)), lambda row: row[1].prompts),
        Field[_Pair](Column("verdict", align="left"), lambda row: _verdict(row[1])),
    ]
    return tabulate("How far the runs differ in effect on the policy", fields, list(pairs.items()))


def _verdict(each: Difference) -> Word:
    if not each.told_apart:
        return Word("cannot be told apart", "warning")
    amount = each.relative >= ALIKE or each.relative <= -ALIKE
    if amount and each.elsewhere >= ALIKE:
        return Word("amount and place")
    return Word("amount" if amount else "place")


def _warnings(configs: Mapping[str, RinConfig], ids: Mapping[str, str]) -> list[str]:
    """The warnings of all runs, those that not all of them have with the runs that do."""
    runs: dict[str, list[str]] = {}
    for name, config in configs.items():
        for text in config.warnings:
            runs.setdefault(text, []).append(ids[name])
    return [
        text if len(own) == len(configs) else f"{', '.join(own)}: {text}"
        for text, own in runs.items()
    ]


def _each_once(lists: Any) -> list[str]:
    return list(dict.fromkeys(text for texts in lists for text in texts))


def _run(number: int, name: str, config: RinConfig) -> dict[str, Any]:
    control = f"{config.control} control of {config.strategy}"
    return {
        "id": f"R{number}",
        "name": name,
        "config": config,
        "title": control if config.control else config.label,
        "layers": [_layers(tier, config.source.layers) for tier in config.tiers],
        "multipliers": [_multipliers(tier) for tier in config.tiers],
        "several": one_schedule(config) is None,
    }


def _layers(tier: Tier, layers: int) -> str:
    noisy = sorted(entry.layer for entry in tier.layers)
    return f"all {layers}" if len(noisy) == layers else spans(noisy)


def _multipliers(tier: Tier) -> str:
    values = [entry.multiplier for entry in tier.layers]
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    if low == high:
        return "" if low == "1.00" else f", times {low}"
    return f", times {low} to {high}"
