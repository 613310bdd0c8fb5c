"""Runs a model one way after the other over the same batches, beside the model as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from srdd.measurement.activations import device_of
from srdd.measurement.listener import Listener
from srdd.model.load import is_out_of_memory
from srdd.prompts.batches import Batch, TokenizedPrompts, split
from srdd.simulation import predictions
from srdd.simulation.simulator import Simulation, simulate
from srdd.simulation.ways import Noise, Way

Figures = NDArray[np.float64]

MUCH_LOST = 0.1
"""Share of weights that noise leaves as they were from which on a reader is told."""


class Runner:
    """Runs the model one way after the other over the same batches."""

    def __init__(
        self,
        model: nn.Module,
        tokenized: TokenizedPrompts,
        batches: Sequence[Batch],
        noise: Noise | None,
        selected: tuple[Sequence[str], Sequence[str]],
        listener: Listener,
    ) -> None:
        self._model = model
        self._places = {number: place for place, number in enumerate(tokenized.index)}
        self._batches = batches
        self._noise = noise
        self._selected = selected
        self._listener = listener
        self._device = device_of(model)

    def check(self, ways: Sequence[Way]) -> None:
        """Enter every way once, so that what cannot be run fails before anything has run."""
        for way in ways:
            with self._simulated(way), self._noisy(way):
                pass

    def run(self, way: Way) -> tuple[Figures, Simulation | None]:
        """The sums of srdd.simulation.predictions, (prompts, 3), and what was simulated."""
        sums = np.zeros((len(self._places), 3))
        with self._simulated(way) as simulation:
            for batch in self._batches:
                self._add(batch, way, simulation, sums)
        return sums, simulation

    @contextmanager
    def _simulated(self, way: Way) -> Iterator[Simulation | None]:
        if way.weights is None and way.activations is None:
            yield None
            return
        include, exclude = self._selected
        with simulate(
            self._model, way.weights, way.activations, include=include, exclude=exclude
        ) as simulation:
            yield simulation

    def _add(self, batch: Batch, way: Way, simulation: Simulation | None, sums: Figures) -> None:
        """The sums of one batch, or of both its halves where memory does not suffice."""
        try:
            with simulation.paused() if simulation is not None else ExitStack():
                plain = predictions.logits_of(self._model, batch, self._device)
            with self._noisy(way):
                logits = predictions.logits_of(self._model, batch, self._device)
            at = [self._places[number] for number in batch.index]
            sums[at] = predictions.sums(plain, logits, batch).numpy()
        except Exception as error:  # torch says that memory ran out in several ways
            if not is_out_of_memory(error):
                raise
            failed = True
        else:
            failed = False
            self._listener.advanced(batch.tokens)
        if failed:
            # Outside the handler, whose traceback would keep the failed pass's tensors alive.
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            for half in split(batch):
                self._add(half, way, simulation, sums)

    @contextmanager
    def _noisy(self, way: Way) -> Iterator[None]:
        if not way.noise:
            yield
            return
        from srdd.rin import noisy

        assert self._noise is not None
        noise = self._noise
        with noisy(
            self._model,
            noise.config,
            step=noise.step,
            total_steps=noise.total_steps,
            seed=noise.seed,
        ) as report:
            if report.energy == 0:
                self._listener.note(
                    f"step {noise.step} of {noise.total_steps} lies in the first stage of "
                    "the schedule, which has no noise"
                )
            elif report.unchanged is not None and report.unchanged > MUCH_LOST:
                self._listener.note(
                    f"noise of sigma {report.sigma:.3g}, of which rounding to the weights' type "
                    f"leaves {100 * report.unchanged:.0f} % of the noisy weights as they were"
                )
            yield


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout and the like are off meanwhile; every module's mode is restored."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
