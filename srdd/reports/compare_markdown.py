"""A comparison as Markdown that fits into a comment on a pull request.

GitHub takes comments of up to 65,536 characters. The verdict and the gates stand on top; the tables
of the layers are folded away, and shortened to the layers that changed most where they do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

from srdd.comparison import Comparison, Difference, Group, Outcome
from srdd.comparison.differences import BETTER, CHANGED, WORSE
from srdd.reports import compare_cells as cells
from srdd.reports.compare_table import LEGEND, MOST_MOVES
from srdd.reports.markdown_text import Align, code, escape, fold, table

LIMIT = 65_000
"""Characters of the whole, with room to spare."""

LONGEST = 1000
"""Characters of a sentence at most, before it is escaped."""

_HEADER = ("OLD", "NEW", "difference", "95 % interval", "verdict")
_ALIGN: tuple[Align, ...] = ("right", "right", "right", "right", "left")
_SHRINK = ((1_000_000, 1_000_000), (200, 30), (60, 12), (20, 8), (5, 4), (0, 2))
"""Rows of a table and groups, from all to as few as need be."""


def compare_markdown(comparison: Comparison, outcomes: Sequence[Outcome] = ()) -> str:
    """The comparison, ending in a line end, in at most LIMIT characters.

    Arguments:
        outcomes: what became of the gates.
    """
    text = ""
    for rows, groups in _SHRINK:
        text = _whole(comparison, outcomes, rows, groups)
        if len(text) <= LIMIT:
            return text
    return text[:LIMIT].rpartition("\n")[0] + "\n"


def _whole(comparison: Comparison, outcomes: Sequence[Outcome], rows: int, groups: int) -> str:
    breached = [one for one in outcomes if not one.passed]
    title = "a gate is breached" if breached else "compared" if not outcomes else "all gates passed"
    parts = [f"### srdd compare: {title}\n"]
    parts += [_gates(outcomes)] if outcomes else []
    parts.append("".join(f"- {sentence}\n" for sentence in _summary(comparison, groups)))
    loud = [remark for remark in comparison.remarks if remark.warning]
    quiet = [remark for remark in comparison.remarks if not remark.warning]
    parts += [f"> **Warning:** {escape(remark.text, longest=LONGEST)}\n" for remark in loud]
    facts = [
        f"- **{which}** {escape(told, longest=LONGEST)}\n"
        for which, told in cells.describe(comparison)
    ]
    facts += [f"- {escape(remark.text, longest=LONGEST)}\n" for remark in quiet]
    facts += [
        f"- left out: {escape(sentence, longest=LONGEST)}\n"
        for sentence in comparison.left_out[:50]
    ]
    parts.append("".join(facts))
    for group in comparison.groups[:groups]:
        parts += _group(group, comparison.metric, rows)
    hidden = len(comparison.groups) - groups
    if hidden > 0:
        parts.append(f"{hidden:,} more pairs of site and format do not fit here.\n")
    parts.append(f"{escape(LEGEND, longest=LONGEST)}\n")
    return "\n".join(parts)


def _heading(group: Group) -> str:
    old, new = group.matched.old_format, group.matched.new_format
    formats = code(new) if old == new else f"{code(old)} compared with {code(new)}"
    return f"site {escape(cells.place(group))}, {formats}"


def _summary(comparison: Comparison, groups: int) -> list[str]:
    return [
        f"{_heading(group)}: {escape(cells.counts(group, comparison.metric))}"
        for group in comparison.groups[:groups]
    ]


def _gates(outcomes: Sequence[Outcome]) -> str:
    rows = [
        [
            code(one.gate.text),
            "passed" if one.passed else "**breached**",
            escape(told, longest=LONGEST),
        ]
        for one in outcomes
        for told in [cells.outcome(one).removeprefix("breached: ").removeprefix("passed: ")]
    ]
    return table(["gate", "", "where"], rows)


def _cells(one: Difference) -> list[str]:
    verdict = f"**{one.verdict}**" if one.verdict in (BETTER, CHANGED, WORSE) else one.verdict
    return [
        cells.figure(one.metric, one.old),
        cells.figure(one.metric, one.new),
        cells.change(one),
        cells.interval(one),
        verdict,
    ]


def _group(group: Group, metric: str, rows: int) -> list[str]:
    parts = [f"#### {_heading(group)} ({cells.BASES[group.basis]})\n"]
    if group.overall is not None:
        whole = [
            [escape(cells.TITLES[name]), *_cells(group.overall[name])]
            for name in cells.shown_metrics(group)
        ]
        parts.append(table(["all layers together", *_HEADER], whole, ["left", *_ALIGN]))
    noun, kept = cells.noun(group), list(group.rows)
    title = f"By {noun}: {cells.TITLES[metric]}"
    if len(kept) > rows:
        kept.sort(key=lambda row: -abs(row.differences[metric].difference or 0.0))
        kept = sorted(kept[:rows], key=group.rows.index)
        title += f" ({len(kept):,} of {len(group.rows):,} {noun}s, those that changed most)"
    shown = [[escape(row.label, longest=LONGEST), *_cells(row.differences[metric])] for row in kept]
    align: Align = "right" if noun == "layer" else "left"
    parts.append(fold(title, table([noun, *_HEADER], shown, [align, *_ALIGN])))
    parts.append(f"{escape(cells.order(group, metric))}\n")
    moved, _ = cells.surely_moved(group)
    if moved and rows:
        ranks = [
            [escape(one.place.label, longest=LONGEST), str(one.old), str(one.new)]
            for one in moved[:MOST_MOVES]
        ]
        name = (
            f"{noun.capitalize()}s that moved in rank, 1 the worst ({len(ranks)} of {len(moved)})"
        )
        body = table([noun, "OLD", "NEW"], ranks, [align, "right", "right"])
        parts.append(fold(name, body))
    return parts
