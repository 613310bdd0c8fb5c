"""The experiment plan: which runs would show whether noise helps, and whether its place matters.

A run's accuracy over n questions has a binomial standard error sqrt(p (1 - p) / n), where p is the
accuracy. The difference of two runs, each averaged over s seeds, has sqrt(2 / s) times that, and
1.96 times this is what chance alone exceeds once in twenty. The seeds' own scatter comes on top, so
these are the smallest differences that could count, and reaching one is a sign rather than a proof.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from srdd.documents.rin import RinConfig, Tier
from srdd.errors import UsageError

QUESTIONS = 1319
"""As many as the test set of GSM8K has."""

SEEDS = (1, 3, 5)
Z_95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""


def standard_error(accuracy: float, questions: int) -> float:
    """Binomial standard error of an accuracy, a fraction as the accuracy itself.

    Arguments:
        accuracy: in [0, 1].
        questions: how many were asked, at least 1.

    Raises:
        UsageError: the accuracy is no fraction, or nothing was asked.
    """
    if questions < 1:
        raise UsageError(f"{questions} questions", "give the size of the evaluation set")
    if not 0 <= accuracy <= 1:
        raise UsageError(
            f"accuracy {accuracy:g} is no fraction",
            "56.4 % is written 0.564; leave it out if unknown",
        )
    return math.sqrt(accuracy * (1 - accuracy) / questions)


def smallest_difference(accuracy: float, questions: int, seeds: int) -> float:
    """The difference between two means over `seeds` runs that chance exceeds once in twenty.

    Raises:
        UsageError: see `standard_error`.
    """
    return Z_95 * math.sqrt(2 / seeds) * standard_error(accuracy, questions)


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
        UsageError: see `standard_error`.
    """
    first = next(iter(configs.values()))
    source = first.source
    scanned = f"{source.site}, {source.format}:{source.scale_rule}, by {source.metric}"
    lines = [
        "# Experiment plan",
        "",
        f"From a scan of {code(source.model)} ({scanned}); scan `{source.scan[:16]}`.",
        "",
        "These runs are to show whether noise helps, and whether it matters which layers get it.",
        "The scan alone cannot tell.",
        "",
        *_advice(configs),
        *_table(configs, baseline),
        *(f"Left out: {plain(text)}.\n" for text in left_out),
        *_runs(configs, baseline),
        *_success(questions, baseline),
        *_warnings(configs),
    ]
    return "\n".join(lines)


def plain(text: str) -> str:
    """Text from outside as a part of a Markdown sentence: one line, no markup."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|!~&" else c for c in shown)


def code(text: str) -> str:
    """Text from outside as code in a Markdown sentence."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
    return f"`{shown.replace('`', chr(39)).replace('|', '/')}`"


def _advice(configs: Mapping[str, RinConfig]) -> list[str]:
    reasons = list(
        dict.fromkeys(r for config in configs.values() for r in config.recommendation.reasons)
    )
    if not reasons:
        return []
    return [
        "**Recommended: uniform noise first.** Reasons not to choose layers by this scan:",
        "",
        *(f"- {plain(reason)}" for reason in reasons),
        "",
    ]


def _percent(fraction: float | None) -> str:
    return "_to fill in_" if fraction is None else f"{100 * fraction:.2f} %"


def _ids(configs: Mapping[str, RinConfig]) -> list[tuple[str, str, RinConfig]]:
    return [(f"R{n}", name, config) for n, (name, config) in enumerate(configs.items(), 1)]


def _table(configs: Mapping[str, RinConfig], baseline: float | None) -> list[str]:
    rows = [
        f"| {number} | {config.label} | {code(name)} | {len(config.layers)} of "
        f"{config.source.layers} | {config.energy.relative_to_uniform:.3g} | _to fill in_ |"
        for number, name, config in _ids(configs)
    ]
    energies = [config.energy.relative_to_uniform for config in configs.values()]
    unequal = max(energies) > 1.01 * min(energies)
    return [
        "| id | strategy | configuration | noisy layers | noise energy / uniform | accuracy |",
        "|---|---|---|---|---|---|",
        f"| R0 | no noise (baseline) | | 0 of {_layers(configs)} | 0 | {_percent(baseline)} |",
        *rows,
        "",
        *(
            [
                "The noise energies differ, so a difference between runs may come from the amount "
                "of noise rather",
                "than from its place. `--equal-energy` makes them equal.",
                "",
            ]
            if unequal
            else []
        ),
    ]


def _layers(configs: Mapping[str, RinConfig]) -> int:
    return next(iter(configs.values())).source.layers


def _runs(configs: Mapping[str, RinConfig], baseline: float | None) -> list[str]:
    lines = []
    for number, name, config in _ids(configs):
        what = f"{config.control} control of {config.strategy}" if config.control else config.label
        lines += [
            f"## {number}: {what}",
            "",
            f"- **Configuration**: {code(name)}",
            *(line for tier in config.tiers for line in _tier(tier, config.source.layers)),
            *_apart(config),
            f"- **Baseline**: R0 ({_percent(baseline)})",
            f"- **Counts as a sign if**: {_claim(config)}",
            "",
        ]
    return lines


def _apart(config: RinConfig) -> list[str]:
    """A line where tiers need an experiment each: the guide's form holds one schedule a run."""
    shapes = {tier.schedule.sigma_end / tier.schedule.sigma_start for tier in config.tiers}
    if max(shapes) <= min(shapes) * (1 + 1e-9):
        return []
    return [
        "- **Runs**: tiers of different shapes; in the guide's form the file holds one experiment "
        "a tier, and the noise energy above is of all together"
    ]


def _tier(tier: Tier, layers: int) -> list[str]:
    schedule = tier.schedule
    held = sorted(entry.layer for entry in tier.layers)
    which = f"all {layers}" if len(held) == layers else spans(held)
    values = [entry.multiplier for entry in tier.layers]
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    times = (
        "" if low == high == "1.00" else f", times {low}" + (f" to {high}" if high != low else "")
    )
    return [
        f"- **Layers** ({tier.name}): {which}",
        f"- **Noise schedule** ({tier.name}): sigma {schedule.sigma_start:.4g} to "
        f"{schedule.sigma_end:.4g} in {schedule.num_stages} stages, the first clean{times}",
    ]


def spans(layers: Sequence[int]) -> str:
    """Ascending layer indices with runs drawn together: `0-3, 7, 26-27`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def _claim(config: RinConfig) -> str:
    if config.control:
        return (
            f"nothing by itself. If it does as well as {config.strategy}, the choice of layers "
            "does not matter"
        )
    if config.strategy == "uniform":
        return "it beats R0 by more than the difference below"
    return "it beats R0, uniform noise and the controls, each by more than the difference below"


def _success(questions: int, baseline: float | None) -> list[str]:
    accuracy = 0.5 if baseline is None else baseline
    error = standard_error(accuracy, questions)
    at = (
        "an accuracy of 50 %, where it is largest"
        if baseline is None
        else f"{100 * accuracy:.2f} %"
    )
    rows = [
        f"| {seeds} | {100 * smallest_difference(accuracy, questions, seeds):.1f} points |"
        for seeds in SEEDS
    ]
    return [
        "## What would count as success",
        "",
        f"One run on {questions:,} questions has a binomial standard error of "
        f"{100 * error:.1f} points at {at}.",
        "Chance alone exceeds these differences between two means once in twenty:",
        "",
        "| seeds a run | difference |",
        "|---|---|",
        *rows,
        "",
        "Training runs with other seeds scatter on top of that, so use several, compare runs with",
        "the same seeds pairwise, and decide before looking. These are thresholds, not",
        "expectations: no gain is promised for any of these runs.",
        "",
    ]


def _warnings(configs: Mapping[str, RinConfig]) -> list[str]:
    texts = list(dict.fromkeys(w for config in configs.values() for w in config.warnings))
    return ["## Warnings", "", *(f"- {plain(text)}" for text in texts), ""]
