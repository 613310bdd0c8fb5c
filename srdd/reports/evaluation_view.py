"""An Evaluation as blocks: the answer, and the model as it is beside the ways it was run."""

from __future__ import annotations

from collections.abc import Sequence

from srdd.documents.evaluation import Evaluation, Result
from srdd.errors import counted
from srdd.reports.mismatch_view import mismatch_blocks
from srdd.reports.noise_stages_view import stage_blocks
from srdd.reports.recipe_result_view import recipe_blocks
from srdd.reports.view import Block, Cell, Column, Estimate, Field, Measure, Text, Word, tabulate

NATS = Measure("nats", digits=4)
MORE = Measure("nats", digits=4, signed=True)
_PERPLEXITY = Measure(digits=2)

UNDECIDED = Word("loss sign open", "neutral")
"""Beside a difference whose interval holds 0."""


def evaluation_blocks(evaluation: Evaluation) -> list[Block]:
    """What was evaluated, what it costs, the table, and how to read it."""
    plain = evaluation.model.dtype

    def noise(result: Result) -> Cell:
        return None if evaluation.settings.noise is None else "yes" if result.noise else "no"

    def estimate(name: str) -> Field[Result]:
        def cell(result: Result) -> Cell:
            return Estimate(getattr(result, name), getattr(result, f"{name}_interval"))

        title, measure, priority = _FIGURES[name]
        return Field(Column(title, measure, priority=priority), cell)

    fields = [
        Field[Result](Column("weights", align="left"), lambda one: one.weights or plain),
        Field[Result](Column("activations", align="left"), lambda one: one.activations or plain),
        Field[Result](Column("noise", align="left"), noise),
        estimate("loss"),
        Field[Result](
            # Without its interval, which is lopsided: e to the power of the loss's.
            Column("perplexity", _PERPLEXITY, priority=3),
            lambda one: one.perplexity,
        ),
        estimate("loss_difference"),
        estimate("kl"),
        Field[Result](Column("", align="left", priority=2), _open),
    ]
    alike = [one for one in evaluation.results if one.assigned is None]
    blocks: list[Block] = [Text(_heading(evaluation), "heading"), *mismatch_blocks(evaluation)]
    if len(alike) > 1:
        blocks += [
            Text(_answer(alike, plain), "answer"),
            tabulate("Predictions of the next token", fields, alike),
            Text(_legend(evaluation), "note"),
        ]
    return [
        *blocks,
        *recipe_blocks(evaluation),
        *(stage_blocks(evaluation.noise_stages) if evaluation.noise_stages else ()),
        *(Text(warning, "warning") for warning in evaluation.warnings),
    ]


_FIGURES = {
    "loss": ("loss", NATS, 4),
    "loss_difference": ("more loss", MORE, 1),
    "kl": ("KL", NATS, 0),
}
"""Title, measure and priority of the columns with intervals."""


def _open(result: Result) -> Cell:
    interval = result.loss_difference_interval
    return UNDECIDED if interval is not None and interval[0] <= 0 <= interval[1] else None


def _name(result: Result, plain: str) -> str:
    parts = [f"{result.weights or plain} weights", f"{result.activations or plain} activations"]
    return " and ".join(parts) + (" with noise" if result.noise else "")


def _answer(results: Sequence[Result], plain: str) -> str:
    """Which way of running it costs most and least."""
    known = sorted(
        (
            result
            for result in results
            if result.kl is not None and (result.weights or result.activations)
        ),
        key=lambda result: result.kl or 0.0,
    )
    if not known:
        return "No result is finite: nothing can be said about what quantization costs."
    best, worst = known[0], known[-1]

    def cost(one: Result) -> str:
        column = Column("KL", NATS)
        kl = column.text(Estimate(one.kl, one.kl_interval))
        return f"{_name(one, plain)}: KL {kl} nats a token"

    if best is worst:
        return f"{cost(best)}."
    return f"Lowest cost: {cost(best)}. Highest: {cost(worst)}."


def _heading(evaluation: Evaluation) -> str:
    model, text = evaluation.model, evaluation.text
    what = {"text": "piece", "rollouts": "rollout"}.get(text.form, "prompt")
    amount = f"{counted(len(text.indices), what)}, "
    kind = "response token" if text.form == "rollouts" else "predicted token"
    amount += counted(sum(text.predicted), kind)
    parts = [model.name, model.architecture, model.dtype, amount]
    if (noise := evaluation.settings.noise) is not None:
        parts.append(
            f"noise: {noise.strategy} at step {noise.step} of {noise.total_steps}, "
            f"seed {noise.seed}"
        )
    return " | ".join(parts)


def _legend(evaluation: Evaluation) -> str:
    form = evaluation.text.form
    over = "pieces" if form == "text" else form
    return (
        "Per predicted token, in nats: loss is -log p of the token that follows, more loss the "
        "difference from the model as it is (first row), KL the divergence of the next-token "
        f"distribution from that model's. ±: half of a 95 % interval over {over}; differences are "
        f"paired. {UNDECIDED.text}: the interval of the difference holds 0."
    )
