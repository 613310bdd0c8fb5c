"""From a strategy's tiers to those of a RinConfig: modules, sigmas in every stage, noise energy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from srdd.documents.rin import Energy, LayerNoise, Schedule, Tier
from srdd.documents.scan import Scan
from srdd.errors import UsageError
from srdd.noise.figures import Figures
from srdd.noise.strategies import TierNoise
from srdd.noise.targets import Targets


def build(
    tiers: Sequence[TierNoise],
    *,
    scan: Scan,
    figures: Figures,
    targets: Targets,
    num_stages: int,
    scale: float = 1.0,
) -> list[Tier]:
    """The tiers that get noise, with their modules.

    Arguments:
        num_stages: of every schedule.
        scale: factor on every sigma.

    Raises:
        UsageError: nothing of a layer that is to get noise can get any.
    """
    built = []
    for tier in tiers:
        if tier.sigmas is None or not tier.layers:
            continue
        start, end = (sigma * scale for sigma in tier.sigmas)
        schedule = Schedule(sigma_start=start, sigma_end=end, num_stages=num_stages)
        layers = []
        for layer in tier.layers:
            if targets.known and not targets.of_layer[layer]:
                raise UsageError(
                    f"layer {layer} is to get noise and has no {targets.layer_type} that may",
                    "exclude fewer modules, or choose other layers",
                )
            sigma = tier.multipliers[layer] * start
            layers.append(
                LayerNoise(
                    layer=layer,
                    name=scan.model.layers[layer].name,
                    multiplier=tier.multipliers[layer],
                    sigma=sigma,
                    signal_to_noise_db=targets.signal_to_noise_db(layer, sigma),
                    value=figures.values[layer],
                    sqnr_db=figures.sqnr_db[layer],
                    modules=targets.noisy(layer, sigma),
                )
            )
        built.append(
            Tier(name=tier.name, schedule=schedule, sigmas=list(schedule.sigmas), layers=layers)
        )
    return built


def _power(tiers: Sequence[TierNoise], targets: Targets, num_stages: int) -> tuple[float, float]:
    """Noise energy at the first noisy stage, and its mean over all stages."""
    sizes = targets.sizes({layer for tier in tiers for layer in tier.layers})
    first, mean = [], []
    for tier in tiers:
        if tier.sigmas is not None:
            weight = math.fsum(tier.multipliers[layer] ** 2 * sizes[layer] for layer in tier.layers)
            start, end = tier.sigmas
            schedule = Schedule(sigma_start=start, sigma_end=end, num_stages=num_stages)
            first.append(weight * start * start)
            mean.append(weight * math.fsum(s * s for s in schedule.sigmas) / num_stages)
    return math.fsum(first), math.fsum(mean)


def equal_energy_scale(
    tiers: Sequence[TierNoise], wanted: Sequence[TierNoise], targets: Targets, num_stages: int
) -> float:
    """The factor on the sigmas of `tiers` that gives them the noise energy of `wanted`.

    It is the mean over the run that becomes equal. Where both follow schedules of one shape (the
    same ratio of end to start), so does the energy of every stage.
    """
    target = _power(wanted, targets, num_stages)[1]
    scale = math.sqrt(target / _power(tiers, targets, num_stages)[1])
    # Summing in another order misses 1 by a rounding error, which would show in every sigma.
    return 1.0 if math.isclose(scale, 1.0, rel_tol=1e-12) else scale


def energy_of(
    tiers: Sequence[TierNoise],
    baseline: Sequence[TierNoise],
    targets: Targets,
    num_stages: int,
    scale: float,
) -> Energy:
    """Noise energy of tiers times `scale`, also relative to that of `baseline`."""
    first, mean = (part * scale * scale for part in _power(tiers, targets, num_stages))
    sizes = targets.sizes({layer for tier in tiers for layer in tier.layers})
    return Energy(
        first_stage=first,
        mean=mean,
        relative_to_uniform=mean / _power(baseline, targets, num_stages)[1],
        weights=sum(sizes) if targets.known else None,
    )
