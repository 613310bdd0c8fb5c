"""Several tensors pooled: those of a layer, or all of a kind.

Sums add, so the metrics of several tensors together are those of their added sums; an average of
their metrics would be something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from srdd.documents.records import Measured, add, from_record, records_of
from srdd.documents.scan import Record
from srdd.errors import InputError
from srdd.numerics.confidence import stability

POOLED = "all"
"""The tensor's name where several are pooled."""


def pool_groups(groups: Iterable[Sequence[Record]], *, rounding: str) -> list[Record]:
    """One record for each group of records.

    Arguments:
        groups: each at least one record, all of one site.
        rounding: that of the scan.

    Raises:
        InputError: the records hold no sums, so they cannot be added.
    """
    members = [_pooled(group) for group in groups]
    return records_of(members, rounding=rounding) if members else []


def pool(records: Sequence[Record], *, rounding: str) -> Record:
    """Records of one site in one format as a single record; see `pool_groups`."""
    return pool_groups([records], rounding=rounding)[0]


def pool_layers(records: Iterable[Record], *, rounding: str) -> list[Record]:
    """Records of one site in one format -> one record a layer, in order; see `pool_groups`."""
    layers: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.layer):
        layers.setdefault(record.layer, []).append(record)
    return pool_groups(layers.values(), rounding=rounding)


def _pooled(records: Sequence[Record]) -> Measured:
    for record in records:
        if record.replicates is None:
            raise InputError(
                f"layer {record.layer} has several tensors at site {record.site} and no sums",
                "use a scan that `srdd scan` made",
            )
    total = reduce(add, map(from_record, records))
    return replace(total, tensor=POOLED, shared_with=())


def stability_of(
    records: Sequence[Record], metric: str, top_k: int, seed: int
) -> tuple[float | None, float | None]:
    """Kendall's tau between halves, and the chance that the worst `top_k` change.

    Arguments:
        records: one a layer, with replicates.
        metric: what they are ranked by.
        top_k: size of the set of worst layers.
        seed: of the bootstrap.
    """
    stacked = np.stack([from_record(record).replicates for record in records], axis=1)
    result = stability(stacked, metric, top_k, seed=seed)
    return result.tau_halves, result.top_k_change
