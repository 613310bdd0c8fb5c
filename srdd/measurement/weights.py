"""Site `weight`: what quantizing the linears of a model does to their weights.

No forward pass is needed. A row of a weight counts as a token.
"""

from __future__ import annotations

import numpy as np
from torch import nn

from srdd.documents.records import REPLICATES, Measured
from srdd.measurement.listener import Listener
from srdd.measurement.plan import Plan
from srdd.model.linears import Weight, find_weights
from srdd.model.structure import Structure
from srdd.numerics import histogram, sums
from srdd.numerics.kernels import row_sums


class _Tally:
    """Sums and row histogram of one weight in one format."""

    def __init__(self) -> None:
        self.sums = sums.new()
        self.rows = np.zeros(histogram.BINS + 1, dtype=np.int64)

    def add(self, rows: sums.Sums) -> None:
        self.sums += rows.sum(axis=0)
        np.add.at(self.rows, histogram.place(rows), 1)


def _measure(weight: Weight, plan: Plan) -> list[Measured]:
    tallies = {spec: _Tally() for spec in plan.specs}
    # Where the whole tensor shares a scale, a slice would be taken for the tensor.
    for whole in (False, True):
        taken = [spec for spec in plan.specs if (spec.scale_rule == "tensor") == whole]
        for done, part in weight.slices(whole) if taken else ():
            keys = weight.keys(done, len(part), plan.seed)
            for spec in taken:
                tallies[spec].add(row_sums(part, spec, plan.rounding, keys).cpu().numpy())
    found = []
    for spec, tally in tallies.items():
        replicates = sums.new(REPLICATES)
        replicates[0] = tally.sums
        found.append(
            Measured(
                layer=weight.layer,
                site="weight",
                tensor=weight.name,
                shared_with=(),
                spec=spec,
                replicates=replicates,
                tokens_by_sqnr=tally.rows[: histogram.BINS],
                undefined_tokens=int(tally.rows[histogram.BINS]),
            )
        )
    return found


def measure_weights(
    model: nn.Module,
    structure: Structure,
    plan: Plan,
    listener: Listener | None = None,
) -> tuple[list[Measured], dict[tuple[str, str], str]]:
    """Measure every linear weight of the decoder layers.

    All rows are in one replicate, since weights do not vary with the prompts. A weight that several
    modules share is measured once and names the others.

    Returns:
        What was measured, and the names and sites that were not, each with the reason.
    """
    found: list[Measured] = []
    missing: dict[tuple[str, str], str] = {}
    places: dict[tuple[int, tuple[int, ...]], slice] = {}
    listener = listener or Listener()
    weights = list(find_weights(model, structure, plan.selection))
    listener.started("measuring weights", sum(w.data.numel() for w in weights), "values")
    for weight in weights:
        listener.advanced(weight.data.numel())
        reason = weight.unusable_reason()
        if reason is not None:
            missing[weight.name, "weight"] = reason
            continue
        key = (weight.data.data_ptr(), tuple(weight.data.shape))
        if key in places:
            for place in range(places[key].start, places[key].stop):
                one = found[place]
                readers = (*one.shared_with, weight.name)
                found[place] = Measured(**{**one.__dict__, "shared_with": readers})
            continue
        measured = _measure(weight, plan)
        places[key] = slice(len(found), len(found) + len(measured))
        found += measured
    return found, missing
