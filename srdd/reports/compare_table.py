"""A comparison as tables for a terminal. Columns that do not fit are left out and named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rich.console import RenderableType
from rich.text import Text

from srdd.comparison import Comparison, Difference, Group, Outcome
from srdd.reports import compare_cells as cells
from srdd.reports.fitted import NARROW, WIDE, Column, Fitted
from srdd.reports.text import safe

LONGEST = 2000
"""Characters of a sentence at most."""

MOST_MOVES = 10
"""Layers that moved in rank which are shown."""

LEGEND = (
    "Difference = NEW - OLD, in dB or percentage points, with its 95 % interval over prompts. "
    "better, worse: the interval excludes 0, or the figure is exact; no difference seen: it does "
    "not, or the difference is no more than rounding. Of twenty layers that do not differ, about "
    "one is called better or worse by chance."
)


def compare_tables(
    comparison: Comparison, outcomes: Sequence[Outcome] = ()
) -> list[RenderableType]:
    """Everything a person sees of a comparison, in order.

    Arguments:
        outcomes: what became of the gates.
    """
    parts: list[RenderableType] = [
        Text.assemble((f"{which}  ", "bold"), safe(facts, longest=LONGEST))
        for which, facts in cells.describe(comparison)
    ]
    for remark in comparison.remarks:
        word = ("warning: ", "bold yellow") if remark.warning else ("note: ", "bold")
        parts.append(Text.assemble(word, safe(remark.text, longest=LONGEST)))
    for sentence in comparison.left_out:
        parts.append(Text.assemble(("left out: ", "bold"), safe(sentence, longest=LONGEST)))
    for group in comparison.groups:
        parts += _group(group, comparison.metric)
    parts += [Text(""), Text(LEGEND, style="dim")]
    if outcomes:
        parts.append(Text(""))
    for one in outcomes:
        style = "green" if one.passed else "bold red"
        told = cells.outcome(one)
        parts.append(
            Text.assemble(
                ("gate ", "bold"), (safe(f"{one.gate.text}: {told}", longest=LONGEST), style)
            )
        )
    return parts


def _group(group: Group, metric: str) -> list[RenderableType]:
    heading = f"Site {cells.place(group)}, {cells.formats(group)} ({cells.BASES[group.basis]})"
    parts: list[RenderableType] = [Text(""), Text(safe(heading, longest=LONGEST), style="bold")]
    metrics = cells.shown_metrics(group)
    if group.overall is not None:
        whole = [group.overall[name] for name in metrics]
        names = Column("metric", [cells.TITLES[name] for name in metrics], justify="left")
        parts.append(Fitted("All layers together", [names, *_columns(whole)]))
    justify: Literal["left", "right"] = "right" if cells.noun(group) == "layer" else "left"
    numbers = Column(cells.noun(group), [safe(row.label) for row in group.rows], justify=justify)
    by_layer = [row.differences[metric] for row in group.rows]
    title = f"By {cells.noun(group)}: {cells.TITLES[metric]}"
    parts.append(Fitted(title, [numbers, *_columns(by_layer)]))
    parts += [Text(cells.counts(group, metric)), *_moves(group, metric)]
    return parts


def _columns(found: Sequence[Difference]) -> list[Column]:
    return [
        Column("OLD", [cells.figure(one.metric, one.old) for one in found], NARROW),
        Column("NEW", [cells.figure(one.metric, one.new) for one in found], NARROW - 15),
        Column("difference", [cells.change(one) for one in found]),
        Column("95 % interval", [cells.interval(one) for one in found], WIDE - 10),
        Column(
            "verdict",
            [Text(one.verdict, cells.STYLES[one.verdict]) for one in found],
            justify="left",
        ),
    ]


def _moves(group: Group, metric: str) -> list[RenderableType]:
    sentence = Text(cells.order(group, metric))
    sure, _ = cells.surely_moved(group)
    shown = sure[:MOST_MOVES]
    if not shown:
        return [sentence]
    verdicts = {row.place: row.differences[metric].verdict for row in group.rows}
    words = [verdicts[move.place] for move in shown]
    more = f" ({len(shown)} of {len(sure)})" if len(sure) > len(shown) else ""
    table = Fitted(
        f"{cells.noun(group).capitalize()}s that moved in rank by {cells.TITLES[metric]}, 1 the "
        f"worst{more}",
        [
            Column(cells.noun(group), [safe(move.place.label) for move in shown]),
            Column("OLD", [str(move.old) for move in shown]),
            Column("NEW", [str(move.new) for move in shown]),
            Column("verdict", [Text(word, cells.STYLES[word]) for word in words], justify="left"),
        ],
    )
    return [sentence, table]
