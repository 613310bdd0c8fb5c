"""What an experiment consists of: settings, arms, noise of equal energy, and runs."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import srdd
from srdd.errors import UsageError
from srdd.rin.schedule import sigma_at

ARMS = ("uniform", "targeted", "variable", "zone", "inverse", "shuffled")
"""Arms with noise. `inverse` and `shuffled` are controls of `variable`."""

BASELINE = "none"

Level = tuple[float, float]
"""Sigma at the first noisy stage and at the last, of uniform noise."""


@dataclass(frozen=True)
class Settings:
    """What every run of an experiment has in common.

    Attributes:
        steps: optimizer's steps; a multiple of `stages`, since else stages differ in length and
            equal energy over stages is not equal energy over steps.
        stages: of the noise schedule; the first is clean.
        batch: windows in a step.
        context: tokens in a window.
        rate: highest learning rate; see `experiment.training.learning_rate`.
        windows: held-out windows that the loss is taken on.
        site: of the scan, by which layers are ranked. At the input of linears, since that is what
            a 4-bit product quantizes, and since at the output of layers the demo model's
            multipliers are 0.97 to 1.05, which makes `variable` the same as `uniform`.
        share: of the layers that `targeted` takes; the guide takes 10 of 28.
        format: of weights and activations.
    """

    steps: int = 60
    stages: int = 10
    batch: int = 4
    context: int = 128
    rate: float = 1e-3
    windows: int = 160
    site: str = "input"
    share: float = 1 / 3
    format: str = "mxfp4"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.steps % self.stages:
            raise UsageError(
                f"{self.steps} steps do not divide into {self.stages} equal stages",
                f"use a multiple of {self.stages}, such as --steps {self.stages * 10}",
            )


QUICK = Settings(steps=3, stages=3, batch=2, context=32, windows=8)
"""For a test: it shows that all parts work, and nothing about noise."""


@dataclass(frozen=True)
class Run:
    """One fine-tuning run: `level` counts the levels of sigma, and is None without noise."""

    level: int | None
    arm: str
    seed: int

    @property
    def name(self) -> str:
        where = "" if self.level is None else f"-level{self.level}"
        return f"{self.arm}{where}-seed{self.seed}"

    @property
    def config(self) -> str | None:
        """The name of its noise configuration.

        Shuffled noise is dealt anew for every seed, so that its mean is not that of one deal.
        """
        if self.level is None:
            return None
        dealt = f"-seed{self.seed}" if self.arm == "shuffled" else ""
        return f"{self.arm}-level{self.level}{dealt}"


def runs_of(levels: int, seeds: int, arms: Sequence[str] = ARMS) -> list[Run]:
    """All runs, seed by seed: whatever is finished first can be paired."""
    return [
        run
        for seed in range(seeds)
        for run in (
            Run(None, BASELINE, seed),
            *(Run(level, arm, seed) for level in range(levels) for arm in arms),
        )
    ]


def configs_of(
    scan: srdd.Scan, settings: Settings, levels: Sequence[Level], seeds: int
) -> dict[str, srdd.RinConfig]:
    """Name -> noise configuration of every run with noise, all of a level at equal noise energy.

    Raises:
        RuntimeError: the energies of a level differ, over stages or over the run's steps.
    """
    found: dict[str, srdd.RinConfig] = {}
    for run in runs_of(len(levels), seeds):
        if run.config is None or run.level is None or run.config in found:
            continue
        start, end = levels[run.level]
        made = srdd.suggest(
            scan,
            run.arm,
            site=settings.site,
            sigma_start=start,
            sigma_end=end,
            num_stages=settings.stages,
            equal_energy=True,
            seed=run.seed,
            top_fraction=settings.share if run.arm == "targeted" else None,
        )
        baseline = found.get(f"uniform-level{run.level}", made)
        energies = [(c.energy.mean, planned_energy(c, settings.steps)) for c in (made, baseline)]
        if not all(math.isclose(a, b, rel_tol=1e-9) for a, b in zip(*energies, strict=True)):
            raise RuntimeError(f"the noise energy of {run.config} is not that of uniform noise")
        found[run.config] = made
    return found


def planned_energy(config: srdd.RinConfig, steps: int) -> float:
    """Expected sum over a run's steps and noisy weights of noise squared."""
    return math.fsum(
        module.size * (layer.multiplier * sigma_at(tier.schedule, step, steps)) ** 2
        for step in range(steps)
        for tier in config.tiers
        for layer in tier.layers
        for module in layer.modules
    )


def key_of(facts: dict[str, Any]) -> str:
    """A short fingerprint of what makes runs comparable."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def facts_of(
    settings: Settings,
    levels: Sequence[Level],
    text: dict[str, Any],
    model: str,
    versions: dict[str, str],
) -> dict[str, Any]:
    """What has to agree for runs to belong to one experiment. How many seeds it has does not."""
    return {
        "settings": asdict(settings),
        "levels": [list(level) for level in levels],
        "text": text,
        "model": model,
        "versions": versions,
    }
