"""Variants of a model that an evaluation runs: formats of its operands, with noise or without."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn

from srdd.documents.rin import RinConfig
from srdd.errors import UsageError
from srdd.measurement import forward
from srdd.measurement.forward import run_halving
from srdd.measurement.listener import Listener
from srdd.measurement.work import Part, current
from srdd.model.running import device_of
from srdd.numerics.formats import parse_spec
from srdd.prompts.batches import Batch, TokenizedPrompts
from srdd.rin.inject import noisy
from srdd.simulation import predictions
from srdd.simulation.assignments import Assignment
from srdd.simulation.mismatch import Collector
from srdd.simulation.simulator import Simulation, simulate

MUCH_UNCHANGED = 0.1
"""Share of weights that noise leaves as they were above which there is a warning."""


@dataclass(frozen=True)
class Variant:
    """Formats of a model's operands, None for full precision, and whether there is noise.

    Attributes:
        assignment: formats of single linears, in place of those.
    """

    weights: str | None = None
    activations: str | None = None
    noise: bool = False
    assignment: Assignment | None = None

    @property
    def inputs(self) -> set[str]:
        """The formats of what goes into linears."""
        own = self.assignment.modules.values() if self.assignment else ()
        return {spec for _, spec in ((None, self.activations), *own) if spec is not None}


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

    result = [
        replace(each, weights=named(each.weights), activations=named(each.activations), noise=False)
        for each in variants
    ]
    if noise is not None:
        plain_too = (Variant(), *result)
        result = [variant for each in plain_too for variant in (each, replace(each, noise=True))]
    result = [each for each in dict.fromkeys(result) if each != Variant()]
    if not result:
        raise UsageError(
            "there is nothing to quantize: neither weights nor activations have a format",
            "name one, for example mxfp4",
        )
    return result


@dataclass(frozen=True)
class _Run:
    """The sums of each prompt, (prompts, 3), what a collector adds up, and what was called."""

    sums: NDArray[np.float64]
    collector: Collector | None
    simulation: Simulation

    def part(self) -> Part:
        arrays = {name: array.copy() for name, array in self._arrays().items()}
        return Part(arrays, {"called": self.simulation.called})

    def restore(self, part: Part) -> None:
        for name, array in self._arrays().items():
            array[...] = part.sums[name]
        self.simulation.mark_called(part.facts["called"])

    def _arrays(self) -> dict[str, NDArray[np.float64]]:
        return {"sums": self.sums, **(self.collector.arrays() if self.collector else {})}


@dataclass(frozen=True)
class Runner:
    """Runs variants of a model over the same batches, each beside the model as it is."""

    model: nn.Module
    tokenized: TokenizedPrompts
    batches: Sequence[Batch]
    noise: Noise | None
    include: Sequence[str]
    exclude: Sequence[str]
    listener: Listener

    def check(self, variants: Sequence[Variant]) -> None:
        """Enter every variant once, so that what cannot be run fails before anything has run."""
        for variant in variants:
            with self._simulated(variant), self._noisy(variant):
                pass

    def run(
        self, variant: Variant, collector: Collector | None = None
    ) -> tuple[NDArray[np.float64], Simulation]:
        """The sums of srdd.simulation.predictions, (prompts, 3), and the simulation.

        Arguments:
            collector: gets the figures of every token, too.
        """
        sums = np.zeros((len(self.tokenized.index), 3))
        device = device_of(self.model)
        work = current()
        own = work.share(self.batches, [batch.tokens for batch in self.batches])
        with self._simulated(variant) as simulation:
            state = _Run(sums, collector, simulation)

            def add(batch: Batch) -> None:
                with simulation.paused():
                    plain = forward.logits_of(self.model, batch, device)
                with self._noisy(variant):
                    logits = forward.logits_of(self.model, batch, device)
                places = np.searchsorted(self.tokenized.index, batch.index)
                if collector is None:
                    sums[places] = predictions.sums(plain, logits, batch).numpy()
                else:
                    sums[places] = collector.add(plain, logits, batch)

            name = f"variant {hashlib.sha256(repr(variant).encode()).hexdigest()}"
            for batch in work.through(name, own, state, self._skip):
                run_halving(batch, add, device, self.listener)
            work.unite(state)
        return sums, simulation

    def _skip(self, batch: Batch) -> None:
        self.listener.advanced(batch.tokens)

    def _simulated(self, variant: Variant) -> AbstractContextManager[Simulation]:
        operands = variant.weights, variant.activations
        if variant.assignment is not None:
            if variant.assignment.is_plain:
                return nullcontext(Simulation())
            return simulate(self.model, modules=variant.assignment.modules)
        if operands == (None, None):
            return nullcontext(Simulation())
        return simulate(self.model, *operands, include=self.include, exclude=self.exclude)

    @contextmanager
    def _noisy(self, variant: Variant) -> Iterator[None]:
        noise = self.noise
        if noise is None or not variant.noise:
            yield
            return
        with noisy(
            self.model,
            noise.config,
            step=noise.step,
            total_steps=noise.total_steps,
            seed=noise.seed,
        ) as report:
            if report.energy == 0:
                self.listener.warn(
                    f"step {noise.step} of {noise.total_steps} is in the first stage of the "
                    "schedule, which has no noise"
                )
            elif report.unchanged is not None and report.unchanged > MUCH_UNCHANGED:
                self.listener.warn(
                    f"noise of sigma {report.sigma:.3g}: rounding to the weights' type leaves "
                    f"{100 * report.unchanged:.0f} % of the noisy weights as they were"
                )
            yield
