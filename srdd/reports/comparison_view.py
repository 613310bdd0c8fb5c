"""A comparison of two scans as blocks: what changed, how sure, and what to know first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from srdd.documents.comparison import (
    BETTER,
    CHANGED,
    NO_INTERVAL,
    UNDEFINED,
    UNSEEN,
    WORSE,
    Breach,
    Comparison,
    Difference,
    Group,
    Move,
    Outcome,
    Row,
    Selection,
)
from srdd.errors import counted
from srdd.numerics.metrics import FIGURES
from srdd.reports.delimited import written
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
    *,
    rows: int = MOST_ROWS,
    groups: int = 1_000_000,
    details: bool = False,
) -> list[Block]:
    """Everything a person sees of a comparison, the answer first.

    Arguments:
        rows: of a table at most, those that changed most.
        groups: pairs of site and format that have tables.
        details: whether tables of rows are folded away in a document.
    """
    metric = comparison.ranked_by
    shown = comparison.ranked[:groups]
    blocks: list[Block] = [*_gates(comparison.gates)]
    blocks += [Text(f"{_title(group)}: {_counts(group, metric)}", "answer") for group in shown]
    blocks += [Text(each.text, "warning") for each in comparison.remarks if each.warning]
    blocks += [Text(facts, "note") for facts in _sides(comparison)]
    blocks += [Text(each.text, "note") for each in comparison.remarks if not each.warning]
    blocks += [Text(f"left out: {each}", "note") for each in comparison.left_out[:50]]
    for group in shown:
        blocks += _group(group, metric, rows, details)
    if (hidden := len(comparison.ranked) - groups) > 0:
        blocks.append(Text(f"{hidden:,} more pairs of site and format do not fit here."))
    return [*blocks, Text(LEGEND, "note")]


def comparison_comment(comparison: Comparison) -> str:
    """Markdown that fits into a comment on a pull request: the gates and the answer on top."""
    title = "all gates passed" if comparison.gates else "compared"
    if not all(outcome.passed for outcome in comparison.gates):
        title = "a gate is breached"

    def attempt(rows: int, groups: int) -> Iterable[Block]:
        yield Text(f"srdd compare: {title}", "heading")
        yield from comparison_blocks(comparison, rows=rows, groups=groups, details=True)

    attempts = [lambda size=size: attempt(*size) for size in _SHRINK]
    return render_within(COMMENT, attempts, level=4)


def comparison_csv(comparison: Comparison) -> str:
    """A line for each metric of each row, and of all together (`all`); empty where undefined."""
    rows = comparison.rows()
    for row in rows:
        if row["layer"] is None is row["tensor"]:
            row["layer"] = "all"
    return written(rows, "csv")


# What changed


def _title(selection: Selection) -> str:
    place = selection.site
    if selection.operands is not None:
        place += f", {quantized(selection.operands)}"
    old, new = selection.old_format, selection.new_format
    return f"site {place}, {old if old == new else f'{old} compared with {new}'}"


def _noun(group: Group) -> str:
    first = group.rows[0]
    return "kind" if first.layer is None else "tensor" if first.tensor else "layer"


def _unit(metric: str) -> str:
    unit = FIGURES[metric].unit
    return "percentage points" if unit == "%" else unit


def _signed(metric: str, value: float | None, digits: int = DIGITS) -> str:
    return Measure.of(metric, digits=digits, signed=True).text(value)


def _counts(group: Group, metric: str) -> str:
    """How many rows have each verdict, the median difference, and how alike the orders are."""
    verdicts = group.verdicts(metric)
    words = ", ".join(f"{verdicts[word]:,} {word}" for word in WORDS if verdicts[word])
    median = group.median(metric)
    middle = "" if median is None else f"; median difference {_signed(metric, median)} "
    middle += "" if median is None else _unit(metric)
    order = (
        ""
        if group.kendall_tau is None
        else f"; Kendall's tau of the orders {group.kendall_tau:.2f}"
    )
    title = FIGURES[metric].title
    return f"{title} of {counted(len(group.rows), _noun(group))}: {words}{middle}{order}."


def _sides(comparison: Comparison) -> Iterator[str]:
    """OLD and NEW, each with the facts that tell which scan it is."""
    for which, side in (("OLD", comparison.old), ("NEW", comparison.new)):
        facts = [side.source, side.model]
        if side.revision:
            facts.append(f"revision {side.revision[:12]}")
        facts += [side.dtype or "unknown dtype", counted(side.layers, "layer")]
        if side.prompts:
            facts.append(f"{counted(side.prompts, 'prompt')}, {counted(side.tokens or 0, 'token')}")
        facts.append(f"weights {side.fingerprint[:12]}" if side.fingerprint else "weights unknown")
        yield f"{which}  {' | '.join(facts)}"


# Tables


_Line = tuple[Cell, str, Difference]
"""What a row is, the metric, and the metric's difference there."""


def _measure(line: _Line) -> Measure:
    """With so many decimals that a difference that is sure does not look like none."""
    _, metric, each = line
    digits = DIGITS
    if each.difference is not None and each.significant:
        least = FIGURES[metric].scale * min(map(abs, (each.difference, *(each.interval or ()))))
        while digits < MOST_DIGITS and round(least, digits) == 0:
            digits += 1
    return Measure.of(metric, digits=digits, signed=True)


def _interval(line: _Line) -> Cell:
    each = line[2]
    if each.interval is None:
        return "exact" if each.exact and each.difference is not None else None
    return Span(*each.interval, _measure(line))


def _difference_fields(unit: str = "") -> list[Field[_Line]]:
    def figure(which: str) -> Field[_Line]:
        def cell(line: _Line) -> Cell:
            return Estimate(getattr(line[2], which), measure=Measure.of(line[1], digits=DIGITS))

        return Field(Column(which.upper(), Measure(unit), priority=4), cell)

    return [
        figure("old"),
        figure("new"),
        Field(
            Column("difference", Measure(unit)),
            lambda line: Estimate(line[2].difference, measure=_measure(line)),
        ),
        Field(Column("95 % interval", priority=3), _interval),
        Field(Column("verdict", align="left", priority=1), lambda line: WORDS[line[2].verdict]),
    ]


def _group(group: Group, metric: str, rows: int, details: bool) -> Iterator[Block]:
    if group.overall is not None:
        whole: list[_Line] = [
            (FIGURES[name].label, name, each)
            for name, each in group.overall.items()
            if each.old is not None or each.new is not None
        ]
        fields = [
            Field[_Line](Column("metric", align="left"), lambda line: line[0]),
            Field[_Line](
                Column("unit", align="left", priority=2), lambda line: Measure.of(line[1])
            ),
            *_difference_fields(),
        ]
        title = f"All {_noun(group)}s together, {_title(group)} ({BASES[group.intervals]})"
        yield tabulate(title, fields, whole)
    yield _rows(group, metric, rows, details)
    if rows and (moved := _moved(group, metric)):
        yield _moves(group, metric, moved, details)


def _rows(group: Group, metric: str, most: int, details: bool) -> Block:
    rows = list(group.rows)
    if len(rows) > most:
        by_change = sorted(rows, key=lambda row: -abs(row.metrics[metric].difference or 0.0))
        chosen = {id(row) for row in by_change[:most]}
        rows = [row for row in rows if id(row) in chosen]
    noun = _noun(group)
    some = f"{len(rows)} of {len(group.rows):,} {noun}s, those that changed most"
    what = some if len(rows) < len(group.rows) else f"All {noun}s"
    fields = [
        Field[_Line](
            Column("layer" if rows[0].layer is not None else "kind", INDEX), lambda line: line[0]
        ),
        *_difference_fields(FIGURES[metric].unit),
    ]
    cells = [(_label(row), metric, row.metrics[metric]) for row in rows]
    title = f"{FIGURES[metric].title}: {what}, {_title(group)}"
    return tabulate(title, fields, cells, details=details)


def _label(row: Row) -> Cell:
    return row.layer if row.layer is not None and not row.tensor else row.label


def _moved(group: Group, metric: str) -> list[Move]:
    """The rows whose rank and figure both changed beyond their intervals."""
    changed = {(row.layer, row.tensor) for row in group.rows if row.metrics[metric].significant}
    return [m for m in group.moved_in_rank if m.significant and (m.layer, m.tensor) in changed]


def _moves(group: Group, metric: str, moved: Sequence[Move], details: bool) -> Block:
    shown = moved[:MOST_MOVES]
    words = {row.label: row.metrics[metric].verdict for row in group.rows}
    title = f"Moved in rank by {FIGURES[metric].title}, 1 is the worst"
    if len(shown) < len(moved):
        title += f" ({len(shown)} of {len(moved)})"
    fields = [
        Field[Move](Column(_noun(group)), lambda move: move.label),
        Field[Move](Column("rank in OLD", INDEX), lambda move: move.old),
        Field[Move](Column("rank in NEW", INDEX), lambda move: move.new),
        Field[Move](
            Column("verdict", align="left", priority=1), lambda move: WORDS[words[move.label]]
        ),
    ]
    return tabulate(title, fields, shown, details=details)


# Gates


def _gates(outcomes: Sequence[Outcome]) -> Iterator[Text]:
    for each in outcomes:
        text = f"gate {each.gate.text}: {outcome_text(each)}"
        yield Text(text, "answer" if each.passed else "alarm")


def outcome_text(outcome: Outcome) -> str:
    """The result of a gate in a sentence; names the rows."""
    whole = outcome.gate.scope == "overall"
    if outcome.passed:
        text = f"passed: {'all layers together are within it' if whole else 'nothing is beyond it'}"
    else:
        text = f"breached: {'; '.join(_breaches(outcome))}"
    if outcome.unsure:
        text += f" ({outcome.unsure} beyond the limit, but not significantly)"
    if outcome.unknown:
        title = FIGURES[outcome.gate.metric].title
        text += f" ({counted(outcome.unknown, 'figure')} of {title} could not be judged)"
    return text


def _breaches(outcome: Outcome) -> Iterator[str]:
    by_selection: dict[str, list[Breach]] = {}
    for breach in outcome.breaches:
        by_selection.setdefault(_title(breach), []).append(breach)
    for title, inside in by_selection.items():
        shown = [f"{each.label} ({_value(outcome, each.value)})" for each in inside[:MOST_NAMED]]
        word = "layers " if len(inside) > 1 else "layer "
        more = f" and {len(inside) - MOST_NAMED:,} more" if len(inside) > MOST_NAMED else ""
        yield f"{'' if inside[0].layer is None else word}{', '.join(shown)}{more} at {title}"


def _value(outcome: Outcome, value: float | None) -> str:
    if value is None:
        return "no longer exact"
    gate = outcome.gate
    return Measure.of(gate.metric, digits=DIGITS, signed=gate.which != "new").with_unit(value)
