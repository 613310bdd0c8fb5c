"""Gates: limits on a comparison, written as `sqnr_db < -0.5`, and where they are breached.

    gate    = [scope] [which "."] metric sign number [unit]
    scope   = "layer" | "overall"     each row (default), or all of them together
    which   = "difference" | "new"    NEW - OLD (default), or NEW's figure
    sign    = "<" | "<=" | ">" | ">="
    unit    = "dB" of decibels, "%" of fractions, "mnat" of nats

`overall new.sqnr_db < 15 dB` and `relative_error > 2%` are gates. A gate says what is wrong: it is
breached where it is true. A row is a layer, or a kind or tensor in a comparison by these.

Only what is significant counts, unless told otherwise: a difference where its verdict says so, a
figure of NEW where all of its 95 % interval is beyond the limit. A gate with nothing to judge is an
error and never passes: a gate that cannot fail protects nobody.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from srdd.comparison.compare import Comparison, Group
from srdd.comparison.differences import BETTER, UNDEFINED, UNSEEN, WORSE, Difference
from srdd.comparison.pairing import Place
from srdd.errors import InputError, UsageError, counted, unknown_name
from srdd.numerics.metrics import FIGURES, KL

SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

HINT = (
    "write a gate as 'sqnr_db < -0.5', 'overall relative_error > 2%' or 'new.sqnr_db < 15'; repeat "
    "--fail-on for several"
)

_GATE = re.compile(
    r"\s*(?:(?P<scope>layer|overall)\s+)?(?:(?P<which>difference|new)\s*\.\s*)?(?P<metric>\w+)"
    r"\s*(?P<sign><=?|>=?)\s*(?P<number>[-+−]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"\s*(?P<unit>%|[dD][bB]|mnat)?\s*"
)


@dataclass(frozen=True)
class Gate:
    """A limit.

    Attributes:
        text: as it was given.
        scope: whether it looks at each row or at all together.
        which: whether it looks at NEW - OLD or at NEW.
        metric: of srdd.numerics.metrics.FIGURES.
        sign: of SIGNS.
        limit: in the metric's own unit: dB, or a fraction.
    """

    text: str
    scope: Literal["layer", "overall"]
    which: Literal["difference", "new"]
    metric: str
    sign: str
    limit: float

    def beyond(self, value: float) -> bool:
        """Whether a figure is beyond the limit."""
        return SIGNS[self.sign](value, self.limit)

    @property
    def warning(self) -> str | None:
        """What is odd about the gate, if anything: it is breached where NEW is not worse."""
        higher_is_better = FIGURES[self.metric].higher_is_better
        if higher_is_better is None:
            return None
        good = f"of {self.metric}, {'higher' if higher_is_better else 'lower'} is better"
        lower = self.sign.startswith("<")
        if lower != higher_is_better:
            return f"the gate {self.text!r} is breached where NEW is good: {good}"
        # `< 0.5` of a difference also holds where nothing changed.
        beyond_nothing = self.limit > 0 if lower else self.limit < 0
        if self.which == "difference" and beyond_nothing:
            return (
                f"the gate {self.text!r} is breached where NEW is somewhat better, too: {good}, "
                "and a difference is NEW - OLD"
            )
        return None


def parse_gate(text: str) -> Gate:
    """A gate from its text; see the module for the grammar.

    Raises:
        UsageError: it does not follow the grammar, names no metric, has the wrong unit, or a limit
            that the metric cannot reach.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise UsageError(f"not a gate: {text!r}", HINT)
    name = match["metric"]
    if name not in FIGURES:
        raise unknown_name("metric", name, FIGURES)
    metric = FIGURES[name]
    unit = (match["unit"] or "").lower()
    if unit and unit != metric.unit.lower():
        raise UsageError(
            f"the gate {text!r} has the unit {match['unit']}", f"{name} is in {metric.unit}"
        )
    limit = float(match["number"].replace("−", "-")) / (metric.scale if unit else 1.0)
    if not math.isfinite(limit):
        raise UsageError(f"the limit of the gate {text!r} is too large", HINT)
    if metric.largest is not None and abs(limit) > metric.largest:
        raise UsageError(
            f"{name} is at most {metric.shown(metric.largest, digits=0)} {metric.unit}, and the "
            f"gate {text!r} asks for {metric.shown(limit, digits=0)} {metric.unit}",
            f"write {match['number']}% for per cent" if not unit else "lower the limit",
        )
    return Gate(
        text.strip(),
        "overall" if match["scope"] == "overall" else "layer",
        "new" if match["which"] == "new" else "difference",
        name,
        match["sign"],
        limit,
    )


@dataclass(frozen=True)
class Breach:
    """A row, or all rows of a group together, beyond a limit.

    Attributes:
        value: the difference or figure; None where an exact reconstruction is lost.
    """

    group: Group
    place: Place
    value: float | None


@dataclass(frozen=True)
class Outcome:
    """The result of a gate.

    Attributes:
        breaches: where it is breached, significantly unless told otherwise.
        unsure: how many more are beyond the limit without being significant.
        looked_at: how many figures could be judged.
        unknown: how many could not: undefined, or without an interval.
    """

    gate: Gate
    breaches: tuple[Breach, ...]
    unsure: int
    looked_at: int
    unknown: int

    @property
    def passed(self) -> bool:
        """Whether the gate is not breached anywhere."""
        return not self.breaches


def judge(comparison: Comparison, gate: Gate, *, count_unsure: bool = False) -> Outcome:
    """Apply a gate to a comparison.

    Arguments:
        count_unsure: whether what is beyond the limit counts although it may be chance.

    Raises:
        InputError: there is nothing that could breach it.
    """
    breaches: list[Breach] = []
    unsure = looked_at = unknown = 0
    for group, place, each in _figures(comparison, gate):
        value, significant = _new(each, gate) if gate.which == "new" else _difference(each)
        if value is None or (significant is None and not count_unsure):
            unknown += 1
            continue
        looked_at += 1
        if gate.beyond(value):
            if count_unsure or significant:
                breaches.append(Breach(group, place, None if math.isinf(value) else value))
            else:
                unsure += 1
    if not looked_at:
        raise _nothing_to_judge(gate, unknown, count_unsure)
    return Outcome(gate, tuple(breaches), unsure, looked_at, unknown)


def _figures(comparison: Comparison, gate: Gate) -> Iterator[tuple[Group, Place, Difference]]:
    for group in comparison.costs if gate.metric == KL.name else comparison.groups:
        if gate.scope == "layer":
            for row in group.rows:
                yield group, row.place, row.differences[gate.metric]
        elif group.overall is not None:
            yield group, Place(None, None), group.overall[gate.metric]


def _difference(each: Difference) -> tuple[float | None, bool | None]:
    """The difference, infinite where one scan is exact; and whether it is significant, if known."""
    if each.difference is None:
        value = {BETTER: math.inf, WORSE: -math.inf, UNSEEN: 0.0}.get(each.verdict)
        return value, None if each.verdict == UNDEFINED else each.significant
    known = each.exact or each.interval is not None
    return each.difference, each.significant if known else None


def _new(each: Difference, gate: Gate) -> tuple[float | None, bool | None]:
    """NEW's figure, infinite where it is exact; and whether all its interval is beyond the gate."""
    if each.new is None:
        return (math.inf, True) if each.verdict in (BETTER, UNSEEN) else (None, None)
    if each.exact:
        return each.new, True
    if each.new_interval is None:
        return each.new, None
    return each.new, all(map(gate.beyond, each.new_interval))


def _nothing_to_judge(gate: Gate, unknown: int, count_unsure: bool) -> InputError:
    if unknown and not count_unsure:
        what = f"{counted(unknown, 'figure')} without an interval, or undefined"
        hint = "add --count-unsure to judge figures without intervals, or scan with more prompts"
    else:
        overall = gate.scope == "overall" and not unknown
        what = "no figure of all layers together" if overall else "all are undefined"
        hint = "use scans that hold sums and this metric, or drop the gate"
    if gate.metric == KL.name:
        hint = "scan both with --kl"
    return InputError(f"the gate {gate.text!r} has nothing to judge: {what}", hint)
