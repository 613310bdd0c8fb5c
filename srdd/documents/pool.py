"""Several tensors taken as one: those of a layer, or all of a kind.

Sums add, so the figures of several tensors together are those of their added sums; an average of
their metrics would be something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import numpy as np

from srdd.documents.records import Measured, build, from_record
from srdd.documents.scan import Ranking, Record
from srdd.errors import InputError
from srdd.numerics.confidence import stability

POOLED = "all"
"""What stands in place of a tensor's name where several are taken as one."""


def _measured(record: Record) -> Measured:
    if record.replicates is None:
        raise InputError(
            f"layer {record.layer} has several tensors at site {record.site} and no sums",
            "use a scan that `srdd scan` made",
        )
    return from_record(record)


def _add(a: Measured, b: Measured) -> Measured:
    return replace(
        a,
        replicates=a.replicates + b.replicates,
        tokens_by_sqnr=a.tokens_by_sqnr + b.tokens_by_sqnr,
        undefined_tokens=a.undefined_tokens + b.undefined_tokens,
    )


def _stored(records: Sequence[Record]) -> int:
    return max(len(record.replicates.tokens) for record in records if record.replicates)


def pool(records: Sequence[Record], *, rounding: str, seed: int) -> Record:
    """Records of one site in one format, at least one, as a single record.

    Raises:
        InputError: the records hold no sums, so they cannot be added.
    """
    one = replace(reduce(_add, map(_measured, records)), tensor=POOLED, shared_with=())
    found, _ = build([one], rounding=rounding, prompts=_stored(records), seed=seed)
    return found[0]


def pooled(
    records: Sequence[Record], rounding: str, seed: int
) -> tuple[list[Record], list[Ranking]]:
    """Records of one site in one format -> one record a layer, and the rankings of those.

    Raises:
        InputError: the records hold no sums, so they cannot be added.
    """
    layers: dict[int, Measured] = {}
    for record in records:
        one = replace(_measured(record), tensor=POOLED, shared_with=())
        layers[record.layer] = _add(layers[record.layer], one) if record.layer in layers else one
    return build(list(layers.values()), rounding=rounding, prompts=_stored(records), seed=seed)


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
    found = stability(stacked, metric, top_k, seed=seed)
    return found.tau_halves, found.top_k_change
