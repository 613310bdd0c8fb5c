"""From drafts to tiers of a RinConfig: modules, sigmas in every stage, and the noise energy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from srdd.documents.rin import Energy, LayerNoise, Schedule, Tier
from srdd.documents.scan import Scan
from srdd.errors import UsageError
from srdd.noise.drafts import Draft
from srdd.noise.figures import Figures
from srdd.noise.targets import Targets


def tiers_of(
    drafts: Sequence[Draft],
    *,
    scan: Scan,
    figures: Figures,
    targets: Targets,
    num_stages: int,
    scale: float = 1.0,
) -> list[Tier]:
    """Drafts -> the tiers that get noise.

    Arguments:
        drafts: those without a schedule, and layers with multiplier 0, are left out.
        scan: names the layers.
        figures: of the layers.
        targets: what gets noise.
        num_stages: of every schedule.
        scale: factor on every sigma.

    Raises:
        UsageError: nothing of a layer that is to get noise can get any.
    """
    tiers = []
    for draft in drafts:
        entries = [(layer, value) for layer, value in draft.multipliers if value > 0]
        if draft.sigmas is None or not entries:
            continue
        _check_targets(entries, targets)
        start, end = (sigma * scale for sigma in draft.sigmas)
        schedule = Schedule(sigma_start=start, sigma_end=end, num_stages=num_stages)
        tiers.append(
            Tier(
                name=draft.name,
                schedule=schedule,
                sigmas=list(schedule.sigmas),
                layers=[
                    _layer(layer, value, value * start, scan, figures, targets)
                    for layer, value in entries
                ],
            )
        )
    return tiers


def _check_targets(entries: Sequence[tuple[int, float]], targets: Targets) -> None:
    bare = [layer for layer, _ in entries if targets.known and not targets.of_layer[layer]]
    if bare:
        raise UsageError(
            f"layer {bare[0]} is to get noise and has no {targets.layer_type} that may",
            "exclude fewer modules, or choose other layers",
        )


def _layer(
    layer: int, multiplier: float, sigma: float, scan: Scan, figures: Figures, targets: Targets
) -> LayerNoise:
    figure = figures.layers[layer]
    return LayerNoise(
        layer=layer,
        name=scan.model.layers[layer].name,
        multiplier=multiplier,
        sigma=sigma,
        signal_to_noise_db=targets.signal_to_noise_db(layer, sigma),
        value=figure.value,
        sqnr_db=figure.sqnr_db,
        modules=targets.noisy(layer, sigma),
    )


def _power(drafts: Sequence[Draft], targets: Targets, num_stages: int) -> tuple[float, float]:
    """Noise energy of drafts at the first noisy stage, and its mean over all stages."""
    first, mean = [], []
    for draft in drafts:
        if draft.sigmas is None:
            continue
        start, end = draft.sigmas
        weight = math.fsum(
            value * value * targets.size(layer) for layer, value in draft.multipliers
        )
        schedule = Schedule(sigma_start=start, sigma_end=end, num_stages=num_stages)
        first.append(weight * start * start)
        mean.append(weight * math.fsum(s * s for s in schedule.sigmas) / num_stages)
    return math.fsum(first), math.fsum(mean)


def equalising(
    drafts: Sequence[Draft], wanted: Sequence[Draft], targets: Targets, num_stages: int
) -> float:
    """The factor on the sigmas of `drafts` that gives them the noise energy of `wanted`.

    It is the mean over the run that becomes equal. Where both follow schedules of one shape (the
    same ratio of end to start), so does the energy of every stage.
    """
    there = _power(wanted, targets, num_stages)[1]
    factor = math.sqrt(there / _power(drafts, targets, num_stages)[1])
    # Summing in another order misses 1 by a rounding error, which would show in every sigma.
    return 1.0 if math.isclose(factor, 1.0, rel_tol=1e-12) else factor


def energy_of(
    drafts: Sequence[Draft],
    baseline: Sequence[Draft],
    targets: Targets,
    num_stages: int,
    scale: float,
) -> Energy:
    """Noise energy of drafts times `scale`, also relative to that of `baseline`."""
    first, mean = (part * scale * scale for part in _power(drafts, targets, num_stages))
    layers = {
        layer
        for draft in drafts
        if draft.sigmas is not None
        for layer, value in draft.multipliers
        if value > 0
    }
    return Energy(
        first_stage=first,
        mean=mean,
        relative_to_uniform=mean / _power(baseline, targets, num_stages)[1],
        weights=sum(map(targets.size, layers)) if targets.known else None,
    )
