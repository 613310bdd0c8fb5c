"""Runs a model one way after the other over the same batches, beside the model as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import nn

from srdd.measurement.forward import run_halving
from srdd.measurement.listener import Listener
from srdd.model.running import device_of
from srdd.prompts.batches import Batch, TokenizedPrompts
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

            def run(batch: Batch) -> None:
                self._add(batch, way, simulation, sums)

            for batch in self._batches:
                run_halving(batch, run, self._device, self._listener)
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
        """The sums of one batch."""
        with simulation.paused() if simulation is not None else ExitStack():
            plain = predictions.logits_of(self._model, batch, self._device)
        with self._noisy(way):
            logits = predictions.logits_of(self._model, batch, self._device)
        at = [self._places[number] for number in batch.index]
        sums[at] = predictions.sums(plain, logits, batch).numpy()

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
                self._listener.warn(
                    f"step {noise.step} of {noise.total_steps} lies in the first stage of "
                    "the schedule, which has no noise"
                )
            elif report.unchanged is not None and report.unchanged > MUCH_LOST:
                self._listener.warn(
                    f"noise of sigma {report.sigma:.3g}, of which rounding to the weights' type "
                    f"leaves {100 * report.unchanged:.0f} % of the noisy weights as they were"
                )
            yield
