"""A configuration as one schedule with a multiplier for each layer, for trainers that know no more.

Tiers can share a schedule when sigma falls by the same ratio in each of them. Then the tier with
the largest sigma gives the schedule, and the others' share of it goes into their multipliers.
Otherwise no multiplier makes one schedule into the other, and nothing is dropped or bent to fit.
"""

from __future__ import annotations

import math

from srdd.documents.rin import RinConfig, Schedule, Tier
from srdd.noise.strategies import rounded


def base_tier(config: RinConfig) -> Tier:
    """The tier with the largest sigma."""
    return max(config.tiers, key=lambda tier: tier.schedule.sigma_start)


def same_shape(a: Schedule, b: Schedule) -> bool:
    """Whether sigma falls by the same ratio in as many stages."""
    ratios = a.sigma_end / a.sigma_start, b.sigma_end / b.sigma_start
    return a.num_stages == b.num_stages and math.isclose(*ratios, rel_tol=1e-9)


def one_schedule(config: RinConfig) -> tuple[Schedule, dict[int, float]] | None:
    """The schedule of all tiers, with the multiplier of each layer that gets noise by its index.

    Layers stand in the order of the tiers. None where tiers cannot share a schedule.
    """
    base = base_tier(config).schedule
    if not all(same_shape(tier.schedule, base) for tier in config.tiers):
        return None
    return base, {
        entry.layer: rounded(entry.sigma / base.sigma_start)
        for tier in config.tiers
        for entry in tier.layers
    }


def energy_shares(config: RinConfig) -> dict[str, float]:
    """The share of each tier in the energy over the run; a layer of unknown size counts as 1."""
    energies = {
        tier.name: sum(sigma**2 for sigma in tier.sigmas)
        * sum(e.multiplier**2 * (sum(m.size for m in e.modules) or 1) for e in tier.layers)
        for tier in config.tiers
    }
    return {name: energy / sum(energies.values()) for name, energy in energies.items()}
