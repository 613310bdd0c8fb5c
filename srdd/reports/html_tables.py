"""The rows of a page's tables: figures as a person reads them, text as it is, for the template."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from srdd.documents.scan import Record
from srdd.noise.zones import zone_of
from srdd.reports.cells import distance, relative_error, sqnr, token_sqnr
from srdd.reports.groups import Group
from srdd.reports.html_series import Content
from srdd.reports.tensors import kinds, lowest
from srdd.reports.text import number, percent, safe
from srdd.reports.verdict import STYLES, verdict


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Attributes:
        place: number of the place that it belongs to.
        series: number of its series.
        cells: its cells, the verdict aside.
        word: the verdict.
    """

    place: int
    series: int
    cells: tuple[str, ...]
    word: str


def layer_rows(content: Content) -> list[Row]:
    """A row for each layer of each group."""
    found = []
    for series, group in content.members:
        place = content.places.index(group.place)
        inside: dict[int, list[Record]] = {}
        for record in group.tensors:
            inside.setdefault(record.layer, []).append(record)
        for record, word in zip(group.layers, group.words, strict=True):
            cells = (
                series.label,
                str(record.layer),
                zone_of(group.zones, record.layer).name,
                *_figures(record),
                token_sqnr(record),
                _worst_tensor(inside[record.layer]),
            )
            found.append(Row(place, series.index, cells, word))
    return found


def tensor_rows(content: Content) -> list[Row]:
    """A row for each tensor of the groups whose layers have several."""
    found = []
    for series, group in content.members:
        if not group.several:
            continue
        place = content.places.index(group.place)
        for record in group.tensors:
            cells = (
                series.label,
                str(record.layer),
                kinds(record),
                safe(record.tensor),
                *_figures(record),
            )
            found.append(Row(place, series.index, cells, verdict(record, group.thresholds)))
    return found


def _figures(record: Record) -> tuple[str, ...]:
    return (
        sqnr(record),
        distance(record),
        relative_error(record),
        percent(record.metrics.relative_l1),
        percent(record.metrics.deadzone),
        percent(record.metrics.saturation, 2),
    )


def _worst_tensor(records: Sequence[Record]) -> str:
    """Of a layer's tensors the one with the lowest SQNR; empty where there is only one."""
    if len(records) < 2:
        return ""
    found = lowest(records)
    return f"{kinds(found)} {number(found.metrics.sqnr_db)}"


def verdict_counts(group: Group) -> list[tuple[str, int]]:
    """How many layers have each verdict, from the best word to the worst."""
    held = Counter(group.words)
    return [(word, held[word]) for word in STYLES if held[word]]
