"""Weights: what quantizing the linears of a model does to their weights.

No forward pass is needed. Blocks run along the input dimension, as in a matrix product. A weight is
read in slices of its output rows, so that the memory this takes does not grow with the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from srdd import histogram, sums
from srdd.formats import FormatSpec
from srdd.kernels import DTYPES, row_sums
from srdd.listener import Listener
from srdd.records import REPLICATES, Measured
from srdd.selection import Selection
from srdd.structure import Structure, is_turned

SLICE = 1 << 22
"""Values read at a time: 8 MiB in bfloat16, enough to keep both cores busy."""


@dataclass(frozen=True)
class Weight:
    """A linear's weight: output rows by input columns, for each of its experts.

    Attributes:
        layer: index of its decoder layer.
        name: the module's name; of stacked experts, the parameter's.
        data: (out, in), (in, out) if `turned`; stacked experts are a first axis.
    """

    layer: int
    name: str
    data: torch.Tensor
    turned: bool


def find_weights(
    model: nn.Module, structure: Structure, selection: Selection | None = None
) -> Iterator[Weight]:
    """The selected weights of linears in the decoder layers, and the stacked ones of experts."""
    for weight in _all_weights(model, structure):
        if selection is None or selection.takes(weight.name):
            yield weight


def _all_weights(model: nn.Module, structure: Structure) -> Iterator[Weight]:
    for layer in structure.layers:
        for linear in layer.linears:
            module = model.get_submodule(linear.name)
            weight = module._parameters["weight"]
            assert weight is not None
            yield Weight(layer.index, linear.name, weight.detach(), is_turned(module))
        for inner, module in layer.module.named_modules():
            for key, parameter in module._parameters.items():
                if parameter is not None and parameter.ndim == 3 and "conv" not in inner:
                    name = ".".join(part for part in (layer.name, inner, key) if part)
                    turned = bool(getattr(module, "is_transposed", False))
                    yield Weight(layer.index, name, parameter.detach(), turned)


def _unusable(weight: Weight) -> str | None:
    """Why a weight cannot be measured."""
    if weight.data.is_meta:
        return "its weight is offloaded or on the meta device"
    if weight.data.numel() == 0:
        return "its weight has no elements"
    if weight.data.dtype not in (*DTYPES, torch.float64):
        return f"its weight is stored as {weight.data.dtype}, which is quantized already"
    return None


def _slices(weight: Weight) -> Iterator[torch.Tensor]:
    """The weight as (rows, in) tensors of at most about SLICE values each."""
    data = weight.data if weight.data.ndim == 3 else weight.data.unsqueeze(0)
    for expert in data:
        rows = expert.t() if weight.turned else expert
        step = max(1, SLICE // rows.shape[1])
        for part in rows.split(step):
            yield part.float() if part.dtype == torch.float64 else part


def _name_key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")


def _measure(
    weight: Weight, specs: Sequence[FormatSpec], rounding: str, seed: int
) -> list[Measured]:
    pooled = {spec: sums.new() for spec in specs}
    tokens = {spec: np.zeros(histogram.BINS + 1, dtype=np.int64) for spec in specs}
    done = 0
    for part in _slices(weight):
        keys = None
        if rounding == "stochastic":
            keys = torch.arange(done, done + len(part), device=part.device)
            keys = keys + ((_name_key(weight.name) ^ seed) << 24)
        done += len(part)
        for spec in specs:
            rows = row_sums(part, spec, rounding, keys).cpu().numpy()
            pooled[spec] += rows.sum(axis=0)
            np.add.at(tokens[spec], histogram.place(rows), 1)
    found = []
    for spec in specs:
        replicates = sums.new(REPLICATES)
        replicates[0] = pooled[spec]
        found.append(
            Measured(
                layer=weight.layer,
                site="weight",
                tensor=weight.name,
                shared_with=(),
                spec=spec,
                replicates=replicates,
                tokens_by_sqnr=tokens[spec][: histogram.BINS],
                undefined_tokens=int(tokens[spec][histogram.BINS]),
            )
        )
    return found


def measure_weights(
    model: nn.Module,
    structure: Structure,
    specs: Sequence[FormatSpec],
    *,
    selection: Selection | None = None,
    rounding: str = "even",
    seed: int = 0,
    listener: Listener | None = None,
) -> tuple[list[Measured], dict[str, str]]:
    """Measure every linear weight of the decoder layers.

    A row of a weight counts as a token; all are in one replicate, since weights do not vary with
    the prompts. A weight that several modules share is measured once and names the others.

    Arguments:
        selection: which of them; all for None.
        listener: hears of each weight that is done.

    Returns:
        What was measured, and the names that were not, each with the reason.
    """
    found: list[Measured] = []
    missing: dict[str, str] = {}
    places: dict[tuple[int, torch.Size], slice] = {}
    listener = listener or Listener()
    weights = list(find_weights(model, structure, selection))
    listener.started("measuring weights", sum(w.data.numel() for w in weights), "values")
    for weight in weights:
        listener.advanced(weight.data.numel())
        reason = _unusable(weight)
        if reason is not None:
            missing[weight.name] = reason
            continue
        key = (weight.data.data_ptr(), weight.data.shape)
        if key in places:
            for place in range(places[key].start, places[key].stop):
                one = found[place]
                readers = (*one.shared_with, weight.name)
                found[place] = Measured(**{**one.__dict__, "shared_with": readers})
            continue
        measured = _measure(weight, specs, rounding, seed)
        places[key] = slice(len(found), len(found) + len(measured))
        found += measured
    return found, missing
