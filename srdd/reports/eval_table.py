"""An Evaluation on a terminal: the model as it is, and below it its variants."""

from __future__ import annotations

from rich.console import RenderableType
from rich.text import Text

from srdd.documents.evaluation import Evaluation, Result
from srdd.errors import counted
from srdd.reports.fitted import NARROW, WIDE, Column, Fitted
from srdd.reports.text import number, safe, with_half_width

UNDECIDED = "?"
"""Beside a difference whose interval holds 0."""


def evaluation_tables(evaluation: Evaluation) -> list[RenderableType]:
    """What was evaluated, the table, and how to read it."""
    results = evaluation.results
    plain = evaluation.model.dtype
    columns = [
        Column("weights", [result.weights or plain for result in results], justify="left"),
        Column("activations", [result.activations or plain for result in results], justify="left"),
    ]
    if evaluation.settings.noise is not None:
        columns.append(
            Column("noise", ["yes" if result.noise else "-" for result in results], justify="left")
        )
    columns += [
        Column("loss", [_loss(result) for result in results], WIDE),
        Column("perplexity", [_perplexity(result) for result in results], NARROW),
        Column("more loss", [_more(result) for result in results], NARROW - 1),
        Column("KL", [_kl(result) for result in results]),
    ]
    heading = Text(_heading(evaluation))
    table = Fitted("Predictions of the next token", columns)
    return [heading, table, Text(""), *(Text(line) for line in _notes(evaluation))]


def _heading(evaluation: Evaluation) -> str:
    model, text = evaluation.model, evaluation.text
    what = "piece" if text.form == "text" else "prompt"
    parts = [
        safe(model.name),
        safe(model.architecture),
        model.dtype,
        f"{counted(len(text.indices), what)}, {counted(sum(text.predicted), 'predicted token')}",
    ]
    noise = evaluation.settings.noise
    if noise is not None:
        parts.append(
            f"noise: {safe(noise.strategy)} at step {noise.step} of {noise.total_steps}, "
            f"seed {noise.seed}"
        )
    return " | ".join(parts)


def _loss(result: Result) -> str:
    return with_half_width(result.loss, result.loss_interval, digits=3)


def _perplexity(result: Result) -> str:
    # Without its interval, which is lopsided: e to the power of the loss's.
    value = result.perplexity
    return number(value, 2 if value is not None and value < 100 else 0)


def _more(result: Result) -> str:
    value, interval = result.loss_difference, result.loss_difference_interval
    if value is None:
        return "-"
    shown = with_half_width(value, interval, digits=3)
    sign = "" if shown.startswith("-") else "+"
    if interval is not None and interval[0] <= 0 <= interval[1]:
        return f"{UNDECIDED} {sign}{shown}"
    return f"{sign}{shown}"


def _kl(result: Result) -> str:
    if result.kl is None:
        return "-"
    digits = 3 if result.kl >= 0.01 else 4
    shown = with_half_width(result.kl, result.kl_interval, digits=digits)
    return shown.removeprefix("-") if float(shown.split()[0]) == 0 else shown


def _notes(evaluation: Evaluation) -> list[str]:
    lines = [
        "Per predicted token, in nats: loss is -log p of the token that follows, more loss the "
        "difference from the model as it is (first row), KL the divergence of the next-token "
        "distribution from that model's. ± is half of a 95 % interval over "
        + ("pieces" if evaluation.text.form == "text" else "prompts")
        + "; differences are paired."
    ]
    if any(_more(result).startswith(UNDECIDED) for result in evaluation.results):
        lines.append(f"{UNDECIDED}: the interval holds 0, so the sign of the difference is open.")
    return lines
