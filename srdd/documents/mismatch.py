"""The section `mismatch` of a Result: how far a quantized rollout policy is from the trained one.

The training policy is the model as it is, the rollout policy the same model run as the result says.
Figures are by name those of srdd.numerics.mismatch_metrics.MISMATCH, with 95 % intervals over
responses.

Sampled figures suppose that the policy in the role of pi_rollout wrote the text. `written_by` says
which one that was: for text that the training policy wrote, the roles are exchanged, and rho is the
quantized policy's probability over the other's. Figures over the whole vocabulary (`kl_reversed`
and those that begin with `expected_`) are of the rollout policy in any case.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from srdd.documents.document import Count, Interval, Part

Fraction = Annotated[float, Field(ge=0, le=1)]


class Figure(Part):
    """A figure; null where it is not finite, and its interval where there is one response only."""

    value: float | None
    interval: Interval | None


class TokenClass(Part):
    """Tokens of a class: of a stretch of the response, a rank, or an entropy.

    `name` says which: places in the response counted from 0, ranks of the sampled token in the
    training policy's distribution from 1, or that distribution's entropy in nats. `kl` is
    KL(rollout || training) in nats a token, `share` the part that the class has of its sum,
    `prob_error` the token_mult_prob_error. By position, `responses` reach the stretch, and
    `ess_seq` is their effective sample size if all were cut at its end; null elsewhere.
    """

    name: str
    tokens: Count
    share: Fraction
    kl: Figure
    prob_error: Figure
    responses: Count | None = None
    ess_seq: float | None = None


class WorstResponse(Part):
    """One of the responses with the largest KL(rollout || training) in all.

    `index` is its place in the source, from 0. `kl` is in nats over the response, `log_weight` the
    sum over its tokens of the log-ratio, that of `token` being `log_ratio`: the token at `position`
    of the response whose probabilities are furthest apart, with the text around it.
    """

    index: Count
    tokens: Count
    kl: float
    log_weight: float
    position: Count
    log_ratio: float
    before: str
    token: str
    after: str


class Measured(Part):
    """The mismatch with the log-probabilities that the rollout engine logged.

    `figures` compare the engine with the training policy, `left` with the simulated rollout policy:
    what the simulation does not account for. `explained` is 1 minus the sum of squared log-ratios
    left over that of all: 1 where the simulation gives what the engine logged, below 0 where it is
    further from that than full precision.
    """

    responses: Count
    tokens: Count
    figures: dict[str, Figure]
    left: dict[str, Figure]
    explained: Figure


class Share(Part):
    """A tensor, layer or kind: its part of what all together cost, `kl` in nats a token.

    `layer` is a tensor's decoder layer.
    """

    name: str
    kl: float
    share: Fraction
    layer: Count | None = None


class Attribution(Part):
    """Which linears bring the mismatch, from the sensitivity of a scan.

    Shares are of the sum over the scan's tensors that this variant quantizes, each in its format:
    `kl`, KL(training || rollout) in nats a token. `same_text` says whether the scan is of the same
    rollouts, and `method` whether it estimated or measured. Lists are the costliest first;
    `tensors` has the first of `count`.
    """

    scan: str
    same_text: bool
    method: Literal["estimate", "direct"]
    kl: float
    count: Count
    tensors: list[Share]
    layers: list[Share]
    kinds: list[Share]


class Mismatch(Part):
    """The mismatch that running a model this way brings about."""

    written_by: Literal["training", "rollout"]
    responses: Count
    tokens: Count
    clip: tuple[float, float]
    own_clip: tuple[float, float] | None
    figures: dict[str, Figure]
    by_position: list[TokenClass]
    by_rank: list[TokenClass]
    by_entropy: list[TokenClass]
    worst: list[WorstResponse]
    measured: Measured | None
    attribution: Attribution | None = None
