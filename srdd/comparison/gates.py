"""Gates: limits on a comparison, written as `sqnr_db < -0.5`, and where they are breached.

    gate    = [scope] [which "."] metric sign number [unit]
    scope   = "layer" | "overall"     each row (default), or all of them together
    which   = "difference" | "new"    NEW - OLD (default), or NEW's figure
    sign    = "<" | "<=" | ">" | ">="
    unit    = "dB" of decibels, "%" of fractions, "mnat" of nats

`overall new.sqnr_db < 15 dB` and `relative_error > 2%` are gates; the beginning of a metric's name
will do. A gate says what is wrong: it is breached where it is true. A row is a layer, or a kind or
tensor in a comparison by these.

Only what is significant counts, by default: a difference where its verdict says so, a
figure of NEW where all of its 95 % interval is beyond the limit. A gate with nothing to judge is an
error and never passes: a gate that cannot fail protects nobody.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterator

from srdd.documents.comparison import (
    BETTER,
    NO_INTERVAL,
    UNDEFINED,
    UNSEEN,
    WORSE,
    Breach,
    Comparison,
    Difference,
    Gate,
    Group,
    Outcome,
    Place,
    Selection,
)
from srdd.errors import InputError, UsageError, counted
from srdd.numerics.metrics import FIGURES, KL, metric_name

SIGNS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}

HINT = (
    "write a gate as 'sqnr_db < -0.5', 'overall relative_error > 2%' or 'new.sqnr_db < 15'; "
    "several gates are several `fail_on`"
)

_GATE = re.compile(
    r"\s*(?:(?P<scope>layer|overall)\s+)?(?:(?P<which>difference|new)\s*\.\s*)?(?P<metric>\w+)"
    r"\s*(?P<sign><=?|>=?)\s*(?P<number>[-+−]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
    r"\s*(?P<unit>%|[dD][bB]|mnat)?\s*"
)


def parse_gate(text: str) -> Gate:
    """A gate from its text; see the module for the grammar.

    Raises:
        UsageError: it does not follow the grammar, names no metric, has the wrong unit, or a limit
            that the metric cannot reach.
    """
    match = _GATE.fullmatch(text)
    if match is None:
        raise UsageError(f"not a gate: {text!r}", HINT)
    name = metric_name(match["metric"], FIGURES)
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
    return Gate.model_validate(
        {
            "text": text.strip(),
            "scope": match["scope"] or "layer",
            "which": match["which"] or "difference",
            "metric": name,
            "sign": match["sign"],
            "limit": limit,
        }
    )


def beyond(gate: Gate, value: float) -> bool:
    """Whether a figure is beyond the limit of a gate."""
    return bool(SIGNS[gate.sign](value, gate.limit))


def gate_warning(gate: Gate) -> str | None:
    """What is odd about a gate, if anything: it is breached where NEW is not worse."""
    higher_is_better = FIGURES[gate.metric].higher_is_better
    if higher_is_better is None:
        return None
    better = f"of {gate.metric}, {'higher' if higher_is_better else 'lower'} is better"
    if gate.sign.startswith("<") != higher_is_better:
        return f"the gate {gate.text!r} is breached where NEW is good: {better}"
    # `< 0.5` of a difference also holds where nothing changed.
    if gate.which == "difference" and gate.limit != 0 and beyond(gate, 0):
        return (
            f"the gate {gate.text!r} is breached where NEW is somewhat better, too: {better}, and "
            "a difference is NEW - OLD"
        )
    return None


def judge(comparison: Comparison, gate: Gate, *, count_unsure: bool = False) -> Outcome:
    """Apply a gate to a comparison.

    Arguments:
        count_unsure: whether what is beyond the limit counts although it may be chance.

    Raises:
        InputError: there is nothing that could breach it.
    """
    breaches: list[Breach] = []
    unsure = looked_at = unknown = 0
    for group, place, each in _differences(comparison, gate):
        value, significant = _new(each, gate) if gate.which == "new" else _change(each)
        if value is None or (significant is None and not count_unsure):
            unknown += 1
            continue
        looked_at += 1
        if beyond(gate, value) and (count_unsure or significant):
            finite = value if math.isfinite(value) else None
            selection = {name: getattr(group, name) for name in Selection.model_fields}
            breaches.append(
                Breach(**selection, layer=place.layer, tensor=place.tensor, value=finite)
            )
        elif beyond(gate, value):
            unsure += 1
    if not looked_at:
        raise _nothing_to_judge(gate, unknown, count_unsure)
    return Outcome(
        gate=gate,
        passed=not breaches,
        breaches=tuple(breaches),
        unsure=unsure,
        looked_at=looked_at,
        unknown=unknown,
    )


def _differences(comparison: Comparison, gate: Gate) -> Iterator[tuple[Group, Place, Difference]]:
    for group in (*comparison.groups, *comparison.costs):
        if gate.metric not in group.rows[0].metrics:
            continue
        if gate.scope == "layer":
            for row in group.rows:
                yield group, row, row.metrics[gate.metric]
        elif group.overall is not None:
            yield group, Place(layer=None, tensor=None), group.overall[gate.metric]


def _change(each: Difference) -> tuple[float | None, bool | None]:
    """The difference, infinite where one scan is exact; and whether it is significant, if known."""
    value = each.difference
    if value is None:
        value = {BETTER: math.inf, WORSE: -math.inf, UNSEEN: 0.0}.get(each.verdict)
    known = each.verdict not in (NO_INTERVAL, UNDEFINED)
    return value, each.significant if known else None


def _new(each: Difference, gate: Gate) -> tuple[float | None, bool | None]:
    """NEW's figure, infinite where it is exact; and whether all its interval is beyond the gate."""
    if each.new is None:
        return (math.inf, True) if each.verdict in (BETTER, UNSEEN) else (None, None)
    ends = (each.new,) if each.exact else each.new_interval
    return each.new, None if ends is None else all(beyond(gate, end) for end in ends)


def _nothing_to_judge(gate: Gate, unknown: int, count_unsure: bool) -> InputError:
    if unknown and not count_unsure:
        what = f"{counted(unknown, 'figure')} without an interval, or undefined"
        hint = "use `count_unsure` to judge figures without intervals, or scan with more prompts"
    else:
        overall = gate.scope == "overall" and not unknown
        what = "no figure of all layers together" if overall else "all are undefined"
        hint = "use scans that hold sums and this metric, or drop the gate"
    if gate.metric == KL.name:
        hint = "scan both with `kl`"
    return InputError(f"the gate {gate.text!r} has nothing to judge: {what}", hint)
