"""A configuration for trainers that know one schedule: its tiers as multipliers of that schedule.

Tiers can share a schedule when sigma falls by the same ratio in each of them. Then the tier with
the largest sigma gives the schedule, and the others' share of it goes into their multipliers.
Otherwise no multiplier makes one schedule into the other, and nothing is dropped or bent to fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from srdd.documents.rin import RinConfig, Schedule, Tier
from srdd.errors import UsageError


@dataclass(frozen=True)
class OneSchedule:
    """One schedule, and the multiplier of each layer that gets noise, in the order of the tiers."""

    schedule: Schedule
    multipliers: dict[int, float]

    @property
    def layers(self) -> list[int]:
        """The layers that get noise."""
        return list(self.multipliers)

    @property
    def multiplier(self) -> float | None:
        """The multiplier that all layers share, if they do."""
        found = set(self.multipliers.values())
        return found.pop() if len(found) == 1 else None


def fits(config: RinConfig) -> bool:
    """Whether its tiers can share a schedule."""
    base = _base(config)
    return all(_same_shape(tier, base) for tier in config.tiers)


def collapse(config: RinConfig, consumer: str) -> OneSchedule:
    """The configuration in terms of one schedule; `consumer` is what errors call the trainer.

    Raises:
        UsageError: its tiers have schedules of different shapes.
    """
    base = _base(config)
    for tier in config.tiers:
        if not _same_shape(tier, base):
            raise _misfit(tier, base, consumer)
    start = base.schedule.sigma_start
    return OneSchedule(
        base.schedule,
        {
            entry.layer: entry.multiplier
            if tier.schedule.sigma_start == start
            else entry.multiplier * (tier.schedule.sigma_start / start)
            for tier in config.tiers
            for entry in tier.layers
        },
    )


def _base(config: RinConfig) -> Tier:
    return max(config.tiers, key=lambda tier: tier.schedule.sigma_start)


def _same_shape(tier: Tier, base: Tier) -> bool:
    a, b = tier.schedule, base.schedule
    return a.num_stages == b.num_stages and math.isclose(
        a.sigma_end / a.sigma_start, b.sigma_end / b.sigma_start, rel_tol=1e-9
    )


def _misfit(tier: Tier, base: Tier, consumer: str) -> UsageError:
    a, b = tier.schedule, base.schedule
    end = a.sigma_start * (b.sigma_end / b.sigma_start)
    return UsageError(
        f"{consumer} has one schedule for all layers, and tier {tier.name} falls from "
        f"{a.sigma_start:g} to {a.sigma_end:g} while tier {base.name} falls from "
        f"{b.sigma_start:g} to {b.sigma_end:g}",
        f"give them one ratio, such as --tier {tier.name}={a.sigma_start:.12g}:{end:.12g}, or use "
        "--for srdd, or another strategy",
    )
