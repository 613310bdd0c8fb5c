"""Recipes that were run as blocks: what each costs, predicted and measured, beside others."""

from __future__ import annotations

from collections.abc import Sequence

from srdd.documents.evaluation import Assigned, Compared, Evaluation, RecipeResult, Result
from srdd.errors import counted
from srdd.reports.view import Block, Column, Estimate, Field, Measure, Text, Word, tabulate

KL = Measure.of("kl")
MORE = Measure.of("kl", signed=True)
BITS = Measure(digits=2)
RATIO = Measure(digits=2)
SHARE = Measure("%", scale=100.0, digits=0)

SAME_BITS = 1.01
"""What has at most this many times the recipe's bits is expected to cost no less."""

LEGEND = (
    "Figures are thousandths of a nat (mnat) a predicted token. bits: on average over the recipe's "
    "weights, scales included. vs recipe: KL minus the recipe's, on the same prompts; open where "
    "its 95 % interval contains 0."
)


def recipe_blocks(evaluation: Evaluation) -> list[Block]:
    """What each recipe costs, and a table of it beside others; nothing where there is none."""
    results = {
        one.assigned.name: (one, one.assigned)
        for one in evaluation.results
        if one.assigned is not None and not one.noise
    }
    blocks: list[Block] = []
    for recipe in evaluation.recipes:
        own = results[recipe.name]
        others = [(each, *results[each.name]) for each in recipe.others]
        blocks.append(Text(_cost(recipe, *own), "answer"))
        blocks += [Text(sentence, "answer") for sentence in _standing(others, own[1])]
        blocks.append(_table(own, others))
    return [*blocks, Text(LEGEND, "note")] if blocks else []


Row = tuple[Compared | None, Result, Assigned]


def _table(own: tuple[Result, Assigned], others: Sequence[Row]) -> Block:
    rows = sorted([(None, *own), *others], key=lambda row: row[1].kl or 0.0)
    fields = [
        Field[Row](Column("formats", align="left"), lambda row: row[2].name),
        Field[Row](Column("bits", BITS, priority=1), lambda row: row[2].bits),
        Field[Row](Column("KL", KL), lambda row: Estimate(row[1].kl, row[1].kl_interval)),
        Field[Row](Column("predicted", KL, priority=3), lambda row: row[2].predicted_kl),
        Field[Row](
            Column("more loss", MORE, priority=4),
            lambda row: Estimate(row[1].loss_difference, row[1].loss_difference_interval),
        ),
        Field[Row](
            Column("vs recipe", MORE),
            lambda row: (
                Estimate(row[0].kl_difference, row[0].kl_difference_interval) if row[0] else None
            ),
        ),
        Field[Row](
            Column("", align="left", priority=2),
            lambda row: _outcome(row, own[1]),
        ),
    ]
    return tabulate(f"{own[1].name} beside others", fields, rows)


def _cost(recipe: RecipeResult, result: Result, about: Assigned) -> str:
    measured = Column("", KL).text(Estimate(result.kl, result.kl_interval))
    predicted = Column("", KL).text(Estimate(about.predicted_kl, about.predicted_interval))
    text = (
        f"{recipe.name} costs {measured} mnat at {BITS.text(about.bits)} bits a weight; predicted "
        f"were {predicted}"
    )
    return f"{text} (ratio {RATIO.text(recipe.ratio)})." if recipe.ratio else f"{text}."


def _outcome(row: Row, recipe: Assigned) -> Word:
    """Whether another costs more than the recipe; a bad sign where it does not at equal bits."""
    if row[0] is None:
        return Word("this recipe")
    if row[0].outcome == "costs less" and row[2].bits <= SAME_BITS * recipe.bits:
        return Word("costs LESS", "bad")
    return Word(row[0].outcome, "good" if row[0].outcome == "costs more" else "neutral")


def _standing(others: Sequence[Row], recipe: Assigned) -> list[str]:
    """How the recipe compares with its lowest format everywhere, and with heuristics."""
    sentences = []
    for each, _, about in others:
        if each is not None and about.role == "lowest" and each.kl_difference is not None:
            difference = Estimate(each.kl_difference, each.kl_difference_interval)
            shown = Column("", MORE).text(difference)
            sentences.append(f"{about.name} at {BITS.text(about.bits)} bits: {shown} mnat.")
    near = [
        (each, about)
        for each, _, about in others
        if each and about.role == "heuristic" and about.bits <= SAME_BITS * recipe.bits
    ]
    if not near:
        return sentences
    names = {
        outcome: [about.name for each, about in near if each.outcome == outcome]
        for outcome in ("costs more", "open", "costs less")
    }
    parts = [
        f"Of {counted(len(near), 'heuristic')} with at most as many bits, "
        f"{len(names['costs more'])} cost more than the recipe"
    ]
    if names["open"]:
        parts.append(f"within the interval of the difference: {', '.join(names['open'])}")
    if names["costs less"]:
        parts.append(f"cost LESS than the recipe: {', '.join(names['costs less'])}")
    return [*sentences, "; ".join(parts) + "."]
