"""The noise of every stage, measured, beside what a scan predicts: a table, and what it says."""

from __future__ import annotations

from dataclasses import replace

from srdd.documents.evaluation import NoiseStage, NoiseStages
from srdd.errors import counted
from srdd.reports.sensitivity_view import KL, RATIO, SHARE
from srdd.reports.view import INDEX, Block, Column, Estimate, Field, Measure, Text, tabulate

SIGMA = Measure(digits=5)
COST = replace(KL, digits=3)
CLOSE = 0.15
"""A prediction off by no more than this is called right."""


def stage_blocks(noise: NoiseStages) -> list[Block]:
    """The table, whether predictions agree, and how to read it."""
    fields = [
        Field[NoiseStage](Column("stage", INDEX), lambda one: one.stage),
        Field[NoiseStage](Column("sigma", SIGMA), lambda one: one.sigma),
    ]
    if noise.scan is not None:
        fields += [
            Field[NoiseStage](Column("arrives", SHARE, priority=2), lambda one: one.arriving),
            Field[NoiseStage](
                Column("predicted KL", COST),
                lambda one: Estimate(one.predicted, one.predicted_interval),
            ),
        ]
    fields.append(
        Field[NoiseStage](
            Column("measured KL", COST), lambda one: Estimate(one.measured, one.measured_interval)
        )
    )
    if noise.scan is not None:
        fields.append(
            Field[NoiseStage](
                Column("predicted / measured", RATIO),
                lambda one: Estimate(one.ratio, one.ratio_interval),
            )
        )
    table = tabulate(f"Noise of {noise.strategy}, stage by stage", fields, noise.stages)
    return [table, Text(_answer(noise), "note"), Text(_legend(noise), "note")]


def _answer(noise: NoiseStages) -> str:
    """Whether the prediction holds, or how to get one."""
    if noise.scan is None:
        return (
            "Nothing here predicts these figures: run `srdd scan MODEL --kl` with the same "
            "prompts, then this command again in the folder of that scan, or with --scan FILE."
        )
    known = [one for one in noise.stages if one.ratio is not None]
    if not known:
        return "No noise arrives in any stage, so there is nothing to compare."
    within = sum(one.agrees is True for one in known)
    close = sum(abs((one.ratio or 0.0) - 1) <= CLOSE for one in known)
    furthest = max(known, key=lambda one: abs((one.ratio or 0.0) - 1))
    return (
        f"Of {counted(len(known), 'stage')}, {close} are predicted within {100 * CLOSE:.0f} % of "
        f"what was measured, and {within} within the interval of both; furthest off is stage "
        f"{furthest.stage}, predicted at {RATIO.text(furthest.ratio)} times what was measured."
    )


def _legend(noise: NoiseStages) -> str:
    parts = [
        f"KL in thousandths of a nat a token (mnat), measured in {noise.measured_in} with "
        f"{counted(noise.draws, 'draw')} of the noise over "
        f"{counted(noise.groups, 'group')} of prompts; \u00b1: half of a 95 % interval over groups."
    ]
    if noise.scan is not None:
        which = "the same prompts" if noise.same_prompts else "other prompts"
        parts.append(f"Predicted by {noise.scan}, from {which}, to second order in sigma.")
    parts.append("Stage 0 has no noise.")
    return " ".join(parts)
