"""One call from a scan to a recipe: checks what is asked for, chooses, compares, explains."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from srdd.documents.identity import fingerprint
from srdd.documents.recipe import (
    KEPT,
    TOLERANCE,
    Budget,
    Comparison,
    Model,
    Module,
    Recipe,
    Source,
)
from srdd.documents.scan import Scan
from srdd.documents.sensitivity_figures import verdict
from srdd.errors import UsageError, counted, unknown_name
from srdd.model.selection import matches
from srdd.numerics.confidence import few_prompts, mean_interval
from srdd.numerics.formats import parse_spec
from srdd.recipes.costs import KEPT_NAMES, Costs, Indices, Operands, costs_of
from srdd.recipes.groups import FUSED, ROUTER, Group, groups_of
from srdd.recipes.heuristics import Heuristic, heuristics
from srdd.recipes.problem import Point, Problem

ROUTER_REASON = "a router: its choice of experts has jumps, which costs do not tell"


@dataclass(frozen=True)
class Question:
    """A scan with what may be chosen: everything but the budget.

    Attributes:
        scan: with sensitivity.
        problem: costs, groups and pinned formats.
        operands: what is quantized.
        granularity: as in `recipe`.
        reasons: place of a pinned group -> why it is pinned.
    """

    scan: Scan
    problem: Problem
    operands: Operands
    granularity: str
    reasons: dict[int, str]

    @property
    def costs(self) -> Costs:
        return self.problem.costs

    @property
    def pinned(self) -> dict[str, str]:
        """Module -> its pinned format."""
        return {
            self.costs.linears[member].module: self.costs.formats[option]
            for place, option in self.problem.pinned.items()
            for member in self.problem.groups[place].members
        }

    def heuristics(self, most_bits: float | None) -> list[tuple[Heuristic, Point]]:
        """Rules with their bits and costs; see `srdd.recipes.heuristics`."""
        place = {name: n for n, name in enumerate(self.costs.formats)}
        rules = heuristics(self.costs.linears, self.costs.formats, most_bits, self.pinned)
        return [
            (rule, self.problem.point(np.array([place[name] for name in rule.formats])))
            for rule in rules
        ]

    def comparisons(self, most_bits: float | None) -> list[Comparison]:
        """Rules beside recipes of the same bits; without those that leave nothing to choose."""
        least = self.problem.lightest().bits
        return [
            self._compared(rule, point)
            for rule, point in self.heuristics(most_bits)
            if point.bits > least * (1 + TOLERANCE)
        ]

    def _compared(self, rule: Heuristic, point: Point) -> Comparison:
        theirs = self.costs.nats_of(point.choice)
        ours = self.problem.cross_fit(point.bits)
        paired = ours is not None
        if ours is None:
            best = self.problem.at_bits(point.bits)
            assert best is not None  # as light as the lightest
            ours = self.costs.nats_of(best)
        total = self.costs.tokens.sum()
        kl, recipe_kl = float(theirs.sum() / total), float(ours.sum() / total)
        return Comparison(
            name=rule.name,
            bits=point.bits,
            kl=kl,
            recipe_kl=recipe_kl,
            difference=recipe_kl - kl,
            difference_interval=mean_interval(ours - theirs, self.costs.tokens) if paired else None,
        )


def question(
    scan: Scan,
    *,
    formats: Sequence[str] = (),
    operands: Operands = "both",
    patterns: Sequence[str] = (),
    granularity: str = "linear-group",
    fused: Sequence[Sequence[str]] = FUSED,
) -> Question:
    """What `recipe` chooses from; see there for the arguments and errors."""
    costs = costs_of(scan, formats, operands)
    groups = tuple(groups_of(costs.linears, granularity, fused))
    pinned, reasons = _pins(costs, groups, patterns)
    return Question(scan, Problem(costs, groups, pinned), operands, granularity, reasons)


def recipe(
    scan: Scan,
    *,
    bits: float | None = None,
    max_kl: float | str | None = None,
    formats: Sequence[str] = (),
    operands: Operands = "both",
    patterns: Sequence[str] = (),
    granularity: str = "linear-group",
    fused: Sequence[Sequence[str]] = FUSED,
) -> Recipe:
    """A format for each linear: the least predicted KL for a number of bits, or the reverse.

    The prediction is the sum of what linears cost one at a time. The choice is exact: no other
    within the budget has a smaller sum.

    Arguments:
        scan: made with `kl`, in each format to choose from.
        bits: average bits a weight at most, over the linears of the decoder layers, with scales;
            `bf16` counts 16.
        max_kl: nats a token at most, or `"50%"` of the cost of all linears in the format of fewest
            bits; one of `bits` and `max_kl` is needed.
        formats: to choose from; those of the scan for none. `bf16` always is one.
        operands: quantize `both` weight and input, or the `weight` alone.
        patterns: `PATTERN=FORMAT`, as in `*.down_proj=bf16`, fixes the format of linears whose name
            contains or matches the pattern; the first that fits a linear counts, and one that is
            fixed fixes its group.
        granularity: what gets one format: `linear-group` (linears that one kernel takes together),
            `tensor` (each linear) or `layer`.
        fused: for `linear-group`, kinds or names that are fused, where not the usual ones.

    Raises:
        UsageError: no budget or two, one that cannot be kept, a format the scan has no cost of, or
            a pattern that fits nothing or contradicts another inside a group.
        InputError: the scan has no costs, or does not say how large linears are.
    """
    asked = question(
        scan,
        formats=formats,
        operands=operands,
        patterns=patterns,
        granularity=granularity,
        fused=fused,
    )
    return recipe_for(asked, bits=bits, max_kl=max_kl)


def recipe_for(
    asked: Question, *, bits: float | None = None, max_kl: float | str | None = None
) -> Recipe:
    """The recipe for a budget; see `recipe`."""
    problem, costs = asked.problem, asked.costs
    budget = _budget(problem, bits, max_kl)
    choice = _chosen(problem, budget)
    point = problem.point(choice)
    nats = problem.cross_fit(point.bits)
    cross_fit = (None, None) if nats is None else costs.mean(nats)
    comparisons = asked.comparisons(point.bits)
    holds, check = _check(asked.scan, costs.formats[:-1])
    model, sensitivity = asked.scan.model, asked.scan.sensitivity
    assert sensitivity is not None
    modules = _modules(asked, choice)
    return Recipe(
        model=Model(
            name=model.name, fingerprint=model.fingerprint, architecture=model.architecture
        ),
        source=Source(
            scan=fingerprint(asked.scan),
            method=sensitivity.method,
            tokens=int(costs.tokens.sum()),
            holds=holds,
            check=check,
        ),
        budget=budget,
        granularity=asked.granularity,  # type: ignore[arg-type]
        bits=point.bits,
        predicted_kl=math.fsum(module.kl for module in modules),
        predicted_interval=costs.mean(costs.nats_of(choice))[1],
        cross_fit_kl=cross_fit[0],
        cross_fit_interval=cross_fit[1],
        all_low_kl=problem.lightest().kl,
        formats=list(costs.formats),
        modules=modules,
        comparisons=comparisons,
        left_out=list(costs.left_out),
        warnings=[
            *_idle_budget(budget, problem.lightest()),
            *_warnings(asked, point, holds, check, comparisons),
        ],
    )


def _budget(problem: Problem, bits: float | None, max_kl: float | str | None) -> Budget:
    """The budget, of which one is given, in bits or in nats a token."""
    if (bits is None) == (max_kl is None):
        raise UsageError(
            "a recipe needs a budget, bits or max_kl, and only one",
            "such as `bits=5`, `max_kl=0.05` (nats a token) or `max_kl=50%` (of all low)",
        )
    if bits is not None:
        if not (math.isfinite(bits) and bits > 0):
            raise UsageError(f"{bits:g} bits", "give a number above 0, such as 5")
        return Budget(bits=bits, max_kl=None)
    text = str(max_kl).strip()
    share = text.endswith("%")
    try:
        value = float(text.removesuffix("%"))
        if not (math.isfinite(value) and value >= 0):
            raise ValueError
    except ValueError:
        raise UsageError(
            f"max_kl {text!r} is no limit", "give nats a token, such as 0.05, or a share: 50%"
        ) from None
    return Budget(bits=None, max_kl=value / 100 * problem.lightest().kl if share else value)


def _chosen(problem: Problem, budget: Budget) -> Indices:
    if budget.bits is not None:
        choice = problem.at_bits(budget.bits)
        if choice is None:
            least = problem.lightest().bits
            raise UsageError(
                f"no recipe has {budget.bits:g} bits a weight",
                f"the fewest with these formats and patterns are {math.ceil(1e3 * least) / 1e3:g}",
            )
        return choice
    assert budget.max_kl is not None
    choice = problem.within_kl(budget.max_kl)
    if choice is None:
        raise UsageError(
            f"the linears that patterns fix cost more than {budget.max_kl:g} nats a token",
            "raise `max_kl`, or drop a pattern",
        )
    return choice


def _pins(
    costs: Costs, groups: Sequence[Group], patterns: Sequence[str]
) -> tuple[dict[int, int], dict[int, str]]:
    """Which groups are pinned to which format, and why."""
    rules = [_pattern(costs, text) for text in patterns]
    used = set()
    pinned: dict[int, int] = {}
    reasons: dict[int, str] = {}
    for place, group in enumerate(groups):
        for member in group.members:
            linear = costs.linears[member]
            fitting = [n for n, (p, _) in enumerate(rules) if matches(linear.module, p)]
            used |= set(fitting)
            if fitting:
                option, reason = rules[fitting[0]][1], f"pinned by {patterns[fitting[0]]}"
            elif linear.kind == ROUTER:
                option, reason = len(costs.formats) - 1, ROUTER_REASON
            else:
                continue
            if pinned.setdefault(place, option) != option:
                raise UsageError(
                    f"patterns give linears of group {group.name} different formats",
                    "pin all of it alike, or choose `granularity=tensor`",
                )
            reasons.setdefault(place, reason)
    for n, (pattern, _) in enumerate(rules):
        if n not in used:
            endings = dict.fromkeys(one.module.rpartition(".")[2] for one in costs.linears)
            raise UsageError(
                f"pattern {pattern!r} fits no linear with a cost",
                f"names end in {', '.join(list(endings)[:8])}",
            )
    return pinned, reasons


def _pattern(costs: Costs, text: str) -> tuple[str, int]:
    """`PATTERN=FORMAT` as a pattern and the place of its format."""
    pattern, equals, name = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(f"pattern {text!r} names no format", "write '*.down_proj=bf16'")
    if name in KEPT_NAMES:
        return pattern, len(costs.formats) - 1
    if name not in costs.formats:
        fitting = [one for one in costs.formats if one.partition(":")[0] == name]
        if len(fitting) != 1:
            parse_spec(name)  # an unknown name is another mistake
            raise unknown_name("format of a pattern", name, costs.formats)
        name = fitting[0]
    return pattern, costs.formats.index(name)


def _modules(asked: Question, choice: Indices) -> list[Module]:
    costs, problem = asked.costs, asked.problem
    group_of = {member: n for n, group in enumerate(problem.groups) for member in group.members}
    modules = []
    for n, linear in enumerate(costs.linears):
        place, group = group_of[n], problem.groups[group_of[n]]
        chosen = costs.formats[choice[n]]
        modules.append(
            Module(
                module=linear.module,
                layer=linear.layer,
                kind=linear.kind,
                parameters=linear.parameters,
                format=chosen,
                operands=None if chosen == KEPT else asked.operands,
                kl=float(costs.kl[n, choice[n]]),
                group=group.name,
                pinned=place in problem.pinned,
                why=asked.reasons.get(place) or _why(costs, group, int(choice[n])),
            )
        )
    return modules


def _why(costs: Costs, group: Group, chosen: int) -> str:
    """What a group's format saves against the lowest, or what keeping it in bf16 would."""
    kl = costs.kl[list(group.members)].sum(axis=0)
    of = "" if len(group.members) == 1 else f" for the {counted(len(group.members), 'linear')}"
    if chosen == 0:
        return f"costs {kl[0]:.2g} nats a token{of}"
    added = costs.bits[list(group.members)].sum(axis=0)
    more = (added[chosen] - added[0]) / costs.parameters
    return (
        f"saves {kl[0] - kl[chosen]:.2g} nats a token{of} against {costs.formats[0]}, "
        f"for {more:.2g} bits a weight of the model"
    )


def _check(scan: Scan, formats: Sequence[str]) -> tuple[bool | None, str]:
    """What the scan's check says of these formats, all of them together."""
    assert scan.sensitivity is not None
    verdicts = {name: verdict(scan.sensitivity, name) for name in formats}
    results = [result for result, _ in verdicts.values()]
    holds = False if False in results else None if None in results else True
    return holds, "; ".join(f"{name}: {words}" for name, (_, words) in verdicts.items())


def _idle_budget(budget: Budget, lightest: Point) -> Iterator[str]:
    """A limit that even the fewest bits keep: mostly nats where a share was meant."""
    if budget.max_kl is not None and budget.max_kl > lightest.kl * (1 + TOLERANCE):
        yield (
            f"the budget, {budget.max_kl:.3g} nats a token, limits nothing: the fewest bits are "
            f"predicted to cost {lightest.kl:.3g}; a share of that is written 50%"
        )


def _warnings(
    asked: Question,
    point: Point,
    holds: bool | None,
    check: str,
    comparisons: Sequence[Comparison],
) -> Iterator[str]:
    if holds is False:
        yield f"predictions are known to be off on this model ({check}): measure the recipe"
    elif holds is None:
        yield "nothing says how good the predictions are here: the scan did not check every format"
    costs = asked.scan.sensitivity
    groups = sum(map(bool, costs.tokens)) if costs else 0
    if few := few_prompts(asked.scan.calibration.prompts or 0, groups):
        yield few
    if asked.costs.left_out:
        missing = asked.costs.left_out
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        yield (
            f"{counted(len(missing), 'linear')} without costs, kept in 16 bits and not counted in "
            f"the bits: {missing[0]}{more}"
        )
    within = [one for one in comparisons if one.bits <= point.bits * (1 + TOLERANCE)]
    for one in within:
        if one.verdict != "lower":
            what = "costs more than" if one.verdict == "higher" else "is not surely better than"
            yield (
                f"a recipe of {one.bits:.3g} bits {what} {one.name!r}: "
                f"{1e3 * one.difference:+.3g} mnat{_ends(one)}"
            )


def _ends(one: Comparison) -> str:
    if one.difference_interval is None:
        return ""
    low, high = one.difference_interval
    return f" ({1e3 * low:+.3g} to {1e3 * high:+.3g})"
