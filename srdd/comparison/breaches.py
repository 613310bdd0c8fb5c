"""Where a comparison is beyond a gate's limit, and whether that is sure.

Only what is sure counts, unless told otherwise:

- a difference counts where its verdict is sure, so where its 95 % interval excludes 0 or it is
  exact;
- a figure of NEW counts where all of its 95 % interval is beyond the limit, or it is exact.

A gate that finds nothing to look at is an error and never passes: a gate that cannot fail protects
nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from srdd.comparison.differences import BETTER, UNDEFINED, UNSEEN, WORSE, Difference
from srdd.comparison.gates import Gate
from srdd.comparison.whole import Comparison, Group
from srdd.errors import InputError, counted


@dataclass(frozen=True)
class Breach:
    """A layer, or all layers of a group together, beyond a limit.

    Attributes:
        layer: None for all layers together.
        value: the difference or figure; None where an exact reconstruction is no more.
    """

    group: Group
    layer: int | None
    value: float | None


@dataclass(frozen=True)
class Outcome:
    """What became of a gate.

    Attributes:
        breaches: where it is breached, surely so unless told otherwise.
        unsure: how many more are beyond the limit without being sure.
        looked_at: how many figures could be judged.
        unknown: how many could not: undefined, or without an interval.
    """

    gate: Gate
    breaches: tuple[Breach, ...]
    unsure: int
    looked_at: int
    unknown: int

    @property
    def held(self) -> bool:
        """Whether the gate is not breached anywhere."""
        return not self.breaches


def judge(comparison: Comparison, gate: Gate, *, count_unsure: bool = False) -> Outcome:
    """Hold a comparison against a gate.

    Arguments:
        count_unsure: whether what is beyond the limit counts although it may be chance.

    Raises:
        InputError: there is nothing that could breach it.
    """
    found: list[Breach] = []
    unsure = looked_at = unknown = 0
    for group, layer, one in _places(comparison, gate):
        value = _figure(one) if gate.which == "new" else _signed(one)
        if value is None or not (count_unsure or _can_be_sure(one, gate)):
            unknown += 1
            continue
        looked_at += 1
        if not gate.beyond(value):
            continue
        if count_unsure or _surely(one, gate):
            found.append(Breach(group, layer, None if math.isinf(value) else value))
        else:
            unsure += 1
    if not looked_at:
        raise _nothing_to_judge(gate, unknown, count_unsure)
    return Outcome(gate, tuple(found), unsure, looked_at, unknown)


def _places(comparison: Comparison, gate: Gate) -> list[tuple[Group, int | None, Difference]]:
    found: list[tuple[Group, int | None, Difference]] = []
    for group in comparison.groups:
        if gate.scope == "layer":
            found += [(group, one.layer, one.differences[gate.metric]) for one in group.layers]
        elif group.overall is not None:
            found.append((group, None, group.overall[gate.metric]))
    return found


def _signed(one: Difference) -> float | None:
    """The difference; without end where only one of the two reproduces its values exactly."""
    if one.difference is None:
        return {BETTER: math.inf, WORSE: -math.inf, UNSEEN: 0.0}.get(one.verdict)
    return one.difference


def _figure(one: Difference) -> float | None:
    """NEW's figure; without end where it reproduces its values exactly."""
    reproduced = one.new is None and one.verdict in (BETTER, UNSEEN)
    return math.inf if reproduced else one.new


def _can_be_sure(one: Difference, gate: Gate) -> bool:
    if one.exact or (one.difference is None and one.verdict != UNDEFINED):
        return True
    return (one.new_interval if gate.which == "new" else one.interval) is not None


def _surely(one: Difference, gate: Gate) -> bool:
    if gate.which == "new":
        return one.exact or all(gate.beyond(end) for end in one.new_interval or ())
    return one.sure


def _nothing_to_judge(gate: Gate, unknown: int, count_unsure: bool) -> InputError:
    if unknown and not count_unsure:
        return InputError(
            f"the gate {gate.text!r} has nothing to judge: {counted(unknown, 'figure')} without an "
            "interval, or undefined",
            "add --count-unsure to judge figures without intervals, scan with more prompts, or "
            "gate a metric that the scans have",
        )
    what = "all layers together have no figure" if gate.scope == "overall" else "all are undefined"
    return InputError(
        f"the gate {gate.text!r} has nothing to judge: {what}",
        "use scans that hold sums and this metric, or drop the gate",
    )
