"""The ways to run a model: formats of its operands, with noise or without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from srdd.documents.rin import RinConfig
from srdd.errors import UsageError
from srdd.numerics.formats import parse_spec


@dataclass(frozen=True)
class Way:
    """A way to run the model: formats of its operands (None is full precision), and noise."""

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


def all_ways(ways: Sequence[Way], noise: Noise | None) -> list[Way]:
    """The ways in order, formats written out, each once; with noise, each a second time."""
    named = [
        Way(
            None if way.weights is None else str(parse_spec(way.weights)),
            None if way.activations is None else str(parse_spec(way.activations)),
        )
        for way in ways
    ]
    if noise is not None:
        named = [noisy for way in (Way(), *named) for noisy in (way, replace(way, noise=True))]
    chosen = [way for way in dict.fromkeys(named) if way != Way()]
    if not chosen:
        raise UsageError(
            "there is nothing to quantize: neither weights nor activations have a format",
            "name one, for example mxfp4",
        )
    return chosen
