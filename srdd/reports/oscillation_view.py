"""Codes that flipped between two checkpoints as blocks: the answer, and a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srdd.documents.oscillation import Oscillation, rows_of, shares
from srdd.errors import counted
from srdd.reports.delimited import written
from srdd.reports.text import safe
from srdd.reports.view import Block, Column, Field, Measure, Text, tabulate

SHARE = Measure("%", scale=100.0, digits=3)
TIMES = Measure(digits=2)
CALM, BUSY = 0.8, 1.25
"""Flips over expected flips between which values lie about anywhere between their codes."""


def oscillation_blocks(oscillation: Oscillation, by: str = "layer") -> list[Block]:
    """What flipped in all, and by layer, kind or tensor."""
    row = Field[Mapping[str, Any]]
    fields = [
        row(Column("layer"), lambda one: one["layer"]),
        row(Column("tensor", align="left", code=True), lambda one: one["tensor"]),
        row(Column("values", Measure(digits=0), priority=3), lambda one: one["values"]),
        row(Column("flipped", SHARE), lambda one: one["flipped"]),
        row(Column("expected flips", SHARE), lambda one: one["expected"]),
        row(Column("vs expected", TIMES), lambda one: one["ratio"]),
        row(Column("rescaled", SHARE, priority=1), lambda one: one["rescaled"]),
        row(Column("moved", SHARE), lambda one: one["moved"]),
    ]
    old, new = oscillation.old, oscillation.new
    heading = f"{safe(old.folder)} | {safe(new.folder)} | {old.dtype} | {new.dtype}"
    title = f"Codes of weights that flipped, {oscillation.format}"
    left_out = [
        Text(f"{safe(one.tensor)} was left out: {safe(one.reason)}", "warning")
        for one in oscillation.left_out[:3]
    ]
    if len(oscillation.left_out) > len(left_out):
        more = len(oscillation.left_out) - len(left_out)
        left_out.append(Text(f"{counted(more, 'more tensor')} left out, see --as json", "warning"))
    return [
        Text(heading, "heading"),
        Text(_answer(oscillation), "answer"),
        tabulate(title, fields, rows_of(oscillation, by), _NOTES),
        *left_out,
    ]


_NOTES = (
    "flipped: values whose code changed; expected flips: as many as would if values lay anywhere "
    "between codes; rescaled: blocks with another scale; moved: norm of the change over that of "
    "the old values.",
)


def oscillation_csv(oscillation: Oscillation, by: str = "layer") -> str:
    """The rows with all digits."""
    return written(rows_of(oscillation, by), "csv")


def _answer(oscillation: Oscillation) -> str:
    whole = shares(oscillation.weights)
    ratio = whole["ratio"]
    sentence = (
        f"{SHARE.with_unit(whole['flipped'])} of {whole['values']:,.0f} weights have another code "
        f"in {oscillation.format}, with weights moved by {SHARE.with_unit(whole['moved'])}"
    )
    if ratio is None:
        return f"{sentence}: nothing changed."
    how = (
        "as many as such a move makes of values anywhere between codes"
        if CALM <= ratio <= BUSY
        else "more than such a move explains: values sit at boundaries of codes, as those that "
        "oscillate do"
        if ratio > BUSY
        else "fewer than such a move makes of values anywhere between codes"
    )
    return f"{sentence}: {TIMES.text(ratio)} times the expected flips, {how}."
