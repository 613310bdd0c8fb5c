"""Several tensors of a layer taken as one, and rankings that a scan did not work out itself.

Sums add, so the figures of a layer's tensors together are those of their added sums; an average of
their metrics would be something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from srdd.confidence import stability
from srdd.errors import InputError
from srdd.records import Measured, build, from_record
from srdd.schema.scan import Ranking, Record


def pooled(
    records: Sequence[Record], rounding: str, seed: int
) -> tuple[list[Record], list[Ranking]]:
    """Records of one site in one format -> one record a layer, and the rankings of those.

    Raises:
        InputError: the records hold no sums, so they cannot be added.
    """
    layers: dict[int, Measured] = {}
    stored = 1
    for record in records:
        if record.replicates is None:
            raise InputError(
                f"layer {record.layer} has several tensors at site {record.site} and no sums",
                "use a scan that `srdd scan` made",
            )
        stored = max(stored, len(record.replicates.tokens))
        one = from_record(record)
        before = layers.get(record.layer)
        if before is not None:
            one = replace(
                before,
                replicates=before.replicates + one.replicates,
                tokens_by_sqnr=before.tokens_by_sqnr + one.tokens_by_sqnr,
                undefined_tokens=before.undefined_tokens + one.undefined_tokens,
            )
        layers[record.layer] = replace(one, tensor="all")
    return build(list(layers.values()), rounding=rounding, prompts=stored, seed=seed)


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
