"""Which layers get how much noise: strategies, and controls made from them.

Each strategy makes tiers from the figures of the layers, and each control makes tiers from tiers. A
tier has a schedule, or none, and a multiplier for every layer of the model; a layer whose
multiplier is 0 in all tiers gets no noise.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from srdd.documents.rin import Schedule, unusable_reason
from srdd.errors import UsageError, unknown_name
from srdd.noise.figures import Figures
from srdd.noise.zones import by_depth, natural_breaks, parse

TIERS = ("high", "medium", "low")
"""Tiers of the zone strategy, by how bad their layers are."""

DIRECTIONS = ("proportional", "inverse")

TOP_K = 10
DIGITS = 4

SMALLEST_CAP, LARGEST_MULTIPLIER = 1e-3, 1e3
"""Beyond these, a multiplier is a slip of the pen and not a strength of noise."""

SIGMA_START, SIGMA_END = 0.05, 0.0005
"""The guide's schedule."""

SMALLEST_SIGMA, LARGEST_SIGMA = 1e-12, 1e6
"""Beyond these, noise is lost in any weight's rounding, or the weight in the noise."""


@dataclass(frozen=True)
class TierNoise:
    """The noise of a tier.

    Attributes:
        name: of the tier.
        schedule: None for no noise.
        multipliers: (layers,); 0 for layers that are not in the tier.
        order: the layers in the order in which a document lists them; by index if left out.
    """

    name: str
    schedule: Schedule | None
    multipliers: tuple[float, ...]
    order: tuple[int, ...] = ()

    @property
    def layers(self) -> list[int]:
        """The layers that get noise, in order."""
        order = self.order or range(len(self.multipliers))
        return [layer for layer in order if self.schedule and self.multipliers[layer] > 0]


def usable_schedule(sigma_start: float, sigma_end: float, num_stages: int) -> Schedule:
    """A schedule that trainers do as written.

    Raises:
        UsageError: they do not; see `srdd.documents.rin.unusable_reason`.
    """
    if problem := unusable_reason(sigma_start, sigma_end, num_stages):
        raise UsageError(*problem)
    if not SMALLEST_SIGMA <= sigma_end <= sigma_start <= LARGEST_SIGMA:
        raise UsageError(
            f"sigma goes from {sigma_start:g} to {sigma_end:g}",
            f"stay between {SMALLEST_SIGMA:g} and {LARGEST_SIGMA:g}; the guide uses 0.05 to 0.0005",
        )
    return Schedule(sigma_start=sigma_start, sigma_end=sigma_end, num_stages=num_stages)


def uniform(figures: Figures, schedule: Schedule) -> list[TierNoise]:
    """The same noise in every layer."""
    return [TierNoise("all", schedule, (1.0,) * len(figures))]


def targeted(
    figures: Figures,
    schedule: Schedule,
    top_k: int | None,
    top_fraction: float | None,
) -> list[TierNoise]:
    """The same noise in the worst layers and none elsewhere, in order of rank.

    Arguments:
        top_k: how many layers. TOP_K if left out, or half of them in a model of at most TOP_K.
        top_fraction: instead of top_k, which share of the layers, in (0, 1].

    Raises:
        UsageError: both are given, there are not so many layers, or none is worse than another.
    """
    layers = len(figures)
    if top_fraction is not None:
        if top_k is not None:
            raise UsageError("top_k and top_fraction are both given", "give one of them")
        if not 0 < top_fraction <= 1:
            raise UsageError(f"top_fraction is {top_fraction:g}", "give a share above 0, at most 1")
        top_k = max(1, round(top_fraction * layers))
    if top_k is None:
        top_k = TOP_K if layers > TOP_K else max(1, layers // 2)
    if not 1 <= top_k <= layers:
        raise UsageError(
            f"top_k is {top_k}, and the scan has {layers} layers",
            f"give a number from 1 to {layers}",
        )
    _refuse_equal(figures, "targeted")
    worst = tuple(figures.worst_first[:top_k])
    return [TierNoise("worst", schedule, tuple(float(n in worst) for n in range(layers)), worst)]


def variable(
    figures: Figures,
    schedule: Schedule,
    direction: str,
    cap: float | None,
    clip: tuple[float, float] | None,
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
    return [TierNoise("all", schedule, tuple(map(rounded, multipliers)))]


def balanced(figures: Figures, schedule: Schedule) -> list[TierNoise]:
    """Noise that costs the predictions the same in every layer: multiplier = 1 / sqrt(cost).

    Arguments:
        figures: of what noise of variance 1 costs in each layer.

    Raises:
        UsageError: noise costs nothing in a layer.
    """
    return _in_proportion(_over(figures, [1.0] * len(figures)), schedule)


def matched(figures: Figures, schedule: Schedule, noise: Figures) -> list[TierNoise]:
    """Noise in proportion to the damage: in every layer its cost is the same share of what
    quantizing that layer costs, multiplier = sqrt(cost of quantizing / cost of noise).

    Arguments:
        figures: of what quantizing each layer costs.
        noise: of what noise of variance 1 costs in it.

    Raises:
        UsageError: noise costs nothing in a layer, or quantizing costs nothing in all of them.
    """
    return _in_proportion(_over(noise, figures.badness), schedule)


def _over(noise: Figures, amplitudes: Sequence[float]) -> list[float]:
    for layer, value in enumerate(noise.badness):
        if not value:
            raise UsageError(
                f"noise in layer {layer} costs nothing, so no sigma gives it a share of the cost",
                "use another strategy, or scan with other prompts",
            )
    return [own / value for own, value in zip(amplitudes, noise.badness, strict=True)]


def _in_proportion(values: Sequence[float], schedule: Schedule) -> list[TierNoise]:
    """One tier with multipliers in proportion to `values`, which average 1."""
    mean = sum(values) / len(values)
    if not mean:
        raise UsageError("quantizing costs nothing in any layer", "use `strategy=uniform`")
    return [TierNoise("all", schedule, tuple(rounded(value / mean) for value in values))]


def zone(
    figures: Figures,
    schedule: Schedule,
    zones: str,
    tiers: Mapping[str, tuple[float, float] | None] | None,
) -> list[TierNoise]:
    """A schedule for each tier of zones: the worst zones get the most noise.

    `depth` cuts the model into the five zones of `srdd.noise.zones.by_depth`, ranges such as
    `0-3,4-9,10-27` into those given; zones whose mean badness is close (natural breaks) form a
    tier. `breaks` applies natural breaks to the layers themselves, wherever they lie. There are
    three tiers, or two when the zones allow no more.

    A tier that `tiers` does not name has a schedule that follows from `schedule` as in the guide:
    high from sigma_start to twice sigma_end, medium from 0.6 sigma_start to sigma_end, low none.
    With 0.05 to 0.0005 these are 0.05 to 0.001 and 0.03 to 0.0005. No tier ends above its start.

    Raises:
        UsageError: zones that cannot be, a tier that does not exist or cannot be run as written,
            fewer than two tiers, or no tier with noise.
    """
    _refuse_equal(figures, "zone")
    count = len(figures)
    groups: list[Sequence[int]] = [[layer] for layer in range(count)]
    if zones != "breaks":
        cut = by_depth(count) if zones == "depth" else parse(zones, count)
        groups = [each.layers for each in cut]
    means = [sum(figures.badness[layer] for layer in group) / len(group) for group in groups]
    classes = min(len(TIERS), len(set(means)))
    if classes < 2:
        raise UsageError(
            "zones need at least two tiers, and these form one",
            "cut the model into more zones, or use `strategy=uniform`",
        )
    names = TIERS if classes == len(TIERS) else (TIERS[0], TIERS[-1])
    start, end = schedule.sigma_start, schedule.sigma_end
    medium = 0.6 * start
    sigmas = {"high": (start, min(2 * end, start)), "medium": (medium, min(end, medium))}
    chosen: dict[str, tuple[float, float] | None] = {"low": None, **sigmas, **(tiers or {})}
    for name in tiers or {}:
        if name not in names:
            raise unknown_name("tier", name, names)
    if all(chosen[name] is None for name in names):
        raise UsageError("no tier has noise", "give one a schedule, such as high=0.05:0.001")
    class_of = {
        layer: its_class
        for group, its_class in zip(groups, natural_breaks(means, classes), strict=True)
        for layer in group
    }
    return [
        TierNoise(
            name,
            (pair := chosen[name]) and usable_schedule(*pair, schedule.num_stages),
            tuple(float(class_of[layer] == its_class) for layer in range(count)),
        )
        for its_class, name in zip(reversed(range(classes)), names, strict=True)
    ]


def _refuse_equal(figures: Figures, strategy: str) -> None:
    if figures.all_equal:
        count = len(figures)
        what = "there is only one layer" if count == 1 else f"all {count} layers are equally bad"
        raise UsageError(
            f"{strategy} has nothing to choose from: {what} by {figures.metric}",
            "use `strategy=uniform`, or rank by another metric",
        )


def inverse(tiers: Sequence[TierNoise], seed: int) -> list[TierNoise]:
    """The most noise where there was the least.

    Of a single schedule the multipliers are mirrored; several schedules are handed to the tiers in
    reverse order.
    """
    if len(tiers) > 1:
        reverse = reversed([tier.schedule for tier in tiers])
        return [replace(tier, schedule=s) for tier, s in zip(tiers, reverse, strict=True)]
    images = tuple(map(rounded, mirrored(tiers[0].multipliers)))
    return [TierNoise("all", tiers[0].schedule, images)]


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


STRATEGIES: dict[str, Callable[..., list[TierNoise]]] = {
    "uniform": uniform,
    "targeted": targeted,
    "variable": variable,
    "zone": zone,
    "balanced": balanced,
    "matched": matched,
}
"""By name: (figures, schedule, and options of its own) -> tiers."""

BY_COST = ("balanced", "matched")
"""Those that need a scan which tells what noise costs."""

OPTIONS: dict[str, dict[str, Any]] = {
    "uniform": {},
    "targeted": {"top_k": None, "top_fraction": None},
    "variable": {"direction": "proportional", "cap": None, "clip": None},
    "zone": {"zones": "depth", "tiers": None},
    "balanced": {},
    "matched": {},
}
"""The options of each strategy with their defaults."""

CONTROLS = {"inverse": inverse, "shuffled": shuffled}
"""Made from a strategy at its noise energy; as strategies they are controls of `variable`."""


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
    shrink = 1 / max(1.0, *offsets)
    images = [1 - shrink * offset for offset in offsets]
    return [0.0 if image < 1e-12 else image for image in images]
