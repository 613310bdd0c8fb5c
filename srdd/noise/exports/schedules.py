"""A configuration as one schedule with a multiplier for each layer, for trainers that know no more.

Tiers can share a schedule when sigma falls by the same ratio in each of them. Then the tier with
the largest sigma gives the schedule, and the others' share of it goes into their multipliers.
Otherwise no multiplier makes one schedule into the other, and nothing is dropped or bent to fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from srdd.documents.rin import RinConfig, Schedule, Tier
from srdd.errors import UsageError
from srdd.noise.multipliers import rounded


@dataclass(frozen=True)
class OneSchedule:
    """One schedule, and the multiplier of each layer that gets noise, in the order of the tiers."""

    schedule: Schedule
    multipliers: dict[int, float]

    @property
    def shared(self) -> float | None:
        """The multiplier that all its layers have; None if they differ."""
        values = set(self.multipliers.values())
        return values.pop() if len(values) == 1 else None


def share_schedule(config: RinConfig) -> bool:
    """Whether its tiers can share a schedule."""
    base = _base(config)
    return all(_same_shape(tier, base) for tier in config.tiers)


def collapse(config: RinConfig, trainer: str) -> OneSchedule:
    """The configuration in terms of one schedule; `trainer` is what errors call the trainer.

    Raises:
        UsageError: its tiers have schedules of different shapes.
    """
    base = _base(config)
    start = base.schedule.sigma_start
    multipliers = {}
    for tier in config.tiers:
        if not _same_shape(tier, base):
            raise _mismatch(tier, base, trainer)
        share = tier.schedule.sigma_start / start
        for entry in tier.layers:
            multipliers[entry.layer] = rounded(entry.multiplier * share)
    return OneSchedule(base.schedule, multipliers)


def uniform(config: RinConfig, trainer: str) -> dict[str, float | int]:
    """`sigma_start`, `sigma_end` and `num_stages` of the same noise on every RMSNorm of the model.

    Raises:
        UsageError: the noise differs between layers, or spares modules, or is on linears.
    """
    norms_only(config, trainer)
    one = collapse(config, trainer) if share_schedule(config) else None
    if one is None or one.shared is None or len(one.multipliers) < config.source.layers:
        raise UsageError(
            f"{trainer} puts the same noise on every layer, and this configuration "
            f"({config.label}) does not",
            "use --strategy uniform, or a trainer that takes layers: --for guide, verl-rin or srdd",
        )
    if config.excluded:
        raise UsageError(
            f"{trainer} puts noise on every RMSNorm, and {len(config.excluded)} are excluded",
            "drop --exclude, or use --for guide, verl-rin or srdd",
        )
    schedule = one.schedule
    return {
        "sigma_start": schedule.sigma_start * one.shared,
        "sigma_end": schedule.sigma_end * one.shared,
        "num_stages": schedule.num_stages,
    }


def norms_only(config: RinConfig, trainer: str) -> None:
    """Make sure that the noise is on norms.

    Raises:
        UsageError: it is on linears, for which the trainer has no setting.
    """
    if config.layer_type != "rmsnorm":
        raise UsageError(
            f"{trainer} puts noise on RMSNorm only, and this configuration is for "
            f"{config.layer_type}",
            "use --layer-type rmsnorm, or --for srdd",
        )


def energy_shares(config: RinConfig) -> list[float]:
    """The share of each tier in the energy over the run; a layer of unknown size counts as 1."""
    energies = [
        sum(sigma**2 for sigma in tier.sigmas)
        * sum(
            entry.multiplier**2 * (sum(module.size for module in entry.modules) or 1)
            for entry in tier.layers
        )
        for tier in config.tiers
    ]
    return [energy / sum(energies) for energy in energies]


def _base(config: RinConfig) -> Tier:
    return max(config.tiers, key=lambda tier: tier.schedule.sigma_start)


def _same_shape(tier: Tier, base: Tier) -> bool:
    a, b = tier.schedule, base.schedule
    return a.num_stages == b.num_stages and math.isclose(
        a.sigma_end / a.sigma_start, b.sigma_end / b.sigma_start, rel_tol=1e-9
    )


def _mismatch(tier: Tier, base: Tier, trainer: str) -> UsageError:
    a, b = tier.schedule, base.schedule
    end = a.sigma_start * (b.sigma_end / b.sigma_start)
    return UsageError(
        f"{trainer} has one schedule for all layers, and tier {tier.name} falls from "
        f"{a.sigma_start:g} to {a.sigma_end:g} while tier {base.name} falls from "
        f"{b.sigma_start:g} to {b.sigma_end:g}",
        f"give them one ratio, such as --tier {tier.name}={a.sigma_start:.12g}:{end:.12g}, or use "
        "--for srdd, or another strategy",
    )
