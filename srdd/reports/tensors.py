"""Sites at which a layer has several tensors: by layer, by tensor, and by kind of tensor."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from srdd.documents.pool import pool_groups
from srdd.documents.scan import Record
from srdd.model.kinds import ORDER, kind_of, kinds_of
from srdd.numerics.metrics import Thresholds
from srdd.reports.cells import distance, relative_error, sqnr
from srdd.reports.fitted import NARROW, WIDE, Column, Fitted
from srdd.reports.text import percent, safe
from srdd.reports.verdict import STYLES, verdict

VIEWS = ("layer", "tensor", "kind")
"""How a site with several tensors in a layer can be shown; the first is the default."""


def kinds(record: Record) -> str:
    """What reads this tensor, such as `q,k,v`."""
    return safe(kinds_of([record.tensor, *record.shared_with]), longest=24)


def lowest(records: Sequence[Record]) -> Record:
    """The record with the lowest SQNR; one without any counts as the best."""

    def rank(record: Record) -> float:
        value = record.metrics.sqnr_db
        return float("inf") if value is None else value

    return min(records, key=rank)


def worst_tensors(records: Sequence[Record]) -> Column:
    """For each layer, the tensor with the lowest SQNR and that figure."""
    by_layer: dict[int, list[Record]] = {}
    for record in records:
        by_layer.setdefault(record.layer, []).append(record)
    cells = []
    for layer in sorted(by_layer):
        found = lowest(by_layer[layer])
        value = found.metrics.sqnr_db
        cells.append(f"{kinds(found)} {'-' if value is None else f'{value:.1f}'}")
    return Column("worst tensor", cells, NARROW, "left")


def tensor_table(records: Sequence[Record], thresholds: Thresholds) -> Fitted:
    """A row for every tensor."""
    words = [verdict(record, thresholds) for record in records]
    return Fitted(
        "Tensor by tensor",
        [
            Column("layer", [str(record.layer) for record in records]),
            Column("tensor", [kinds(record) for record in records], justify="left"),
            Column("SQNR dB", [sqnr(record) for record in records]),
            Column("vs floor", [distance(record) for record in records], WIDE),
            Column("dead %", [percent(r.metrics.deadzone) for r in records], NARROW),
            Column("sat. %", [percent(r.metrics.saturation, 2) for r in records], NARROW),
            Column("rel. err %", [relative_error(record) for record in records], NARROW),
            Column("verdict", [Text(word, STYLES[word]) for word in words], justify="left"),
        ],
    )


def kind_place(record: Record) -> tuple[int, str]:
    """Where its kind stands in the order in which a layer uses them: a key to sort by."""
    kind = kind_of(record.tensor)
    return (ORDER.index(kind) if kind in ORDER else len(ORDER), kind)


def kind_table(records: Sequence[Record], rounding: str, seed: int) -> Fitted:
    """A row for every kind of tensor, pooled over the layers, with the layer where it is worst."""
    groups: dict[str, list[Record]] = {}
    for record in sorted(records, key=kind_place):
        groups.setdefault(kinds(record), []).append(record)
    whole = pool_groups(groups.values(), rounding=rounding, seed=seed)
    worst = [lowest(group) for group in groups.values()]
    return Fitted(
        "By kind of tensor (pooled over layers)",
        [
            Column("kind", list(groups), justify="left"),
            Column("tensors", [str(len(group)) for group in groups.values()], NARROW),
            Column("SQNR dB", [sqnr(record) for record in whole]),
            Column("vs floor", [distance(record) for record in whole], NARROW),
            Column("dead %", [percent(r.metrics.deadzone) for r in whole], NARROW),
            Column("rel. err %", [relative_error(record) for record in whole], NARROW),
            Column("worst in layer", [f"{r.layer} ({sqnr(r)})" for r in worst], justify="left"),
        ],
    )
