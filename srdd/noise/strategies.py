"""Which layers get how much noise: strategies, and controls made from them.

Each strategy makes tiers from the figures of the layers, and each control makes tiers from tiers. A
tier has a schedule, or none, and a multiplier for every layer of the model; a layer whose
multiplier is 0 in all tiers gets no noise.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from srdd.errors import UsageError, unknown_name
from srdd.noise import zones as zoning
from srdd.noise.figures import Figures

Sigmas = tuple[float, float]
"""Sigma at the first noisy stage and at the last."""

TIERS = ("high", "medium", "low")
"""Tiers of the zone strategy, by how bad their layers are."""

DIRECTIONS = ("proportional", "inverse")

SMALLEST_CAP, LARGEST_MULTIPLIER = 1e-3, 1e3
"""Beyond these, a multiplier is a slip of the pen and not a strength of noise."""


STRATEGIES = ("uniform", "targeted", "variable", "zone")
CONTROLS = ("inverse", "shuffled")
"""Made from a strategy at its noise energy; as strategies they are controls of `variable`."""


@dataclass(frozen=True)
class TierNoise:
    """The noise of a tier.

    Attributes:
        name: of the tier.
        sigmas: its schedule; None for no noise.
        multipliers: (layers,); 0 for layers that are not in the tier.
        order: the layers in the order in which a document lists them; by index if left out.
    """

    name: str
    sigmas: Sigmas | None
    multipliers: tuple[float, ...]
    order: tuple[int, ...] = ()

    @property
    def layers(self) -> list[int]:
        """The layers that get noise, in order."""
        if self.sigmas is None:
            return []
        order = self.order or range(len(self.multipliers))
        return [layer for layer in order if self.multipliers[layer] > 0]


def uniform(figures: Figures, sigmas: Sigmas) -> list[TierNoise]:
    """The same noise in every layer."""
    return [TierNoise("all", sigmas, (1.0,) * len(figures))]


def targeted(figures: Figures, sigmas: Sigmas, top_k: int) -> list[TierNoise]:
    """The same noise in the worst `top_k` layers and none elsewhere, in order of rank.

    Raises:
        UsageError: there are not so many layers, or none is worse than another.
    """
    layers = len(figures)
    if not 1 <= top_k <= layers:
        raise UsageError(
            f"top_k is {top_k}, and the scan has {layers} layers",
            f"give a number from 1 to {layers}",
        )
    _refuse_equal(figures, "targeted")
    worst = figures.worst_first[:top_k]
    multipliers = tuple(float(layer in worst) for layer in range(layers))
    return [TierNoise("worst", sigmas, multipliers, tuple(worst))]


def variable(
    figures: Figures,
    sigmas: Sigmas,
    *,
    direction: str = "proportional",
    cap: float | None = None,
    clip: tuple[float, float] | None = None,
) -> list[TierNoise]:
    """Noise in every layer: multiplier = badness / mean, which averages 1.

    Then comes, in this order, what is asked for: `inverse` mirrors them about 1, which keeps the
    average; `clip` moves those outside of an interval to its ends; `cap` divides all by the same
    number so that the largest is `cap`.

    Raises:
        UsageError: unknown direction, or clip or cap leave no noise.
    """
    if direction not in DIRECTIONS:
        raise unknown_name("direction", direction, DIRECTIONS)
    if clip is not None and not 0 <= clip[0] <= clip[1] <= LARGEST_MULTIPLIER:
        raise UsageError(
            f"clip {clip[0]:g} {clip[1]:g} is no interval", "give LOW and HIGH, such as 0.8 1.2"
        )
    if cap is not None and not SMALLEST_CAP <= cap <= LARGEST_MULTIPLIER:
        raise UsageError(f"cap is {cap:g}", "give the largest multiplier, such as 1")
    mean = sum(figures.badness) / len(figures)
    multipliers = [1.0 if figures.all_equal else value / mean for value in figures.badness]
    if direction == "inverse":
        multipliers = mirrored(multipliers)
    if clip is not None:
        multipliers = [min(max(value, clip[0]), clip[1]) for value in multipliers]
    largest = max(multipliers)
    if largest == 0:
        raise UsageError("clip leaves no noise in any layer", "raise its upper end above 0")
    if cap is not None:
        multipliers = [value * (cap / largest) for value in multipliers]
    return [TierNoise("all", sigmas, tuple(map(rounded, multipliers)))]


def zone(
    figures: Figures,
    sigmas: Sigmas,
    zones: str = "depth",
    tiers: Mapping[str, Sigmas | None] | None = None,
) -> list[TierNoise]:
    """A schedule for each tier of zones: the worst zones get the most noise.

    `depth` cuts the model into the five zones of `srdd.noise.zones.by_depth`, ranges such as
    `0-3,4-9,10-27` into those given; zones whose mean badness is close (natural breaks) form a
    tier. `breaks` applies natural breaks to the layers themselves, wherever they lie. There are
    three tiers, or two when the zones allow no more.

    A tier that `tiers` does not name has a schedule that follows from `sigmas` as in the guide:
    high from sigma_start to twice sigma_end, medium from 0.6 sigma_start to sigma_end, low none.
    With 0.05 to 0.0005 these are 0.05 to 0.001 and 0.03 to 0.0005. No tier ends above its start.

    Raises:
        UsageError: zones that cannot be, a tier that does not exist, fewer than two tiers, or no
            tier with noise.
    """
    _refuse_equal(figures, "zone")
    count = len(figures)
    if zones == "breaks":
        groups = [[layer] for layer in range(count)]
    else:
        cut = zoning.by_depth(count) if zones == "depth" else zoning.parse(zones, count)
        groups = [list(each.layers) for each in cut]
    means = [sum(figures.badness[layer] for layer in group) / len(group) for group in groups]
    classes = min(len(TIERS), len(set(means)))
    if classes < 2:
        raise UsageError(
            "zones need at least two tiers, and these form one",
            "cut the model into more zones, or use --strategy uniform",
        )
    names = TIERS if classes == len(TIERS) else (TIERS[0], TIERS[-1])
    for name in tiers or {}:
        if name not in names:
            raise unknown_name("tier", name, names)
    schedules = _tier_sigmas(sigmas) | dict(tiers or {})
    if all(schedules[name] is None for name in names):
        raise UsageError("no tier has noise", "give one a schedule, such as high=0.05:0.001")
    multipliers = {name: [0.0] * count for name in names}
    for group, its_class in zip(groups, zoning.natural_breaks(means, classes), strict=True):
        for layer in group:
            multipliers[names[classes - 1 - its_class]][layer] = 1.0
    return [TierNoise(name, schedules[name], tuple(multipliers[name])) for name in names]


def _tier_sigmas(sigmas: Sigmas) -> dict[str, Sigmas | None]:
    start, end = sigmas
    medium = 0.6 * start
    return {
        "high": (start, min(2 * end, start)),
        "medium": (medium, min(end, medium)),
        "low": None,
    }


def _refuse_equal(figures: Figures, strategy: str) -> None:
    if figures.all_equal:
        count = len(figures)
        what = "there is only one layer" if count == 1 else f"all {count} layers are equally bad"
        raise UsageError(
            f"{strategy} has nothing to choose from: {what} by {figures.metric}",
            "use --strategy uniform, or rank by another metric",
        )


def controlled(tiers: Sequence[TierNoise], control: str, seed: int) -> list[TierNoise]:
    """A control made from a strategy's tiers.

    Raises:
        UsageError: every layer gets the same noise, so that the control would change nothing.
    """
    noisy = [tier for tier in tiers if tier.sigmas is not None]
    if len(noisy) == 1 and len(set(noisy[0].multipliers)) == 1:
        raise UsageError(
            f"{control} would change nothing: every layer gets the same noise",
            "make the control from a strategy that tells layers apart",
        )
    return inverse(tiers) if control == "inverse" else shuffled(tiers, seed)


def inverse(tiers: Sequence[TierNoise]) -> list[TierNoise]:
    """The most noise where there was the least.

    Of a single schedule the multipliers are mirrored; several schedules are handed to the tiers in
    reverse order.
    """
    if len(tiers) > 1:
        reverse = reversed([tier.sigmas for tier in tiers])
        return [replace(tier, sigmas=s) for tier, s in zip(tiers, reverse, strict=True)]
    images = tuple(map(rounded, mirrored(tiers[0].multipliers)))
    return [TierNoise("all", tiers[0].sigmas, images)]


def shuffled(tiers: Sequence[TierNoise], seed: int) -> list[TierNoise]:
    """The same schedules and multipliers in random layers.

    Arguments:
        seed: the same seed deals the same way; an order that changes nothing is dealt again.
    """
    before = list(zip(*(tier.multipliers for tier in tiers), strict=True))
    after = list(before)
    order = random.Random(seed)
    while after == before:
        order.shuffle(after)
    dealt = zip(*after, strict=True)
    return [
        replace(tier, multipliers=own, order=()) for tier, own in zip(tiers, dealt, strict=True)
    ]


DIGITS = 4


def rounded(multiplier: float) -> float:
    """A multiplier as it is written and used: four decimals, and four digits where it is small.

    Rounding comes before energies are computed, so that they are those of the written figures.
    """
    if multiplier <= 0:
        return 0.0
    return round(multiplier, DIGITS - 1 - min(-1, math.floor(math.log10(multiplier))))


def mirrored(multipliers: Sequence[float]) -> list[float]:
    """Multipliers mirrored about their mean of 1: what was 1.2 becomes 0.8.

    They are first divided by their mean. Where one is above 2, its mirror image would be negative;
    then all images are drawn towards 1 by the factor that makes the lowest 0. So the average stays
    1 in any case, and the mirror image of k equal layers is the other layers.
    """
    mean = sum(multipliers) / len(multipliers)
    offsets = [value / mean - 1 for value in multipliers]
    reach = max(offsets)
    shrink = min(1.0, 1 / reach) if reach > 0 else 1.0
    images = [1 - shrink * offset for offset in offsets]
    return [0.0 if image < 1e-12 else image for image in images]
