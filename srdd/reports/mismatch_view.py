"""The mismatch of rollouts as blocks: whether it is large, where it comes from, what changes it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from srdd.documents.evaluation import Evaluation, Result
from srdd.documents.mismatch import Figure, Measured, Mismatch, Share, TokenClass
from srdd.errors import counted
from srdd.model.kinds import kind_of
from srdd.numerics.mismatch_metrics import MISMATCH, MismatchMetric
from srdd.reports.text import safe
from srdd.reports.view import Block, Cell, Column, Estimate, Field, Measure, Table, Text, tabulate

SHOWN = (
    "kl_reversed",
    "k1",
    "k3",
    "expected_chi2",
    "chi2_token",
    "chi2_seq",
    "ess_token",
    "ess_seq",
    "expected_mult_prob_error",
    "token_mult_prob_error",
    "expected_clipped",
    "clipped",
    "own_clipped",
    "ppl_ratio",
)
"""Figures of the table; a document has all."""

USUAL = (
    "k3",
    "expected_chi2",
    "ess_seq",
    "expected_mult_prob_error",
    "logprob_abs_diff",
)
"""Figures that the answer compares with their usual levels, each of something else."""

COSTLIEST = 3
"""Members of a kind of place that a sentence names."""

NATS = Measure("nats", digits=4)
SHARE = Measure("%", scale=100.0, digits=0)
LEVELS = (
    "Usual levels are where trainers' documentation, tests or users raise an alert, for k3 what is "
    "reported for dense models in 16 bits (`srdd explain k3`). None says that a run fails or does "
    "not."
)


def mismatch_blocks(evaluation: Evaluation) -> list[Block]:
    """The answer, the table of figures, and the tables by class of the variant furthest off.

    Nothing where the evaluation is not of rollouts.
    """
    results = [result for result in evaluation.results if result.mismatch is not None]
    if not results:
        return []
    worst = max(results, key=lambda result: _value(result, "kl_reversed", -math.inf))
    assert worst.mismatch is not None
    blocks: list[Block] = [Text(_answer(result), "answer") for result in results]
    blocks += [Text(sentence, "answer") for sentence in _origin(evaluation, worst)]
    blocks += [Text(sentence, "answer") for sentence in _remedies(results, worst)]
    blocks.append(_table(results))
    if (measured := worst.mismatch.measured) is not None:
        blocks.append(_engine_table(measured, worst))
    name = _label(worst)
    blocks += [
        _classes(f"By place in the response, {name}", "tokens", worst.mismatch.by_position),
        _classes(f"By rank of the sampled token, {name}", "rank", worst.mismatch.by_rank),
        _classes(f"By entropy of the prediction, {name}", "entropy", worst.mismatch.by_entropy),
        *_worst_responses(worst.mismatch, name),
    ]
    return blocks


def _label(result: Result) -> str:
    """A variant in few words: `mxfp4:floor` for both operands, else which one."""
    weights, activations = result.weights, result.activations
    if result.assigned is not None:
        name = result.assigned.name
    elif weights == activations:
        name = weights or "full precision"
    elif activations is None:
        name = f"weights {weights}"
    elif weights is None:
        name = f"activations {activations}"
    else:
        name = f"{weights}, {activations}"
    return name + (" with noise" if result.noise else "")


def _value(result: Result, name: str, missing: float) -> float:
    figure = result.mismatch.figures.get(name) if result.mismatch else None
    return missing if figure is None or figure.value is None else figure.value


def _measure(metric: MismatchMetric) -> Measure:
    return Measure(metric.unit, metric.scale, metric.digits)


def _shown(result: Result, name: str) -> str:
    """A figure with its interval and unit, for a sentence."""
    assert result.mismatch is not None
    metric, figure = MISMATCH[name], result.mismatch.figures[name]
    unit = f" {metric.unit}" if metric.unit else ""
    return Column("", _measure(metric)).text(Estimate(figure.value, figure.interval)) + unit


def _answer(result: Result) -> str:
    """How far rollouts of one variant are off, beside the usual levels."""
    beyond: list[str] = []
    within: list[str] = []
    for name in USUAL:
        metric, value = MISMATCH[name], _value(result, name, math.nan)
        assert metric.level is not None
        level = metric.level[0]
        over = value < level if metric.higher_is_better else value > level
        text = _measure(metric).text(value)
        (beyond if over else within).append(f"{metric.title} {text} (usual: {level:g})")
    verdict = (
        f"within all {len(USUAL)} usual levels"
        if not beyond
        else f"beyond {len(beyond)} of {len(USUAL)} usual levels"
    )
    sentence = (
        f"Rollouts in {_label(result)} are {verdict}: KL {_shown(result, 'kl_reversed')} a token"
    )
    if beyond:
        sentence += f"; beyond: {', '.join(beyond)}"
    if within:
        sentence += f"; within: {', '.join(within)}"
    return f"{sentence}."


def _origin(evaluation: Evaluation, worst: Result) -> list[str]:
    """Which linears bring it, and how much of what an engine logged the simulation explains."""
    assert worst.mismatch is not None
    sentences = []
    if doubt := _doubt(worst.mismatch):
        sentences.append(doubt)
    found = worst.mismatch.attribution
    if found is None:
        sentences.append(
            "Which linears bring it: `srdd scan MODEL --kl --rollouts FILE` in the same folder, "
            "then this command again."
        )
    else:
        sentences.append(
            f"It comes from {_listed(found.kinds)}; layers {_listed(found.layers)} "
            f"({found.method} of {safe(found.scan)}"
            + ("" if found.same_text else ", on other text")
            + ")."
        )
    if (measured := worst.mismatch.measured) is not None:
        sentences.append(_explained(measured, worst))
    return sentences


def _doubt(mismatch: Mismatch) -> str | None:
    """What the mean weight says of who wrote the text: it is 1 on average for the writer."""
    figure = mismatch.figures["rho_mean"]
    if figure.interval is None or figure.interval[0] <= 1 <= figure.interval[1]:
        return None
    mean = Column("", Measure(digits=3)).text(Estimate(figure.value, figure.interval))
    return (
        f"The mean weight of the text's tokens is {mean}, not 1: neither policy sampled them at "
        "this temperature. Rely on the exact figures."
    )


def _listed(shares: Sequence[Share]) -> str:
    return ", ".join(f"{safe(one.name)} ({SHARE.text(one.share)} %)" for one in shares[:COSTLIEST])


def _place(tensor: Share) -> str:
    kind = safe(kind_of(tensor.name))
    return kind if tensor.layer is None else f"{kind} of layer {tensor.layer}"


def _explained(measured: Measured, worst: Result) -> str:
    value = measured.explained.value
    if value is None:
        return "The engine's log-probabilities are those of the model in full precision."
    k3, left = (each["k3"].value for each in (measured.figures, measured.left))
    figures = f"k3 {NATS.text(k3)} as logged, {NATS.text(left)} to the simulated policy"
    if value <= 0:
        return (
            f"Simulating {_label(worst)} explains nothing of what the rollout engine logged "
            f"({figures}): the engine ran closer to full precision than that."
        )
    share = Column("", SHARE).text(Estimate(value, measured.explained.interval))
    return (
        f"Simulating {_label(worst)} explains {share} % of the squared log-ratios to what the "
        f"rollout engine logged ({figures}); the rest is the engine's, or of staleness."
    )


def _remedies(results: Sequence[Result], worst: Result) -> list[str]:
    """What would make the mismatch smaller, as far as these runs and the scan can tell."""
    assert worst.mismatch is not None
    parts = []
    best = min(results, key=lambda result: _value(result, "kl_reversed", math.inf))
    if best is not worst:
        parts.append(
            f"smallest mismatch of these runs: {_label(best)}, KL {_shown(best, 'kl_reversed')}"
        )
    found = worst.mismatch.attribution
    if found is not None:
        share = sum(one.share for one in found.tensors[:COSTLIEST])
        names = ", ".join(_place(one) for one in found.tensors[:COSTLIEST])
        parts.append(
            f"keeping the costliest {COSTLIEST} of {found.count} linears ({names}) in full "
            f"precision would take away about {SHARE.text(share)} % of it"
        )
        parts.append("`srdd recipe` chooses a format for each linear")
    if not parts:
        return []
    text = "; ".join(parts)
    return [f"{text[0].upper()}{text[1:]}."]


def _table(results: Sequence[Result]) -> Table:
    """A row for each figure, a column for each variant."""
    rows = [
        MISMATCH[name]
        for name in SHOWN
        if any(result.mismatch and name in result.mismatch.figures for result in results)
    ]

    def variant(result: Result, priority: int) -> Field[MismatchMetric]:
        def cell(metric: MismatchMetric) -> Cell:
            figure = result.mismatch.figures.get(metric.name) if result.mismatch else None
            return _estimate(figure, metric)

        return Field(Column(_label(result), priority=priority), cell)

    fields = [
        Field[MismatchMetric](Column("figure", align="left"), lambda metric: metric.title),
        Field[MismatchMetric](
            Column("unit", align="left", priority=8), lambda metric: metric.unit or None
        ),
        *(variant(result, number) for number, result in enumerate(results)),
        Field[MismatchMetric](Column("usual", priority=7), _usual),
    ]
    first = results[0].mismatch
    assert first is not None
    writers: set[str] = {r.mismatch.written_by for r in results if r.mismatch is not None}
    return tabulate("Mismatch of the rollout policy", fields, rows, _notes(first, writers))


def _notes(first: Mismatch, writers: set[str]) -> tuple[str, ...]:
    if writers == {"training"}:
        roles = (
            "The text counts as written in full precision: sampled figures weight its tokens by "
            "the quantized policy's probability over the other's."
        )
    elif writers == {"rollout"}:
        roles = (
            "The text counts as written by the quantized policy: sampled figures weight its tokens "
            "by the trained policy's probability over the other's."
        )
    else:
        roles = (
            "Log-probabilities in the file decide which policy wrote the text, see `written_by`."
        )
    return (
        f"{counted(first.responses, 'response')}, {counted(first.tokens, 'response token')}. "
        "Exact: over the whole vocabulary at each place, for tokens that the quantized policy "
        f"samples. {roles} ±: half of a 95 % interval over responses.",
        LEVELS,
    )


def _estimate(figure: Figure | None, metric: MismatchMetric) -> Cell:
    if figure is None:
        return None
    return Estimate(figure.value, figure.interval, _measure(metric))


def _usual(metric: MismatchMetric) -> Cell:
    if metric.level is None:
        return None
    return f"{'<' if metric.higher_is_better else '>'} {metric.level[0]:g}"


def _engine_table(measured: Measured, result: Result) -> Table:
    """What the engine logged, beside the simulation, and what that leaves."""
    names = [name for name in SHOWN if name in measured.figures]

    def column(title: str, figures: dict[str, Figure]) -> Field[str]:
        return Field(Column(title), lambda name: _estimate(figures.get(name), MISMATCH[name]))

    simulated = result.mismatch.figures if result.mismatch else {}
    fields = [
        Field[str](Column("figure", align="left"), lambda name: MISMATCH[name].title),
        column("logged", measured.figures),
        column("simulated", simulated),
        column("left", measured.left),
    ]
    note = (
        f"Over {counted(measured.tokens, 'token')} of {counted(measured.responses, 'response')} "
        "with log-probabilities. logged: the engine against the trained policy; simulated: "
        f"{_label(result)} against it; left: the engine against the simulated policy."
    )
    return tabulate("With the log-probabilities of the rollout engine", fields, names, (note,))


def _classes(title: str, what: str, classes: Sequence[TokenClass]) -> Table:
    error = _measure(MISMATCH["token_mult_prob_error"])
    fields = [
        Field[TokenClass](Column(what), lambda one: one.name),
        Field[TokenClass](Column("count", Measure()), lambda one: one.tokens),
        Field[TokenClass](Column("KL", NATS), lambda one: Estimate(one.kl.value, one.kl.interval)),
        Field[TokenClass](Column("share", SHARE), lambda one: one.share),
        Field[TokenClass](
            Column("prob. error", error, priority=1),
            lambda one: Estimate(one.prob_error.value, one.prob_error.interval),
        ),
        Field[TokenClass](Column("responses", priority=3), lambda one: one.responses),
        Field[TokenClass](
            Column("ESS sequences", Measure(digits=3), priority=2), lambda one: one.ess_seq
        ),
    ]
    return tabulate(title, fields, classes)


def _worst_responses(mismatch: Mismatch, name: str) -> list[Text]:
    """Each of the worst responses in a paragraph, with the text around its worst token."""
    if not mismatch.worst:
        return []
    texts = [Text(f"Responses with the largest KL in all, {name}", "plain")]
    for one in mismatch.worst:
        factor = math.exp(min(abs(one.log_ratio), 700))
        direction = "less" if one.log_ratio > 0 else "more"
        around = f"{safe(one.before)}[{safe(one.token)}]{safe(one.after)}"
        texts.append(
            Text(
                f"response {one.index + 1}: KL {one.kl:.2f} nats over "
                f"{counted(one.tokens, 'token')}, log-weight {one.log_weight:+.2f}; token "
                f"{one.position + 1} is {factor:.3g} times {direction} probable when quantized: "
                f"{around}",
                "note",
            )
        )
    return texts
