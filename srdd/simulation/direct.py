"""Direct measurement: the KL divergence that a change causes, by simulating it.

Each change takes a forward pass of its own over all prompts, of the layers from the changed one on,
and one of the head alone for the model as it is. Changes go from the first layer to the last; what
goes into the layer at hand, and what comes out of the last one, is kept for all prompts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from srdd.documents.records import REPLICATES
from srdd.documents.scan import Operands
from srdd.errors import InputError, counted
from srdd.measurement.listener import Listener
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
    return 2 + sum(1 - (change.layer if change.tensor else 0) / layers for change in changes)


def measure_directly(
    model: nn.Module,
    structure: Structure,
    tokenized: TokenizedPrompts,
    changes: Sequence[Change],
    *,
    selection: Selection | None = None,
    pad: int = 0,
    batch_size: int = 16,
    known: Mapping[Change, Sums] | None = None,
    done: Callable[[Change, Sums], None] = lambda change, sums: None,
    listener: Listener | None = None,
) -> dict[Change, Sums]:
    """KL in nats, summed over the predicted tokens of each group of prompts, (groups,) a change.

    A prompt's group is its number modulo REPLICATES, as in the sums of a scan.

    Arguments:
        selection: what a change of all linears changes.
        known: changes that need not be measured again.
        done: called with each change as soon as it is measured.

    Raises:
        InputError: no prompt has a token to predict; memory does not suffice.
    """
    listener = listener or Listener()
    selection = selection or Selection()
    found = {change: sums for change, sums in (known or {}).items() if change in set(changes)}
    waiting = [change for change in changes if change not in found]
    if not any(len(ids) > 1 for ids in tokenized.ids):
        raise InputError(
            "no prompt has a token to predict: each is a single token",
            "give prompts of two tokens or more",
        )
    device = device_of(model)
    replay = Replay(model, [layer.module for layer in structure.layers], device)
    batches = [
        part
        for batch in make_batches(tokenized, batch_size, pad)
        for part in predictions.cut(batch, vocabulary_of(model) or 1)
    ]
    places = {number: place for place, number in enumerate(tokenized.index)}
    groups = min(REPLICATES, len(places))
    listener.started(
        f"measuring {counted(len(waiting), 'change')} one by one",
        math.ceil(passes_of(waiting, len(structure.layers))) * tokenized.tokens,
        "tokens",
    )
    with evaluating(model), torch.no_grad():
        states = _States(replay, batches, len(structure.layers))
        for change in sorted(waiting, key=lambda change: (change.tensor is not None, change.layer)):
            sums = np.zeros(groups)
            states.advance(change.layer if change.tensor else 0)
            include = (only(change.tensor),) if change.tensor else selection.include
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
                    kl = predictions.sums(plain, logits, batch)[:, 2].numpy()
                    np.add.at(sums, [places[number] % REPLICATES for number in batch.index], kl)
            found[change] = sums
            done(change, sums)
            share = 1 - (change.layer if change.tensor else 0) / len(structure.layers)
            listener.advanced(round(share * tokenized.tokens))
    return found


class _States:
    """What goes into one layer and comes out of the last, for all batches."""

    def __init__(self, replay: Replay, batches: Sequence[Batch], layers: int) -> None:
        self._replay = replay
        self._batches = batches
        self._layers = layers
        self._usable = replay.works(batches[0])
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
