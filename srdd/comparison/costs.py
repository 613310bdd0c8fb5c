"""What quantizing linears costs in two scans: sums of rows, and their differences."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from srdd.comparison.differences import Difference, difference
from srdd.comparison.pairing import Place
from srdd.documents.scan import Scan
from srdd.model.kinds import kind_of
from srdd.numerics.confidence import FEWEST_REPLICATES, Error, leave_one_out
from srdd.numerics.metrics import KL

Sums = NDArray[np.float64]


def cost_table(scan: Scan, format: str, by: str) -> dict[Place, Sums]:
    """Tokens and nats of each group of prompts, (groups, 2), of each layer, kind or tensor.

    Empty where the scan has no sensitivity in this format.
    """
    sensitivity = scan.sensitivity
    found: dict[Place, Sums] = {}
    if sensitivity is None:
        return found
    tokens = np.array(sensitivity.tokens, dtype=np.float64)
    for change in sensitivity.changes:
        if (change.format, change.operands) != (format, "both"):
            continue
        prefix = scan.model.layers[change.layer].name
        name = change.tensor.removeprefix(f"{prefix}.") if prefix else change.tensor
        place = {
            "layer": Place(change.layer, None),
            "kind": Place(None, kind_of(change.tensor)),
            "tensor": Place(change.layer, name),
        }[by]
        nats = np.array(change.nats)
        before = found[place][:, 1] if place in found else 0.0
        found[place] = np.stack([tokens, before + nats], axis=1)
    return found


def cost_differences(old: Sums, new: Sums, *, paired: bool) -> list[Difference]:
    """Of each row, with intervals where both have at least two groups of prompts.

    Arguments:
        old, new: (groups, rows, 2), tokens and nats.
        paired: whether group i of both holds the same prompts.
    """
    first, second = (KL.compute(each.sum(axis=0)) for each in (old, new))
    old, new = (each[each[:, 0, 0] > 0] for each in (old, new))
    ends = new_ends = None
    if min(len(old), len(new)) >= FEWEST_REPLICATES:
        without = [KL.compute(leave_one_out(each)) for each in (old, new)]
        errors = [Error.of(each) for each in without]
        both = Error.of(without[1] - without[0]) if paired else errors[1].minus(errors[0])
        ends = both.around(second - first)
        new_ends = errors[1].around(second, KL.least, KL.largest)
    return [
        difference(
            KL.name,
            float(a),
            float(b),
            ends=None if ends is None else ends[row],
            new_ends=None if new_ends is None else new_ends[row],
        )
        for row, (a, b) in enumerate(zip(first, second, strict=True))
    ]
