"""What noise on each layer costs the predictions, and how strong noise has to be to cost so much.

From the sensitivity of a scan: noise of variance v on a weight costs v times its `kl_per_sigma2`,
with v what arrives once the sum is rounded to the weight's type. Costs of several weights add.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from srdd.documents.noise_costs import arriving_variance, costs_of, unknown_cost
from srdd.documents.rin import NoiseKl, RinConfig
from srdd.documents.scan import Record, Scan
from srdd.documents.sensitivity import NoiseCost
from srdd.errors import UsageError
from srdd.noise.figures import NOISE, Figures, costed
from srdd.noise.strategies import LARGEST_SIGMA, SMALLEST_SIGMA, TierNoise
from srdd.noise.targets import Targets

MOST_KL = 1.0
"""Nats a token; a prediction of second order above this means nothing."""

LEAST_ARRIVING = 0.5
"""Below this share of its energy, noise is a few large steps rather than noise of that sigma."""


@dataclass(frozen=True)
class NoiseCosts:
    """What noise costs on the weights of each layer that can get noise, (layers,)."""

    of_layer: tuple[tuple[NoiseCost, ...], ...]

    def figures(self, scan: Scan, records: Sequence[Record]) -> Figures:
        """What noise of variance 1 costs in each layer, for strategies that look at it.

        Raises:
            InputError: a layer has nothing that can get noise.
        """
        costs = [(layer, cost) for layer, own in enumerate(self.of_layer) for cost in own]
        return costed(scan, records, NOISE, costs)

    def kl(self, tiers: Sequence[TierNoise], stage: int, scale: float = 1.0) -> float:
        """What the noise of a stage costs, nats a token, with all sigmas times `scale`."""
        return self._sum(tiers, stage, scale, lambda cost, sigma: arriving_variance(cost, sigma))

    def mean_kl(self, tiers: Sequence[TierNoise], scale: float = 1.0) -> float:
        """Its mean over the run: each stage counts alike, the clean one as 0."""
        stages = max(len(tier.schedule.sigmas) for tier in tiers if tier.schedule)
        return math.fsum(self.kl(tiers, stage, scale) for stage in range(1, stages)) / stages

    def arriving(self, tiers: Sequence[TierNoise], scale: float) -> float:
        """The share of what the first noisy stage costs that rounding lets through."""
        whole = self._sum(tiers, 1, scale, lambda cost, sigma: sigma * sigma)
        return self.kl(tiers, 1, scale) / whole if whole else 0.0

    def _sum(
        self,
        tiers: Sequence[TierNoise],
        stage: int,
        scale: float,
        variance: Callable[[NoiseCost, float], float],
    ) -> float:
        total = []
        for tier in tiers:
            for layer in tier.layers:
                assert tier.schedule is not None
                sigma = scale * tier.multipliers[layer] * tier.schedule.sigmas[stage]
                total += [cost.value * variance(cost, sigma) for cost in self.of_layer[layer]]
        return math.fsum(total)

    def scale_for(
        self, tiers: Sequence[TierNoise], target: float, what: str, *, mean: bool = False
    ) -> float:
        """The factor on all sigmas with which the first noisy stage costs `target`.

        Arguments:
            target: nats a token.
            what: what asks for it, for the error.
            mean: whether it is the mean over the run that is to cost so much.

        Raises:
            UsageError: no sigma costs so much: rounding would swallow more than half of the noise,
                or the figure would be beyond what a prediction of second order can say.
        """

        def cost(scale: float) -> float:
            return self.mean_kl(tiers, scale) if mean else self.kl(tiers, 1, scale)

        low, high = self.reachable(tiers)
        least, most = cost(low), cost(high)
        if not least <= target <= most * (1 + 1e-9):
            reasons = (
                "below that, rounding to the weights' type swallows more than half of the noise"
                if target < least
                else "above that, the prediction, which is of second order, says nothing"
            )
            raise UsageError(
                f"`{what}`: no sigma makes this noise cost {target:.3g} nats a token",
                f"reachable are {least:.3g} to {most:.3g} nats a token; {reasons}",
            )
        return _root(cost, target, low, high)

    def reachable(self, tiers: Sequence[TierNoise]) -> tuple[float, float]:
        """The least and the largest factor on all sigmas that `scale_for` gives.

        Raises:
            UsageError: the noise costs nothing at any sigma.
        """
        sigmas = [
            tier.multipliers[layer] * tier.schedule.sigma_start
            for tier in tiers
            if tier.schedule
            for layer in tier.layers
        ]
        low, high = SMALLEST_SIGMA / min(sigmas), LARGEST_SIGMA / max(sigmas)
        if not self.kl(tiers, 1, high) > 0:
            raise UsageError(
                "noise costs nothing in any of these layers",
                "choose other layers, or scan with other prompts",
            )
        if self.kl(tiers, 1, high) > MOST_KL:
            high = _root(lambda scale: self.kl(tiers, 1, scale), MOST_KL, low, high)
        if self.arriving(tiers, low) < LEAST_ARRIVING:
            low = _root(lambda scale: self.arriving(tiers, scale), LEAST_ARRIVING, low, high)
        return low, high


def quantization_kl(scan: Scan, spec: str) -> dict[str, Any]:
    """What quantizing both operands of all linears costs, as fields of a NoiseKl.

    As it was measured directly, or else the sum of the estimates.
    """
    joint = scan.joint_kl(spec)
    name = "predicted" if joint["measured"] is None else "measured"
    return {
        "quantization": joint[name],
        "quantization_interval": joint[f"{name}_interval"],
        "quantization_measured": name == "measured",
    }


def predicted(scan: Scan, config: RinConfig) -> NoiseKl:
    """What the noise of a configuration costs in each stage.

    Raises:
        UsageError: the scan does not say so of all its modules, or has no sensitivity.
    """
    rows = scan.noise_kl(config)
    source = config.source
    return NoiseKl(
        stages=[row["kl"] for row in rows],
        intervals=[row["kl_interval"] for row in rows],
        arriving=[row["arriving"] for row in rows],
        **quantization_kl(scan, f"{source.format}:{source.scale_rule}"),
    )


def _root(function: Callable[[float], float], value: float, low: float, high: float) -> float:
    """Where a function that grows from `low` to `high` takes a value, by halving in logarithms."""
    low, high = math.log(low), math.log(high)
    while high - low > 1e-12:
        middle = (low + high) / 2
        if middle in (low, high):
            break
        low, high = (middle, high) if function(math.exp(middle)) < value else (low, middle)
    return math.exp((low + high) / 2)


def noise_costs(scan: Scan, targets: Targets) -> NoiseCosts:
    """What noise on each layer's targets costs.

    Raises:
        UsageError: the scan has no sensitivity, or none of one of the targets.
    """
    if scan.sensitivity is None:
        raise UsageError(
            "the scan does not say what noise costs",
            "scan the model again with `kl=True`",
        )
    known = costs_of(scan)
    names = [target.name for layer in targets.of_layer for target in layer]
    for name in names:
        if name not in known:
            raise unknown_cost(scan, name)
    return NoiseCosts(
        tuple(tuple(known[target.name] for target in layer) for layer in targets.of_layer)
    )
