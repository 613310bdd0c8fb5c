"""Kinds of tensors, for documents."""

from __future__ import annotations

from collections.abc import Sequence

from srdd.documents.scan import Record
from srdd.model.kinds import ORDER, kind_of, kinds_of
from srdd.reports.rows import VIEWS as VIEWS
from srdd.reports.text import safe


def kinds(record: Record) -> str:
    """What reads this tensor, such as `q,k,v`."""
    return safe(kinds_of([record.tensor, *record.shared_with]), longest=24)


def lowest(records: Sequence[Record]) -> Record:
    """The record with the lowest SQNR; one without any counts as the best."""

    def rank(record: Record) -> float:
        value = record.metrics.sqnr_db
        return float("inf") if value is None else value

    return min(records, key=rank)


def kind_place(record: Record) -> tuple[int, str]:
    """Where its kind stands in the order in which a layer uses them: a key to sort by."""
    kind = kind_of(record.tensor)
    return (ORDER.index(kind) if kind in ORDER else len(ORDER), kind)
