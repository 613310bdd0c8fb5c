"""What the noise of a RinConfig costs the predictions, from the sensitivity of a scan.

Independent noise on several weights costs the sum of what each costs, to second order. A weight
whose noise has variance v after rounding costs v times its `kl_per_sigma2`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from srdd.documents.sensitivity import NoiseCost
from srdd.errors import UsageError, unknown_name
from srdd.numerics.arriving import arriving

if TYPE_CHECKING:
    from srdd.documents.rin import NoisyModule, RinConfig
    from srdd.documents.scan import Model, Scan

By = Literal["stage", "layer", "tensor"]
BY = ("stage", "layer", "tensor")


def arriving_variance(cost: NoiseCost, sigma: float) -> float:
    """The variance that arrives of noise on a weight, averaged by what it costs there.

    In a scan that does not say how large the values are, all of it.
    """
    kinds = cost.magnitudes
    if kinds is None or not sigma:
        return sigma * sigma
    total = 0.0
    for place, exponent in enumerate(kinds.exponents):
        exact = kinds.powers_of_two[place]
        if exact:
            total += exact * arriving(sigma, exponent, kinds.dtype, power_of_two=True)
        if other := kinds.share[place] - exact:
            total += other * arriving(sigma, exponent, kinds.dtype)
    return total / math.fsum(kinds.share)


def costs_of(scan: Scan) -> dict[str, NoiseCost]:
    """What noise costs on each norm and linear that the scan's sensitivity has, by name."""
    return {} if scan.sensitivity is None else {c.tensor: c for c in scan.sensitivity.noise}


def owners_of(model: Model) -> dict[str, str]:
    """For each norm and linear with a weight of another, the first that has it."""
    norms = [*model.other_norms, *(norm for layer in model.layers for norm in layer.norms)]
    owners = {norm.name: norm.tied_to for norm in norms if norm.tied_to}
    linears = (linear for layer in model.layers for linear in layer.linears)
    return owners | {linear.name: linear.tied_to for linear in linears if linear.tied_to}


@dataclass(frozen=True)
class _Noisy:
    """A module under noise: what noise on it costs, and sigma in every stage."""

    layer: int
    module: NoisyModule
    cost: NoiseCost
    sigmas: Sequence[float]


def noise_rows(
    scan: Scan, config: RinConfig, stage: int | None, by: By = "stage"
) -> list[dict[str, Any]]:
    """See `srdd.documents.scan.Scan.noise_kl`."""
    if by not in BY:
        raise unknown_name("grouping", by, BY)
    count = max(len(tier.sigmas) for tier in config.tiers)
    if stage is not None and not 0 <= stage < count:
        raise UsageError(
            f"the configuration has no stage {stage}",
            f"stages are numbered 0 to {count - 1}; the first is without noise",
        )
    groups: dict[tuple[int | None, str | None], list[_Noisy]] = {}
    for each in _noisy(scan, config):
        key = {
            "stage": (None, None),
            "layer": (each.layer, None),
            "tensor": (each.layer, each.module.name),
        }
        groups.setdefault(key[by], []).append(each)
    rows = []
    for number in range(count) if stage is None else (stage,):
        own = [
            {"stage": number, "layer": layer, "tensor": tensor} | _figures(scan, members, number)
            for (layer, tensor), members in groups.items()
        ]
        total = math.fsum(row["kl"] for row in own)
        rows += [row | {"share": row["kl"] / total if total else None} for row in own]
    return rows


def mean_costs(scan: Scan, config: RinConfig) -> list[tuple[int, NoiseCost, float]]:
    """For each module under noise its layer, what noise on it costs, and the variance that arrives.

    The variance is its mean over the run, each stage counting alike and the clean one as 0.

    Raises:
        UsageError: as `Scan.noise_kl`.
    """
    return [
        (
            each.layer,
            each.cost,
            math.fsum(arriving_variance(each.cost, sigma) for sigma in each.sigmas)
            / len(each.sigmas),
        )
        for each in _noisy(scan, config)
    ]


def noise_nats(scan: Scan, config: RinConfig, stage: int) -> list[float]:
    """What the noise of a stage is predicted to cost each group of prompts, in nats.

    The groups are those of `scan.sensitivity.tokens`; a figure in nats a token is the sum over them
    divided by that of the tokens.

    Raises:
        UsageError: see `srdd.documents.scan.Scan.noise_kl`.
    """
    totals = [0.0] * len(scan.sensitivity.tokens if scan.sensitivity else ())
    for each in _noisy(scan, config):
        variance = arriving_variance(each.cost, each.sigmas[min(stage, len(each.sigmas) - 1)])
        for group, nats in enumerate(each.cost.nats):
            totals[group] += variance * nats
    return totals


def _figures(scan: Scan, members: Sequence[_Noisy], stage: int) -> dict[str, Any]:
    from srdd.documents.sensitivity_figures import weighted  # needs numpy

    assert scan.sensitivity is not None
    sigmas = [each.sigmas[min(stage, len(each.sigmas) - 1)] for each in members]
    variances = [
        arriving_variance(each.cost, sigma) for each, sigma in zip(members, sigmas, strict=True)
    ]
    sizes = [each.module.size for each in members]
    energy = math.fsum(sigma**2 * size for sigma, size in zip(sigmas, sizes, strict=True))
    arrived = math.fsum(variance * size for variance, size in zip(variances, sizes, strict=True))
    costs = zip((each.cost for each in members), variances, strict=True)
    figure = weighted(list(costs), scan.sensitivity)
    return {
        "sigma": math.sqrt(energy / sum(sizes)),
        "arriving": arrived / energy if energy else None,
        "kl": figure["value"],
        "kl_interval": figure["interval"],
    }


def _noisy(scan: Scan, config: RinConfig) -> list[_Noisy]:
    """The modules under noise, in order of layers.

    Noise on a weight that several modules have is that of the first.
    """
    costs, owners = costs_of(scan), owners_of(scan.model)
    entries = ((entry, tier.sigmas) for tier in config.tiers for entry in tier.layers)
    first: dict[str, list[float]] = {}
    noisy = []
    for entry, sigmas in sorted(entries, key=lambda pair: pair[0].layer):
        for module in entry.modules:
            if module.name not in costs:
                raise unknown_cost(scan, module.name)
            own = [entry.multiplier * sigma for sigma in sigmas]
            own = first.setdefault(owners.get(module.name, module.name), own)
            noisy.append(_Noisy(entry.layer, module, costs[module.name], own))
    if not noisy:
        raise UsageError(
            "the configuration names no modules, so what its noise costs is unknown",
            "make it from a scan by srdd with `kl=True`",
        )
    return noisy


def unknown_cost(scan: Scan, name: str) -> UsageError:
    """The error for a module whose noise a scan's sensitivity knows no cost of."""
    assert scan.sensitivity is not None
    reasons: Mapping[str, str] = scan.sensitivity.not_measured
    reason = f": {reasons[name]}" if name in reasons else ""
    return UsageError(
        f"the scan does not say what noise on {name} costs{reason}",
        "use the scan that the configuration was made from, or exclude the module",
    )
