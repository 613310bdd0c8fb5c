"""A comparison's figures and findings as text, for tables of any kind."""

from __future__ import annotations

from collections.abc import Iterable

from srdd.comparison import Comparison, Difference, Group, Outcome
from srdd.comparison.differences import BETTER, CHANGED, NO_INTERVAL, UNDEFINED, UNSEEN, WORSE
from srdd.comparison.ranks import Move
from srdd.errors import counted
from srdd.numerics.metrics import METRICS
from srdd.reports.groups import quantized

TITLES = {
    "sqnr_db": "SQNR dB",
    "deadzone": "deadzone %",
    "saturation": "saturation %",
    "clipping_share": "clipping share %",
    "relative_error": "rel. error %",
    "relative_l1": "sum|e|/sum|x| %",
}
"""Metrics with their units; a difference of percentages is in percentage points."""

STYLES = {
    BETTER: "green",
    WORSE: "red",
    CHANGED: "cyan",
    UNSEEN: "dim",
    NO_INTERVAL: "yellow",
    UNDEFINED: "yellow",
}
"""Colours that underline the verdicts; the words alone suffice."""

BASES = {
    "paired": "the same prompts in both",
    "independent": "independent prompts",
    "exact": "weights: exact, no interval needed",
    "none": "no intervals",
}

DIGITS, MOST_DIGITS = 2, 5
"""Decimals of decibels and percentages; more only for differences that are sure and small."""

MOST_NAMED = 40
"""Layers that a sentence names."""


def scale(metric: str) -> float:
    """Factor to the unit that a person reads: decibels stay, fractions become per cent."""
    return 1.0 if metric == "sqnr_db" else 100.0


def figure(metric: str, value: float | None) -> str:
    """A figure; a dash where it is undefined."""
    return "-" if value is None else f"{scale(metric) * value:.{DIGITS}f}"


def signed(metric: str, value: float | None, digits: int = DIGITS) -> str:
    """A difference with its sign; one that rounds to zero has none."""
    if value is None:
        return "-"
    shown = f"{scale(metric) * value:+.{digits}f}"
    return shown if float(shown) else shown[1:]


def _digits(one: Difference) -> int:
    """Decimals with which a difference that is sure does not look like none."""
    if one.difference is None or not one.significant:
        return DIGITS
    least = scale(one.metric) * min(map(abs, (one.difference, *(one.interval or ()))))
    digits = DIGITS
    while digits < MOST_DIGITS and round(least, digits) == 0:
        digits += 1
    return digits


def change(one: Difference) -> str:
    """A difference with its sign, in decibels or percentage points."""
    return signed(one.metric, one.difference, _digits(one))


def interval(one: Difference) -> str:
    """The 95 % interval of a difference, in words where there is none."""
    if one.interval is None:
        return "exact" if one.exact and one.difference is not None else "-"
    low, high = (signed(one.metric, end, _digits(one)) for end in one.interval)
    return f"{low} to {high}"


def shown_metrics(group: Group) -> list[str]:
    """The metrics that a group has at all."""
    layers = [row.differences for row in group.rows]
    return [
        metric
        for metric in METRICS
        if any(one[metric].old is not None or one[metric].new is not None for one in layers)
    ]


def place(group: Group) -> str:
    """The site, and which operands are quantized; untrusted text."""
    found = group.matched
    return found.site if found.operands is None else f"{found.site}, {quantized(found.operands)}"


def formats(group: Group) -> str:
    """The format, or the two that are compared; untrusted text."""
    old, new = group.matched.old_format, group.matched.new_format
    return old if old == new else f"{old} compared with {new}"


def counts(group: Group, metric: str) -> str:
    """How many layers have each verdict, and the median difference, in a sentence."""
    found = group.verdicts(metric)
    words = [f"{found[word]:,} {word}" for word in STYLES if found[word]]
    median = group.median(metric)
    unit = "dB" if metric == "sqnr_db" else "percentage points"
    middle = "" if median is None else f"; median difference {signed(metric, median)} {unit}"
    return f"{counted(len(group.rows), noun(group))}: {', '.join(words)}{middle}."


def noun(group: Group) -> str:
    """What its rows are."""
    first = group.rows[0].place
    return "kind" if first.layer is None else "tensor" if first.tensor else "layer"


def surely_moved(group: Group) -> tuple[list[Move], int]:
    """The layers that moved in rank, those that surely did if that can be told; and how many else.

    Without replicates nothing tells, and all are given.
    """
    if any(move.significant is None for move in group.moves):
        return list(group.moves), 0
    sure = [move for move in group.moves if move.significant]
    return sure, len(group.moves) - len(sure)


def order(group: Group, metric: str) -> str:
    """How alike the two rankings are, in a sentence."""
    if group.tau is None:
        return f"The {noun(group)}s have no order to compare."
    sure, others = surely_moved(group)
    more = ""
    if others:
        rows = counted(others, f"more {noun(group)}" if sure else noun(group))
        more = f"; {rows} moved no farther than other prompts might move them"
    name = TITLES[metric].removesuffix(" %").removesuffix(" dB")
    return f"Order of the {noun(group)}s by {name} in both: Kendall's tau {group.tau:.2f}{more}."


def outcome(one: Outcome) -> str:
    """What became of a gate, in a sentence; names the layers."""
    metric = one.gate.metric
    whole = one.gate.scope == "overall"
    what = "all layers together are within it" if whole else "nothing is beyond it"
    if one.passed:
        told = f"passed: {what}"
    else:
        told = f"breached: {'; '.join(_breaches(one))}"
    if one.unsure:
        told += f" ({one.unsure} beyond the limit, but not significantly)"
    if one.unknown:
        told += f" ({counted(one.unknown, 'figure')} of {TITLES[metric]} could not be judged)"
    return told


def _breaches(one: Outcome) -> Iterable[str]:
    for key in dict.fromkeys(id(breach.group) for breach in one.breaches):
        inside = [breach for breach in one.breaches if id(breach.group) == key]
        group, first = inside[0].group, inside[0].place
        shown = [
            f"{breach.place.label} ({_value(one, breach.value)})" for breach in inside[:MOST_NAMED]
        ]
        word = "" if first.layer is None else "layer " if len(inside) == 1 else "layers "
        more = f" and {len(inside) - MOST_NAMED:,} more" if len(inside) > MOST_NAMED else ""
        yield f"{word}{', '.join(shown)}{more} at {place(group)}, {formats(group)}"


def _value(one: Outcome, value: float | None) -> str:
    metric = one.gate.metric
    if value is None:
        return "no longer exact"
    return figure(metric, value) if one.gate.which == "new" else signed(metric, value)


def describe(comparison: Comparison) -> list[tuple[str, str]]:
    """OLD and NEW, each with the facts that tell which scan it is; untrusted text."""
    found = []
    for which, side in (("OLD", comparison.old), ("NEW", comparison.new)):
        model, text = side.scan.model, side.scan.calibration
        facts = [side.source, model.name]
        if model.revision:
            facts.append(f"revision {model.revision[:12]}")
        facts += [model.dtype or "unknown dtype", counted(len(model.layers), "layer")]
        if text.prompts:
            facts.append(f"{counted(text.prompts, 'prompt')}, {counted(text.tokens or 0, 'token')}")
        facts.append(
            f"weights {model.fingerprint[:12]}" if model.fingerprint else "weights unknown"
        )
        found.append((which, " | ".join(facts)))
    return found
