"""From a strategy's tiers to those of a RinConfig: modules, sigmas in every stage, noise energy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from srdd.documents.rin import Energy, LayerNoise, Tier
from srdd.noise.figures import Figures
from srdd.noise.strategies import TierNoise
from srdd.noise.targets import Targets


def build(tiers: Sequence[TierNoise], figures: Figures, targets: Targets) -> list[Tier]:
    """The tiers that get noise, with their modules.

    Raises:
        UsageError: nothing of a layer that is to get noise can get any.
    """
    return [
        Tier(
            name=tier.name,
            schedule=tier.schedule,
            sigmas=list(tier.schedule.sigmas),
            layers=[
                _layer(layer, tier.multipliers[layer], tier.schedule.sigma_start, figures, targets)
                for layer in tier.layers
            ],
        )
        for tier in tiers
        if tier.schedule and tier.layers
    ]


def _layer(
    layer: int, multiplier: float, sigma_start: float, figures: Figures, targets: Targets
) -> LayerNoise:
    targets.check_layer(layer)
    sigma = multiplier * sigma_start
    return LayerNoise(
        layer=layer,
        name=figures.scan.model.layers[layer].name,
        multiplier=multiplier,
        sigma=sigma,
        signal_to_noise_db=targets.signal_to_noise_db(targets.of_layer[layer], sigma),
        value=figures.values[layer],
        sqnr_db=figures.records[layer].metrics.sqnr_db,
        modules=targets.noisy(layer, sigma),
    )


def _power(tiers: Sequence[TierNoise], targets: Targets) -> tuple[float, float]:
    """Noise energy at the first noisy stage, and its mean over all stages."""
    sizes = targets.sizes({layer for tier in tiers for layer in tier.layers})
    first, mean = [], []
    for tier in tiers:
        if tier.schedule:
            weight = math.fsum(tier.multipliers[layer] ** 2 * sizes[layer] for layer in tier.layers)
            sigmas = tier.schedule.sigmas
            first.append(weight * sigmas[1] ** 2)
            mean.append(weight * math.fsum(sigma**2 for sigma in sigmas) / len(sigmas))
    return math.fsum(first), math.fsum(mean)


def with_energy_of(
    other: Sequence[TierNoise], tiers: Sequence[TierNoise], targets: Targets
) -> list[TierNoise]:
    """`tiers` with their sigmas scaled so that they have the noise energy of `other`.

    It is the mean over the run that becomes equal. Where both follow schedules of one shape (the
    same ratio of end to start), so does the energy of every stage.
    """
    return scaled(tiers, math.sqrt(_power(other, targets)[1] / _power(tiers, targets)[1]))


def scaled(tiers: Sequence[TierNoise], scale: float) -> list[TierNoise]:
    """`tiers` with all sigmas times `scale`."""
    # Summing in another order misses 1 by a rounding error, which would show in every sigma.
    if math.isclose(scale, 1.0, rel_tol=1e-10):
        return list(tiers)
    return [replace(tier, schedule=tier.schedule and tier.schedule.scaled(scale)) for tier in tiers]


def energy_of(
    tiers: Sequence[TierNoise], baseline: Sequence[TierNoise], targets: Targets
) -> Energy:
    """Noise energy of tiers, also relative to that of `baseline`."""
    first, mean = _power(tiers, targets)
    sizes = targets.sizes({layer for tier in tiers for layer in tier.layers})
    return Energy(
        first_stage=first,
        mean=mean,
        relative_to_uniform=mean / _power(baseline, targets)[1],
        weights=sum(sizes) if targets.known else None,
    )
