"""The trade-off of bits and KL as a page with a chart, or as rows for a spreadsheet."""

from __future__ import annotations

import math
from collections.abc import Sequence

from srdd.documents.recipe import Recipe
from srdd.recipes.choosing import Question
from srdd.reports.delimited import Flat, written
from srdd.reports.html import Section, render
from srdd.reports.recipe_view import (
    LEGEND,
    answer,
    comparison_table,
    costliest_table,
    kinds_table,
    layers_table,
    level_of,
    levels,
    tradeoff_blocks,
    tradeoff_table,
)
from srdd.reports.sensitivity_view import KL
from srdd.reports.view import Block, Chart, Estimate, Series, Text

STEP = 0.05
"""Bits between two places of the chart."""

MOST_POINTS = 40
"""Points of the curve in a spreadsheet."""


def tradeoff_csv(asked: Question, form: str, recipe: Recipe | None = None) -> str:
    """The curve and the rules, a row each: figures in nats a token, `NAME_low` to `NAME_high`.

    `cross_fit` is of recipes of at most these bits that other prompts chose; of a rule,
    `difference` is that minus the rule's KL.

    Arguments:
        form: of srdd.reports.delimited.FORMS.
        recipe: its bits are those of the rules with a number; None for none of these.
    """
    curve = asked.problem.curve
    every = max(1, math.ceil(len(curve) / MOST_POINTS))
    bits = dict.fromkeys([*(point.bits for point in curve[::every]), curve[-1].bits])
    rows: list[Flat] = []
    for each in bits:
        level = level_of(asked, each)
        rows.append(_row("recipe", "", level.bits, level.kl, level.cross_fit, Estimate(None)))
    for one in asked.comparisons(recipe.bits if recipe else None):
        difference = Estimate(one.difference, one.difference_interval)
        own, other = Estimate(one.kl), Estimate(one.recipe_kl)
        rows.append(_row("rule", one.name, one.bits, own, other, difference))
    return written(rows, form)


def _row(
    kind: str, name: str, bits: float, kl: Estimate, cross_fit: Estimate, difference: Estimate
) -> Flat:
    row: dict[str, str | float | int | None] = {"kind": kind, "rule": name, "bits": bits}
    for title, one in (("kl", kl), ("cross_fit", cross_fit), ("difference", difference)):
        low, high = one.interval or (None, None)
        row |= {title: one.value, f"{title}_low": low, f"{title}_high": high}
    return row


def recipe_page(asked: Question, recipe: Recipe | None = None) -> str:
    """A page: the trade-off with its chart, and the recipe if there is one."""
    comparisons = recipe.comparisons if recipe else asked.comparisons(None)
    tables: list[Block] = [tradeoff_table(asked, levels(asked))]
    if comparisons:
        tables.append(comparison_table(comparisons))
    lead = (
        [Text(sentence, "answer") for sentence in answer(recipe)]
        if recipe
        else [block for block in tradeoff_blocks(asked)[:2] if isinstance(block, Text)]
    )
    chosen = [kinds_table(recipe), costliest_table(recipe), layers_table(recipe)] if recipe else []
    notes = [Text(warning, "warning") for warning in recipe.warnings] if recipe else []
    return render(
        f"{asked.scan.model.name or 'unnamed'}: recipe",
        lead,
        [
            Section("Bits against KL", [tradeoff_chart(asked, recipe), *tables, Text(LEGEND)]),
            Section("The recipe", chosen),
            Section("Caveats", notes),
        ],
    )


def tradeoff_chart(asked: Question, recipe: Recipe | None = None) -> Chart:
    """Predicted KL over bits: the curve of recipes, and a mark for each rule.

    Bits are rounded to STEP; of several in one place the curve has the last. It ends where all
    rules and the recipe are to its left.
    """
    curve = asked.problem.curve
    points = [(rule.name, p) for rule, p in asked.heuristics(recipe.bits if recipe else None)]
    first = _place(curve[0].bits)
    furthest = max([*(p.bits for _, p in points), recipe.bits if recipe else 0.0, curve[0].bits])
    places = range(first, _place(furthest) + 2)
    line: dict[int, float] = {_place(point.bits): point.kl for point in curve}
    # Between two points of the curve the recipe of the first still is within the bits.
    last: float | None = None
    values: list[float | None] = []
    for place in places:
        last = line.get(place, last)
        values.append(last)
    series = [Series("recipes", tuple(values))]
    series += [_mark(name, point.bits, point.kl, places) for name, point in points]
    if recipe is not None:
        series.append(_mark("this recipe", recipe.bits, recipe.predicted_kl, places))
    return Chart(
        "Predicted KL by bits a weight",
        "lines",
        "bits a weight",
        tuple(f"{place * STEP:.2f}" for place in places),
        KL,
        tuple(series),
    )


def _place(bits: float) -> int:
    return round(bits / STEP)


def _mark(name: str, bits: float, kl: float, places: Sequence[int]) -> Series:
    at = _place(bits)
    return Series(name, tuple(kl if place == at else None for place in places))
