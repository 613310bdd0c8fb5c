"""Variants of a model that an evaluation runs: formats of its operands, with noise or without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from srdd.documents.rin import RinConfig
from srdd.errors import UsageError
from srdd.measurement.forward import run_halving
from srdd.measurement.listener import Listener
from srdd.model.running import device_of
from srdd.numerics.formats import parse_spec
from srdd.prompts.batches import Batch, TokenizedPrompts
from srdd.simulation import predictions
from srdd.simulation.simulator import Simulation, simulate

MUCH_UNCHANGED = 0.1
"""Share of weights that noise leaves as they were above which there is a warning."""


@dataclass(frozen=True)
class Variant:
    """Formats of a model's operands, None for full precision, and whether there is noise."""

    weights: str | None = None
    activations: str | None = None
    noise: bool = False


@dataclass(frozen=True)
class Noise:
    """The noise of one step of a training run.

    Attributes:
        config: the noise configuration.
        name: what it is called, such as its file.
        step, total_steps: the step, counted from 0, and the length of the run.
        seed: what it is drawn from.
    """

    config: RinConfig
    name: str
    step: int
    total_steps: int
    seed: int = 0


def all_variants(variants: Sequence[Variant], noise: Noise | None) -> list[Variant]:
    """The variants in order, formats with their scale rules, each once; with noise also with it.

    Raises:
        UsageError: an unknown format; there is nothing but the model as it is.
    """

    def named(spec: str | None) -> str | None:
        return None if spec is None else str(parse_spec(spec))

    found = [Variant(named(each.weights), named(each.activations)) for each in variants]
    if noise is not None:
        found = [one for each in (Variant(), *found) for one in (each, replace(each, noise=True))]
    found = [each for each in dict.fromkeys(found) if each != Variant()]
    if not found:
        raise UsageError(
            "there is nothing to quantize: neither weights nor activations have a format",
            "name one, for example mxfp4",
        )
    return found


class Runner:
    """Runs variants of a model over the same batches, each beside the model as it is."""

    def __init__(
        self,
        model: nn.Module,
        tokenized: TokenizedPrompts,
        batches: Sequence[Batch],
        noise: Noise | None,
        include: Sequence[str],
        exclude: Sequence[str],
        listener: Listener,
    ) -> None:
        self._model = model
        self._places = {number: place for place, number in enumerate(tokenized.index)}
        self._batches = batches
        self._noise = noise
        self._include, self._exclude = include, exclude
        self._listener = listener
        self._device = device_of(model)

    def check(self, variants: Sequence[Variant]) -> None:
        """Enter every variant once, so that what cannot be run fails before anything has run."""
        for variant in variants:
            with self._simulated(variant), self._noisy(variant):
                pass

    def run(self, variant: Variant) -> tuple[NDArray[np.float64], Simulation | None]:
        """The sums of srdd.simulation.predictions, (prompts, 3), and the simulation."""
        sums = np.zeros((len(self._places), 3))
        with self._simulated(variant) as simulation:

            def add(batch: Batch) -> None:
                with ExitStack() if simulation is None else simulation.paused():
                    plain = predictions.logits_of(self._model, batch, self._device)
                with self._noisy(variant):
                    logits = predictions.logits_of(self._model, batch, self._device)
                places = [self._places[number] for number in batch.index]
                sums[places] = predictions.sums(plain, logits, batch).numpy()

            for batch in self._batches:
                run_halving(batch, add, self._device, self._listener)
        return sums, simulation

    @contextmanager
    def _simulated(self, variant: Variant) -> Iterator[Simulation | None]:
        if variant.weights is None and variant.activations is None:
            yield None
            return
        with simulate(
            self._model,
            variant.weights,
            variant.activations,
            include=self._include,
            exclude=self._exclude,
        ) as simulation:
            yield simulation

    @contextmanager
    def _noisy(self, variant: Variant) -> Iterator[None]:
        if not variant.noise:
            yield
            return
        from srdd.rin import noisy

        noise = self._noise
        assert noise is not None
        with noisy(
            self._model,
            noise.config,
            step=noise.step,
            total_steps=noise.total_steps,
            seed=noise.seed,
        ) as report:
            if report.energy == 0:
                self._listener.warn(
                    f"step {noise.step} of {noise.total_steps} is in the first stage of the "
                    "schedule, which has no noise"
                )
            elif report.unchanged is not None and report.unchanged > MUCH_UNCHANGED:
                self._listener.warn(
                    f"noise of sigma {report.sigma:.3g}: rounding to the weights' type leaves "
                    f"{100 * report.unchanged:.0f} % of the noisy weights as they were"
                )
            yield
