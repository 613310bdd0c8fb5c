"""What quantizing linears costs in a scan that has a sensitivity: sums of rows, and their KL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from srdd.comparison.differences import Figures
from srdd.comparison.pairing import name_in_layer
from srdd.documents.comparison import Place
from srdd.documents.scan import Scan
from srdd.model.kinds import kind_of
from srdd.numerics.metrics import KL
from srdd.numerics.sums import Sums


def cost_sums(scan: Scan, format: str, by: str) -> dict[Place, Sums]:
    """Tokens and nats of each group of prompts, (groups, 2), of each layer, kind or tensor.

    Empty where the scan has no sensitivity in this format.
    """
    rows: dict[Place, Sums] = {}
    if scan.sensitivity is None:
        return rows
    tokens = np.array(scan.sensitivity.tokens, dtype=np.float64)
    for change in scan.sensitivity.changes:
        if (change.format, change.operands) != (format, "both"):
            continue
        name = name_in_layer(scan, change.layer, change.tensor)
        tensor = {"layer": None, "kind": kind_of(change.tensor), "tensor": name}[by]
        place = Place(layer=None if by == "kind" else change.layer, tensor=tensor)
        before = rows[place][:, 1] if place in rows else 0.0
        rows[place] = np.stack([tokens, before + np.array(change.nats)], axis=1)
    return rows


def cost_figures(rows: Sequence[Sums]) -> Figures:
    """The KL of rows (groups, 2), and of all of them together as the last entry."""
    each = np.stack(rows, axis=1)
    whole = np.stack([each[:, 0, 0], each[..., 1].sum(axis=1)], axis=1)
    sums = np.concatenate([each, whole[:, None]], axis=1)
    return {KL.name: KL.compute(sums.sum(axis=0))}, sums
