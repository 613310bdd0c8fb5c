"""A comparison of two scans as blocks: what changed, how sure, and what to know first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from srdd.comparison import Comparison, Difference, Group, Outcome
from srdd.comparison.compare import Row
from srdd.comparison.differences import BETTER, CHANGED, NO_INTERVAL, UNDEFINED, UNSEEN, WORSE
from srdd.comparison.ranks import Move
from srdd.errors import counted
from srdd.numerics.metrics import FIGURES
from srdd.reports.groups import quantized
from srdd.reports.markdown import render_within
from srdd.reports.view import (
    INDEX,
    Block,
    Cell,
    Column,
    Estimate,
    Field,
    Measure,
    Span,
    Text,
    Word,
    tabulate,
)

MEANINGS: dict[Word, str] = {
    Word(WORSE, "bad"): "its 95 % interval excludes 0, or the figures are exact",
    Word(BETTER, "good"): "its 95 % interval excludes 0, or the figures are exact",
    Word(CHANGED, "neutral"): "the same, of a metric that has no better and worse",
    Word(UNSEEN, "neutral"): "its 95 % interval includes 0, or it is no more than rounding",
    Word(NO_INTERVAL, "warning"): "it is unknown how far other prompts would move it",
    Word(UNDEFINED, "warning"): "a figure is missing in one of the scans",
}
"""The verdicts on a difference with their meanings, the most important first."""

WORDS = {word.text: word for word in MEANINGS}

BASES = {
    "paired": "the same prompts, drawn together",
    "independent": "other prompts, drawn independently",
    "exact": "weights: exact, no interval needed",
    "none": "no intervals",
}

LEGEND = (
    "Difference = NEW - OLD, in dB or percentage points, with its 95 % interval over prompts. "
    "better, worse: the interval excludes 0, or the figure is exact; no difference seen: it does "
    "not, or the difference is no more than rounding. Of twenty rows that do not differ, about one "
    "is called better or worse by chance."
)

DIGITS, MOST_DIGITS = 2, 5
"""Decimals of decibels and percentages; more only for differences that are sure and small."""

MOST_ROWS, MOST_MOVES, MOST_NAMED = 30, 10, 40

COMMENT = 65_000
"""Characters of a comment on a pull request, with room to spare: GitHub takes 65,536."""

_SHRINK = ((1_000_000, 1_000_000), (200, 30), (60, 12), (20, 8), (5, 4), (0, 2))
"""Rows of a table and groups of a comment, from all to as few as need be."""


def comparison_blocks(
    comparison: Comparison,
    outcomes: Sequence[Outcome] = (),
    *,
    rows: int = MOST_ROWS,
    groups: int = 1_000_000,
    details: bool = False,
) -> list[Block]:
    """Everything a person sees of a comparison, the answer first.

    Arguments:
        outcomes: of the gates.
        rows: of a table at most, those that changed most.
        groups: pairs of site and format that have tables.
        details: whether tables of rows are folded away in a document.
    """
    metric = comparison.metric
    shown = comparison.groups[:groups]
    blocks: list[Block] = [*_gates(outcomes)]
    blocks += [Text(f"{_title(group)}: {_counts(group, metric)}", "answer") for group in shown]
    blocks += [Text(each.text, "warning") for each in comparison.remarks if each.warning]
    blocks += [Text(facts, "note") for facts in _sides(comparison)]
    blocks += [Text(each.text, "note") for each in comparison.remarks if not each.warning]
    blocks += [Text(f"left out: {each}", "note") for each in comparison.left_out[:50]]
    for group in shown:
        blocks += _group(group, metric, rows, details)
    if (hidden := len(comparison.groups) - groups) > 0:
        blocks.append(Text(f"{hidden:,} more pairs of site and format do not fit here."))
    return [*blocks, Text(LEGEND, "note")]


def comparison_comment(comparison: Comparison, outcomes: Sequence[Outcome] = ()) -> str:
    """Markdown that fits into a comment on a pull request: the gates and the answer on top."""
    breached = any(not one.passed for one in outcomes)
    title = "a gate is breached" if breached else "all gates passed" if outcomes else "compared"

    def attempt(rows: int, groups: int) -> Iterable[Block]:
        yield Text(f"srdd compare: {title}", "heading")
        yield from comparison_blocks(comparison, outcomes, rows=rows, groups=groups, details=True)

    attempts = [lambda size=size: attempt(*size) for size in _SHRINK]
    return render_within(COMMENT, attempts, level=4)


# What changed


def _title(group: Group) -> str:
    matched = group.matched
    place = matched.site
    if matched.operands is not None:
        place += f", {quantized(matched.operands)}"
    old, new = matched.old_format, matched.new_format
    return f"site {place}, {old if old == new else f'{old} compared with {new}'}"


def _noun(group: Group) -> str:
    first = group.rows[0].place
    return "kind" if first.layer is None else "tensor" if first.tensor else "layer"


def _unit(metric: str) -> str:
    unit = FIGURES[metric].unit
    return "percentage points" if unit == "%" else unit


def _signed(metric: str, value: float | None, digits: int = DIGITS) -> str:
    return Measure.of(metric, digits=digits, signed=True).text(value)


def _counts(group: Group, metric: str) -> str:
    """How many rows have each verdict, the median difference, and how alike the orders are."""
    found = group.verdicts(metric)
    words = ", ".join(f"{found[word]:,} {word}" for word in WORDS if found[word])
    median = group.median(metric)
    middle = "" if median is None else f"; median difference {_signed(metric, median)} "
    middle += "" if median is None else _unit(metric)
    order = "" if group.tau is None else f"; Kendall's tau of the orders {group.tau:.2f}"
    title = FIGURES[metric].title
    return f"{title} of {counted(len(group.rows), _noun(group))}: {words}{middle}{order}."


def _sides(comparison: Comparison) -> Iterator[str]:
    """OLD and NEW, each with the facts that tell which scan it is."""
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
        yield f"{which}  {' | '.join(facts)}"


# Tables


def _digits(one: Difference) -> int:
    """Decimals with which a difference that is sure does not look like none."""
    if one.difference is None or not one.significant:
        return DIGITS
    scale = FIGURES[one.metric].scale
    least = scale * min(map(abs, (one.difference, *(one.interval or ()))))
    digits = DIGITS
    while digits < MOST_DIGITS and round(least, digits) == 0:
        digits += 1
    return digits


def _interval(one: Difference) -> Cell:
    measure = Measure.of(one.metric, digits=_digits(one), signed=True)
    if one.interval is None:
        return "exact" if one.exact and one.difference is not None else None
    return Span(*one.interval, measure)


def _change(one: Difference) -> Cell:
    return Estimate(
        one.difference, measure=Measure.of(one.metric, digits=_digits(one), signed=True)
    )


def _difference_fields(unit: str = "") -> list[Field[tuple[Cell, Difference]]]:
    def figure(which: str) -> Field[tuple[Cell, Difference]]:
        def cell(row: tuple[Cell, Difference]) -> Cell:
            measure = Measure.of(row[1].metric, digits=DIGITS)
            return Estimate(getattr(row[1], which), measure=measure)

        return Field(Column(which.upper(), Measure(unit), priority=4), cell)

    return [
        figure("old"),
        figure("new"),
        Field(Column("difference", Measure(unit)), lambda row: _change(row[1])),
        Field(Column("95 % interval", priority=3), lambda row: _interval(row[1])),
        Field(Column("verdict", align="left", priority=1), lambda row: WORDS[row[1].verdict]),
    ]


def _group(group: Group, metric: str, rows: int, details: bool) -> Iterator[Block]:
    basis = BASES[group.basis]
    if group.overall is not None:
        whole = [
            (FIGURES[name].label, one)
            for name, one in group.overall.items()
            if one.old is not None or one.new is not None
        ]
        fields = [
            Field[tuple[Cell, Difference]](Column("metric", align="left"), lambda row: row[0]),
            Field[tuple[Cell, Difference]](
                Column("unit", align="left", priority=2), lambda row: FIGURES[row[1].metric].unit
            ),
            *_difference_fields(),
        ]
        yield tabulate(f"All {_noun(group)}s together, {_title(group)} ({basis})", fields, whole)
    yield _rows(group, metric, rows, details)
    moved, others = _moved(group)
    if moved and rows:
        yield _moves(group, metric, moved, details)
    elif others:
        yield Text(f"{counted(others, _noun(group))} moved in rank no farther than chance.")


def _rows(group: Group, metric: str, most: int, details: bool) -> Block:
    rows = list(group.rows)
    if len(rows) > most:
        by_change = sorted(rows, key=lambda row: -abs(row.differences[metric].difference or 0.0))
        chosen = {id(row) for row in by_change[:most]}
        rows = [row for row in rows if id(row) in chosen]
    noun = _noun(group)
    some = f"{len(rows)} of {len(group.rows):,} {noun}s, those that changed most"
    what = some if len(rows) < len(group.rows) else f"All {noun}s"
    fields = [
        *_place_fields([row.place.layer for row in rows]),
        *_difference_fields(FIGURES[metric].unit),
    ]
    cells = [(_label(row), row.differences[metric]) for row in rows]
    title = f"{FIGURES[metric].title}: {what}, {_title(group)}"
    return tabulate(title, fields, cells, details=details)


def _label(row: Row) -> Cell:
    return row.layer if row.layer is not None and not row.place.tensor else row.label


def _place_fields(layers: Sequence[int | None]) -> list[Field[tuple[Cell, Difference]]]:
    title = "layer" if layers and layers[0] is not None else "kind"
    return [Field(Column(title, INDEX), lambda row: row[0])]


def _moved(group: Group) -> tuple[list[Move], int]:
    """The rows that moved in rank, those that surely did if that can be told; and how many else.

    Without replicates nothing tells, and all are given.
    """
    if any(move.significant is None for move in group.moves):
        return list(group.moves), 0
    sure = [move for move in group.moves if move.significant]
    return sure, len(group.moves) - len(sure)


def _moves(group: Group, metric: str, moved: Sequence[Move], details: bool) -> Block:
    shown = moved[:MOST_MOVES]
    words = {row.place: row.differences[metric].verdict for row in group.rows}
    title = f"Moved in rank by {FIGURES[metric].title}, 1 is the worst"
    if len(shown) < len(moved):
        title += f" ({len(shown)} of {len(moved)})"
    fields = [
        Field[Move](Column(_noun(group)), lambda move: move.place.label),
        Field[Move](Column("rank in OLD", INDEX), lambda move: move.old),
        Field[Move](Column("rank in NEW", INDEX), lambda move: move.new),
        Field[Move](
            Column("verdict", align="left", priority=1), lambda move: WORDS[words[move.place]]
        ),
    ]
    return tabulate(title, fields, shown, details=details)


# Gates


def _gates(outcomes: Sequence[Outcome]) -> Iterator[Text]:
    for one in outcomes:
        yield Text(f"gate {one.gate.text}: {outcome(one)}", "answer" if one.passed else "alarm")


def outcome(one: Outcome) -> str:
    """The result of a gate in a sentence; names the rows."""
    whole = one.gate.scope == "overall"
    if one.passed:
        found = (
            f"passed: {'all layers together are within it' if whole else 'nothing is beyond it'}"
        )
    else:
        found = f"breached: {'; '.join(_breaches(one))}"
    if one.unsure:
        found += f" ({one.unsure} beyond the limit, but not significantly)"
    if one.unknown:
        title = FIGURES[one.gate.metric].title
        found += f" ({counted(one.unknown, 'figure')} of {title} could not be judged)"
    return found


def _breaches(one: Outcome) -> Iterator[str]:
    for group in dict.fromkeys(id(breach.group) for breach in one.breaches):
        inside = [breach for breach in one.breaches if id(breach.group) == group]
        shown = [f"{each.place.label} ({_value(one, each.value)})" for each in inside[:MOST_NAMED]]
        layer = inside[0].place.layer is not None
        word = "" if not layer else "layer " if len(inside) == 1 else "layers "
        more = f" and {len(inside) - MOST_NAMED:,} more" if len(inside) > MOST_NAMED else ""
        yield f"{word}{', '.join(shown)}{more} at {_title(inside[0].group)}"


def _value(one: Outcome, value: float | None) -> str:
    if value is None:
        return "no longer exact"
    signed = one.gate.which != "new"
    return Measure.of(one.gate.metric, digits=DIGITS, signed=signed).with_unit(value)
