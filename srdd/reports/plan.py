"""The experiment plan as Markdown: which runs would show whether noise helps, and where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from srdd.documents.rin import RinConfig, Tier
from srdd.noise.experiment import (
    QUESTIONS,
    SEEDS,
    smallest_difference,
    spans,
    standard_error,
)
from srdd.noise.exports.schedules import one_schedule
from srdd.reports.markdown import filled


def plan(
    configs: Mapping[str, RinConfig],
    *,
    questions: int = QUESTIONS,
    baseline: float | None = None,
    left_out: Sequence[str] = (),
) -> str:
    """The plan as Markdown.

    Arguments:
        configs: the configurations by the name of their file; at least one, of one scan.
        questions: size of the evaluation set.
        baseline: accuracy of the run without noise, a fraction; None if it is still unknown.
        left_out: what there is no configuration for, each with the reason.

    Raises:
        UsageError: see `srdd.noise.experiment.standard_error`.
    """
    accuracy = 0.5 if baseline is None else baseline
    percent = f"{100 * accuracy:.2f} %"
    energies = [config.energy.relative_to_uniform for config in configs.values()]
    known = baseline is not None
    text = filled(
        "plan.md",
        source=next(iter(configs.values())).source,
        reasons=_each_once(config.recommendation.reasons for config in configs.values()),
        runs=[_run(n, name, each) for n, (name, each) in enumerate(configs.items(), 1)],
        unequal=max(energies) > 1.01 * min(energies),
        left_out=left_out,
        questions=questions,
        error=standard_error(accuracy, questions),
        baseline=percent if known else "_to fill in_",
        at=percent if known else "an accuracy of 50 %, where it is largest",
        differences={seeds: smallest_difference(accuracy, questions, seeds) for seeds in SEEDS},
        warnings=_each_once(config.warnings for config in configs.values()),
    )
    return text.rstrip() + "\n"


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
