"""The section `sensitivity` of a Scan: what changes cost end to end, as sums by group of prompts.

A figure in nats a token is the sum over the groups of `nats` over that of `tokens`. A prompt's
group is its replicate in the records. What is kept for each tensor, format and choice of operands
is one number a group; for joint figures also one for all tensors together, one for those of a layer
and one for those of a kind. With 28 layers of 7 linears, 2 formats and 79 prompts that is about
1.5 MB. Products of two tensors' changes are not kept: there are 200 times as many of them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import model_validator

from srdd.documents.document import Count, Fraction, Interval, Part, Positive, one_of
from srdd.numerics.arriving import TYPES

Operands = Literal["weight", "input", "both"]


class Figure(Part):
    """One figure: `nats` in each group of prompts, the value in nats a token, its 95 % interval.

    The interval is null with a single group.
    """

    nats: list[Positive]
    value: Positive
    interval: Interval | None


class Changed(Figure):
    """What it costs that a tensor's operands are quantized while all else is as it is."""

    layer: Count
    tensor: str
    format: str
    operands: Operands


class Joint(Figure):
    """What it costs that all tensors of a scope are quantized, to second order.

    `name` is a layer's index or a kind; empty where the scope is all tensors.
    """

    scope: Literal["all", "layer", "kind"]
    name: str
    format: str
    operands: Operands


class Magnitudes(Part):
    """How large the values of a weight are, which decides what rounding leaves of noise on them.

    `exponents` are those of their binades, floor(log2 |w|), at least -40. `share` is the part of
    what noise costs that falls on the values of a binade (of a linear, the part of the values), and
    `powers_of_two` the part of the same whole on values that are powers of two, whose neighbours
    below lie closer. See `srdd.numerics.arriving`.
    """

    dtype: Annotated[str, one_of(TYPES)]
    exponents: list[int]
    share: list[Fraction]
    powers_of_two: list[Fraction]

    @model_validator(mode="after")
    def _fit(self) -> Magnitudes:
        if not len(self.exponents) == len(self.share) == len(self.powers_of_two):
            raise ValueError("magnitudes need a share for each exponent")
        if self.exponents != sorted(set(self.exponents)):
            raise ValueError("the exponents of magnitudes are not ascending")
        return self


class NoiseCost(Figure):
    """What noise on a norm's gain or a linear's weight costs, for a variance of 1 (kl_per_sigma2).

    `magnitudes` is null in older scans and where the values are out of reach; noise then counts as
    if it arrived in full.

    Formula: 1/2 E[ || gradient of the loss with respect to the parameter || ^2 ] a token, for
    labels drawn from the model itself
    Unit: nats a token for a variance of 1; noise of standard deviation sigma, independent for each
    element, costs sigma^2 times as much
    Range: from 0
    Reading: at sigma 0.05 a norm with 4 costs 0.01 nats a token
    Pitfalls: of second order: large noise costs less or more than that. Rounding to bfloat16
    swallows noise that is small beside the gain.
    """

    layer: Count | None
    tensor: str
    parameter: Literal["norm", "linear"]
    magnitudes: Magnitudes | None = None


class Checked(Figure):
    """What was measured directly, by simulation, beside the estimate; the tensor is null for all.

    `ratio` is the estimate over the measured value, with an interval over prompts that leaves both
    out together.
    """

    tensor: str | None
    format: str
    operands: Operands
    estimate: Positive
    ratio: Positive | None
    ratio_interval: Interval | None


class Sensitivity(Part):
    """What quantizing each tensor costs the predictions, nats a token; see `metrics.KL`.

    `method` is `estimate`, with `samples` of labels for each prompt, or `direct`, by simulation.
    `measured_in` is the type in which changes were measured directly: in 16 bits, rounding costs as
    much as small changes. `not_measured` has tensors without figures, each with the reason.
    """

    method: Literal["estimate", "direct"]
    samples: Count
    tokens: list[Count]
    changes: list[Changed]
    joint: list[Joint]
    noise: list[NoiseCost]
    checks: list[Checked]
    measured_in: str | None = None
    not_measured: dict[str, str]

    @model_validator(mode="after")
    def _equally_long(self) -> Sensitivity:
        for figure in (*self.changes, *self.joint, *self.noise, *self.checks):
            if len(figure.nats) != len(self.tokens):
                raise ValueError("every figure of the sensitivity needs a value for each group")
        return self
