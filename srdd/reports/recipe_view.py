"""A recipe as blocks: the answer, formats by kind, what still costs most, rules beside it.

KL is in thousandths of a nat a token (mnat).
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from srdd.documents.recipe import Comparison, Module, Recipe
from srdd.errors import counted
from srdd.model.kinds import ORDER
from srdd.recipes.choosing import Question
from srdd.reports.sensitivity_view import KL, SHARE
from srdd.reports.view import (
    INDEX,
    Block,
    Cell,
    Column,
    Estimate,
    Field,
    Measure,
    Table,
    Text,
    Word,
    tabulate,
)

BITS = Measure(digits=2)
MOST_ROWS = 10
LEVELS = (4.5, 4.75, 5.0, 5.5, 6.0, 7.0, 8.0, 10.0, 12.0)
"""Bits a weight that the table of the trade-off has, beside the fewest and the most."""

VERDICTS = {
    "lower": Word("lower", "good"),
    "open": Word("open", "neutral"),
    "higher": Word("higher", "warning"),
}
"""Of a difference: whether its interval leaves 0 out, and on which side."""

LEGEND = (
    "bits: average over the weights, with scales. KL: predicted, the sum of what linears cost one "
    "at a time. cross-fit: the same where other prompts choose the recipe of these bits; KL itself "
    "is too low, because the same prompts chose. ±: half of a 95 % interval over prompts; "
    "differences are paired, recipe minus rule; open: the interval holds 0."
)


def recipe_blocks(recipe: Recipe, written: str | None = None) -> list[Block]:
    """What a terminal shows of a recipe.

    Arguments:
        written: the file that it is in, for the commands that follow; None where it is in none.
    """
    return [
        Text(f"{recipe.model.name} | recipe of {recipe.bits:.2f} bits a weight", "heading"),
        *(Text(sentence, "answer") for sentence in answer(recipe)),
        kinds_table(recipe),
        costliest_table(recipe),
        *([comparison_table(recipe.comparisons)] if recipe.comparisons else []),
        Text(LEGEND, "note"),
        *(Text(text) for text in _next(recipe, written)),
        *(Text(warning, "warning") for warning in recipe.warnings),
    ]


def answer(recipe: Recipe) -> Iterator[str]:
    """The bits, the cost, how sure it is, and whether rules of the same bits do as well."""
    show = Column("", KL).text
    sentence = f"{recipe.bits:.2f} bits a weight: predicted KL "
    sentence += f"{show(Estimate(recipe.predicted_kl, recipe.predicted_interval))} mnat a token"
    if recipe.cross_fit_kl is not None:
        cross = show(Estimate(recipe.cross_fit_kl, recipe.cross_fit_interval))
        sentence += f", {cross} on prompts that did not choose it"
    low = f"all in the format of fewest bits: {show(recipe.all_low_kl)}"
    if recipe.all_low_kl:
        low += f", of which {100 * recipe.predicted_kl / recipe.all_low_kl:.0f} % are left"
    yield f"{sentence} ({low})."
    within = [one for one in recipe.comparisons if one.bits <= recipe.bits * (1 + 1e-6)]
    if within:
        lower = sum(one.verdict == "lower" for one in within)
        best = min(within, key=lambda one: one.kl)
        difference = Column("", _MORE).text(Estimate(best.difference, best.difference_interval))
        yield (
            f"Of {counted(len(within), 'rule')} without costs and with at most these bits, "
            f"{lower} cost surely more than a recipe of their bits; the best, {best.name!r}, has "
            f"{show(best.kl)} mnat at {best.bits:.2f} bits, from which a recipe of as many "
            f"bits differs by {difference} mnat."
        )
    yield f"Check of the predictions: {recipe.source.check}."


_MORE = Measure("mnat", scale=KL.scale, digits=KL.digits, signed=True)


def _next(recipe: Recipe, written: str | None) -> Iterator[str]:
    if written is None:
        return
    model, file = shlex.quote(recipe.model.name or "MODEL"), shlex.quote(written)
    yield f"Measure it: `srdd eval {model} --recipe {file}`."
    yield f"Write it for a quantizer: `srdd recipe {file} --for NAME`."


@dataclass(frozen=True)
class _Kind:
    name: str
    modules: tuple[Module, ...]

    def count(self, format: str) -> int:
        return sum(one.format == format for one in self.modules)


def kinds_table(recipe: Recipe) -> Table:
    """How many linears of each kind have which format, and what they cost."""
    by_kind: dict[str, list[Module]] = {}
    for one in recipe.modules:
        by_kind.setdefault(one.kind, []).append(one)
    order = [kind for kind in ORDER if kind in by_kind]
    order += [kind for kind in by_kind if kind not in order]
    rows = [_Kind(kind, tuple(by_kind[kind])) for kind in order]
    rows.append(_Kind("all", tuple(recipe.modules)))
    used = [name for name in recipe.formats if any(one.format == name for one in recipe.modules)]
    total = sum(one.parameters for one in recipe.modules)

    def counts(name: str) -> Field[_Kind]:
        return Field(Column(name, INDEX), lambda row: row.count(name))

    fields = [
        Field[_Kind](Column("tensor", align="left"), lambda row: row.name),
        *map(counts, used),
        Field[_Kind](
            Column("weights", SHARE),
            lambda row: sum(one.parameters for one in row.modules) / total,
        ),
        Field[_Kind](Column("KL", KL), lambda row: sum(one.kl for one in row.modules)),
    ]
    return tabulate("Linears by kind and format", fields, rows)


def layers_table(recipe: Recipe) -> Table:
    """The format of every linear, a row for each layer and group."""
    groups: dict[tuple[int, str], list[Module]] = {}
    for one in recipe.modules:
        groups.setdefault((one.layer, one.group), []).append(one)
    fields = [
        Field[list[Module]](Column("layer", INDEX), lambda row: row[0].layer),
        Field[list[Module]](Column("group", align="left", code=True), lambda row: row[0].group),
        Field[list[Module]](Column("format", align="left"), lambda row: row[0].format),
        Field[list[Module]](Column("KL", KL), lambda row: sum(one.kl for one in row)),
        Field[list[Module]](Column("why", align="left"), lambda row: row[0].why),
    ]
    return tabulate("Format of every linear", fields, list(groups.values()), details=True)


def costliest_table(recipe: Recipe) -> Table:
    """The linears that still cost most."""
    rows = sorted(recipe.modules, key=lambda one: -one.kl)[:MOST_ROWS]
    fields = [
        Field[Module](Column("layer", INDEX), lambda one: one.layer),
        Field[Module](Column("tensor", align="left"), lambda one: one.kind),
        Field[Module](Column("format", align="left"), lambda one: one.format),
        Field[Module](Column("KL", KL), lambda one: one.kl),
        Field[Module](Column("pinned", align="left"), lambda one: "yes" if one.pinned else None),
        Field[Module](
            Column("module", align="left", priority=9, code=True), lambda one: one.module
        ),
    ]
    title = f"Costliest {len(rows)} of {len(recipe.modules)} linears in this recipe"
    return tabulate(title, fields, rows)


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Rules beside recipes of the same bits, the cheapest bits first."""

    def difference(one: Comparison) -> Cell:
        return Estimate(one.difference, one.difference_interval)

    fields = [
        Field[Comparison](Column("rule", align="left"), lambda one: one.name),
        Field[Comparison](Column("bits", BITS), lambda one: one.bits),
        Field[Comparison](Column("KL", KL), lambda one: one.kl),
        Field[Comparison](Column("cross-fit", KL, priority=3), lambda one: one.recipe_kl),
        Field[Comparison](Column("difference", _MORE), difference),
        Field[Comparison](Column("", align="left"), lambda one: VERDICTS[one.verdict]),
    ]
    ordered = sorted(comparisons, key=lambda one: (one.bits, one.kl))
    return tabulate("Rules that need no costs, and recipes of their bits", fields, ordered)


@dataclass(frozen=True)
class Level:
    """The recipe of some bits: its figures, nats a token, and its formats."""

    bits: float
    kl: Estimate
    cross_fit: Estimate
    counts: dict[str, int]


def level_of(asked: Question, bits: float) -> Level:
    """The best recipe of at most `bits` bits a weight, which are not below the fewest."""
    choice = asked.problem.at_bits(bits)
    assert choice is not None
    costs = asked.costs
    nats = asked.problem.cross_fit(bits)
    names = [costs.formats[option] for option in choice]
    return Level(
        bits=costs.average_bits(choice),
        kl=Estimate(*costs.mean(costs.nats_of(choice))),
        cross_fit=Estimate(None) if nats is None else Estimate(*costs.mean(nats)),
        counts={name: names.count(name) for name in costs.formats},
    )


def levels(asked: Question) -> list[Level]:
    """Recipes from the fewest bits to those from which on none costs less."""
    ends = asked.problem.curve[0].bits, asked.problem.curve[-1].bits
    wanted = [ends[0], *(each for each in LEVELS if ends[0] < each < ends[1]), ends[1]]
    return [level_of(asked, bits) for bits in wanted]


def tradeoff_table(asked: Question, rows: Sequence[Level]) -> Table:
    """Bits against KL."""
    low = asked.problem.lightest().kl

    def counts(name: str) -> Field[Level]:
        return Field(Column(name, INDEX, priority=4), lambda row: row.counts[name])

    fields = [
        Field[Level](Column("bits", BITS), lambda row: row.bits),
        Field[Level](Column("KL", KL), lambda row: row.kl),
        Field[Level](Column("cross-fit", KL), lambda row: row.cross_fit),
        Field[Level](
            Column("of all low", SHARE), lambda row: (row.kl.value or 0.0) / low if low else None
        ),
        *map(counts, asked.costs.formats),
    ]
    return tabulate("Recipes by bits a weight", fields, rows)


def tradeoff_blocks(asked: Question) -> list[Block]:
    """What a terminal shows where no budget was given: the curve, and rules beside it."""
    low = asked.costs.formats[0]
    comparisons = asked.comparisons(None)
    return [
        Text(f"{asked.scan.model.name} | recipes from {', '.join(asked.costs.formats)}", "heading"),
        Text(
            f"All linears in {low} cost {KL.with_unit(asked.problem.lightest().kl)} a token; "
            f"{counted(len(asked.problem.groups), 'group')} of linears can each have another "
            f"format. Choose a budget with --bits or --max-kl.",
            "answer",
        ),
        tradeoff_table(asked, levels(asked)),
        *([comparison_table(comparisons)] if comparisons else []),
        Text(LEGEND, "note"),
    ]
