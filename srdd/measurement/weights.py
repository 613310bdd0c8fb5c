"""Site `weight`: what quantizing the linears of a model does to their weights.

No forward pass is needed. A row of a weight counts as a token.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from srdd.documents.records import Measured
from srdd.measurement.listener import Listener
from srdd.measurement.plan import Plan
from srdd.measurement.tallies import Tally
from srdd.model.linears import Weight, find_weights
from srdd.model.structure import Structure
from srdd.numerics.formats import FormatSpec
from srdd.numerics.kernels import row_sums


def _measure(weight: Weight, plan: Plan) -> list[Measured]:
    tallies: dict[FormatSpec, Tally] = {}
    for part, keys, specs in weight.parts(plan.specs, plan.seed):
        for spec in specs:
            rows = row_sums(part, spec, plan.rounding, keys)
            replicate = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
            tallies.setdefault(spec, Tally(rows.device)).add(rows, replicate)
    return [
        Measured(weight.layer, "weight", weight.name, (), spec, **tallies[spec].read())
        for spec in plan.specs
    ]


def measure_weights(
    model: nn.Module, structure: Structure, plan: Plan, listener: Listener
) -> tuple[list[Measured], dict[tuple[str, str], str]]:
    """Measure every linear weight of the decoder layers.

    All rows are in one replicate, since weights do not vary with the prompts. A weight that several
    modules share is measured once and names the others.

    Returns:
        What was measured, and the names and sites that were not, each with the reason.
    """
    measured: list[tuple[object, Measured]] = []
    not_measured: dict[tuple[str, str], str] = {}
    readers: dict[object, list[str]] = {}
    """memory and shape of a weight -> other modules with the same one"""
    weights = find_weights(model, structure, plan.selection)
    listener.started("measuring weights", sum(w.data.numel() for w in weights), "values")
    for weight in weights:
        listener.advanced(weight.data.numel())
        key = (weight.data.data_ptr(), weight.data.shape)
        if reason := weight.unusable_reason():
            not_measured[weight.name, "weight"] = reason
        elif key in readers:
            readers[key].append(weight.name)
        else:
            readers[key] = []
            measured += [(key, each) for each in _measure(weight, plan)]
    records = [replace(each, shared_with=tuple(readers[key])) for key, each in measured]
    return records, not_measured
