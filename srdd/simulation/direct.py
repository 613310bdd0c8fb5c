"""Direct measurement: the KL divergence that a change causes, by simulating it.

Each change takes a forward pass of its own over all prompts, of the layers from the changed one on,
and one of the head alone for the model as it is. Changes go from the first layer to the last; what
goes into the layer at hand, and what comes out of the last one, is kept for all prompts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from srdd.documents.records import REPLICATES, replicate_of
from srdd.documents.scan import Operands
from srdd.errors import counted
from srdd.measurement.labels import check_predicted
from srdd.measurement.listener import Listener
from srdd.measurement.work import Part, current
from srdd.model.running import device_of, evaluating, vocabulary_of
from srdd.model.selection import Selection, only
from srdd.model.structure import Structure
from srdd.prompts.batches import Batch, TokenizedPrompts, make_batches
from srdd.simulation import predictions
from srdd.simulation.replay import Replay
from srdd.simulation.simulator import simulate

Sums = NDArray[np.float64]


@dataclass(frozen=True)
class Change:
    """One linear, or stacked experts, with quantized operands; all selected ones for None.

    Attributes:
        layer: the decoder layer of `tensor`.
        format: such as `mxfp4:floor`.
    """

    tensor: str | None
    layer: int
    format: str
    operands: Operands


def passes_of(changes: Sequence[Change], layers: int) -> float:
    """About how many forward passes over the prompts `changes` take."""
    return 2 + sum(_share(change, layers) for change in changes)


def _share(change: Change, layers: int) -> float:
    """The part of the layers that has to run."""
    return 1 - (change.layer if change.tensor else 0) / layers


def _scored(batch: Batch, skip_first: bool) -> Batch:
    """The batch with a mask that leaves out what is predicted from first tokens, if wanted."""
    if not skip_first:
        return batch
    mask = batch.scored_mask.clone()
    mask[:, 1:2] = 0
    return replace(batch, scored=mask)


def measure_directly(
    model: nn.Module,
    structure: Structure,
    tokenized: TokenizedPrompts,
    changes: Sequence[Change],
    *,
    selection: Selection | None = None,
    pad: int = 0,
    batch_size: int | Literal["auto"] = "auto",
    skip_first_token: bool = False,
    listener: Listener | None = None,
) -> dict[Change, Sums]:
    """KL in nats, summed over the predicted tokens of each group of prompts, (groups,) a change.

    The groups are the replicates of a scan.

    Arguments:
        selection: what a change of all linears changes.
        skip_first_token: leave out what is predicted from each prompt's first token.
        listener: hears beforehand what it takes in all.

    Raises:
        InputError: no prompt has a token to predict; out of memory.
    """
    listener = listener or Listener()
    selection = selection or Selection()
    check_predicted(tokenized, skip_first_token)
    device = device_of(model)
    replay = Replay(model, [layer.module for layer in structure.layers], device)
    batches = [
        part
        for batch in make_batches(tokenized, batch_size, pad)
        for part in predictions.cut(batch, vocabulary_of(model) or 1)
    ]
    work = current()
    batches = work.share(batches, [batch.tokens for batch in batches])
    tokens = sum(batch.tokens for batch in batches)
    group = dict(zip(tokenized.index, map(replicate_of, tokenized.fingerprints), strict=True))
    passes = passes_of(changes, len(structure.layers))
    order = sorted(changes, key=lambda change: (change.tensor is not None, change.layer))
    result = _Measured(order)

    def advance(change: Change) -> None:
        listener.advanced(round(_share(change, len(structure.layers)) * tokens))

    with evaluating(model), torch.no_grad():
        clock = time.monotonic()
        states = _States(replay, batches, len(structure.layers))
        took = (time.monotonic() - clock) * passes
        listener.inform(
            f"measuring {counted(len(changes), 'change')} directly takes about {passes:,.0f} "
            f"forward passes over {tokens:,} tokens, {_duration(took)}"
        )
        listener.started(
            f"measuring {counted(len(changes), 'change')} directly",
            round((passes - 2) * tokens),
            "tokens",
        )
        for change in work.through("direct", order, result, advance):
            sums = np.zeros(REPLICATES)
            states.advance(change.layer if change.tensor else 0)
            # The estimate counts every linear, so routers change here as well.
            include = (only(change.tensor),) if change.tensor else selection.include or ("*",)
            with simulate(
                model,
                change.format if change.operands != "input" else None,
                change.format if change.operands != "weight" else None,
                include=include,
                exclude=() if change.tensor else selection.exclude,
            ) as simulation:
                for place, batch in enumerate(batches):
                    logits = states.logits(place)
                    with simulation.paused():
                        plain = states.plain(place)
                    kl = predictions.sums(plain, logits, _scored(batch, skip_first_token))[:, 2]
                    np.add.at(sums, [group[number] for number in batch.index], kl.numpy())
            result.sums[change] = sums
            advance(change)
    work.unite(result)
    return result.sums


class _Measured:
    """The sums of each change that was measured."""

    def __init__(self, changes: Sequence[Change]) -> None:
        self._changes = {json.dumps(astuple(change)): change for change in changes}
        self.sums: dict[Change, Sums] = {}

    def part(self) -> Part:
        return Part({n: self.sums[c] for n, c in self._changes.items() if c in self.sums})

    def restore(self, part: Part) -> None:
        # In the order in which they run, not that of the file.
        named = self._changes.items()
        self.sums = {change: part.sums[name] for name, change in named if name in part.sums}


def _duration(seconds: float) -> str:
    """`40 s` or `12 minutes`."""
    return f"{seconds:,.0f} s" if seconds < 100 else f"{seconds / 60:,.0f} minutes"


class _States:
    """What goes into one layer and comes out of the last, for all batches."""

    def __init__(self, replay: Replay, batches: Sequence[Batch], layers: int) -> None:
        self._replay = replay
        self._batches = batches
        self._layers = layers
        self._usable = bool(batches) and replay.works(batches[0])
        self._layer = 0
        self._entering: list[Tensor | None] = [None] * len(batches)
        self._last: list[Tensor | None] = [None] * len(batches)
        if self._usable:
            self._last = [replay.output_of(batch, layers - 1) for batch in batches]

    def advance(self, layer: int) -> None:
        """Keep what goes into this layer, which is not before the present one."""
        while self._usable and self._layer < layer:
            for place, batch in enumerate(self._batches):
                before = self._entering[place]
                self._entering[place] = self._replay.output_of(
                    batch, self._layer, before, self._layer
                )
            self._layer += 1

    def logits(self, place: int) -> Tensor:
        """Of the model with whatever is changed in the present layer or after it."""
        return self._replay.logits(self._batches[place], self._entering[place], self._layer)

    def plain(self, place: int) -> Tensor:
        """Of the model as it is."""
        return self._replay.logits(self._batches[place], self._last[place], self._layers)
