"""Site `weight`: what quantizing the linears of a model does to their weights.

No forward pass is needed. A row of a weight counts as a token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from srdd.documents.records import Measured
from srdd.measurement.listener import Listener
from srdd.measurement.plan import Plan
from srdd.measurement.tallies import Tally
from srdd.measurement.work import Part, current
from srdd.model.linears import Weight, find_weights
from srdd.model.structure import Structure
from srdd.numerics.formats import FormatSpec, parse_spec
from srdd.numerics.kernels import row_sums


class _Measured:
    """The sums of each weight in each format."""

    def __init__(self, weights: Sequence[Weight], plan: Plan) -> None:
        self._plan = plan
        self._weights = {weight.name: weight for weight in weights}
        self._tallies: dict[tuple[str, FormatSpec], Tally] = {}

    def add(self, weight: Weight) -> None:
        for part, keys, specs in weight.parts(self._plan.specs, self._plan.seed):
            for spec in specs:
                rows = row_sums(part, spec, self._plan.rounding, keys)
                replicate = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
                key = weight.name, spec
                self._tallies.setdefault(key, Tally(rows.device)).add(rows, replicate)

    def part(self) -> Part:
        part = Part()
        for (name, spec), tally in self._tallies.items():
            key = json.dumps([name, str(spec)])
            part.sums |= {f"{kind} {key}": sums for kind, sums in tally.arrays().items()}
        return part

    def restore(self, part: Part) -> None:
        keys = [name.removeprefix("sums ") for name in part.sums if name.startswith("sums ")]
        self._tallies = {}
        for key in keys:
            name, spec = json.loads(key)
            tally = Tally.of(part.sums[f"sums {key}"], part.sums[f"tokens {key}"])
            self._tallies[name, parse_spec(spec)] = tally

    def records(self, readers: Mapping[str, list[str]]) -> list[Measured]:
        return [
            Measured(
                weight.layer,
                "weight",
                name,
                tuple(readers[name]),
                spec,
                **self._tallies[name, spec].read(),
            )
            for name, weight in self._weights.items()
            for spec in self._plan.specs
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
    not_measured: dict[tuple[str, str], str] = {}
    first: dict[object, Weight] = {}
    """memory and shape of a weight -> the first module that has it"""
    readers: dict[str, list[str]] = {}
    """name of the first module -> other modules with the same weight"""
    for weight in find_weights(model, structure, plan.selection):
        key = (weight.data.data_ptr(), weight.data.shape)
        if reason := weight.unusable_reason():
            not_measured[weight.name, "weight"] = reason
        elif key in first:
            readers[first[key].name].append(weight.name)
        else:
            first[key] = weight
            readers[weight.name] = []
    weights = list(first.values())
    sizes = [weight.data.numel() for weight in weights]
    listener.started("measuring weights", sum(sizes), "values")
    work = current()
    measured = _Measured(weights, plan)

    def advance(weight: Weight) -> None:
        listener.advanced(weight.data.numel())

    for weight in work.through("weights", work.share(weights, sizes), measured, advance):
        measured.add(weight)
        advance(weight)
    work.unite(measured)
    return measured.records(readers), not_measured
