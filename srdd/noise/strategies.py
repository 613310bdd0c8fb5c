"""Which layers get how much noise: strategies, and controls made from them.

Each strategy makes tiers from the figures of the layers, and each control makes tiers from tiers. A
tier has a schedule, or none, and a multiplier for every layer of the model; a layer whose
multiplier is 0 in all tiers gets no noise.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from srdd.errors import UsageError, unknown_name
from srdd.noise import zones as zoning
from srdd.noise.figures import Figures
from srdd.noise.multipliers import mirrored, rounded

Sigmas = tuple[float, float]
"""Sigma at the first noisy stage and at the last."""

TIERS = ("high", "medium", "low")
"""Tiers of the zone strategy, by how bad their layers are."""

DIRECTIONS = ("proportional", "inverse")

SMALLEST_CAP, LARGEST_MULTIPLIER = 1e-3, 1e3
"""Beyond these, a multiplier is a slip of the pen and not a strength of noise."""


@dataclass(frozen=True)
class Explanation:
    """What `srdd explain` says about a strategy or control."""

    summary: str
    formula: str
    reading: str
    pitfalls: str
    source: str


STRATEGIES: dict[str, Explanation] = {
    "uniform": Explanation(
        summary="The same noise in every layer: what every other strategy has to beat.",
        formula="multiplier = 1 in every layer",
        reading="it needs no ranking of layers, and so does not depend on how sure one is. "
        "`suggest` recommends it where the layers hardly differ or their order is not stable.",
        pitfalls="it is a baseline for choosing layers, and no evidence that noise helps: compare "
        "it with a run without noise.",
        source="QeRL's adaptive quantization noise, which every trainer here can take",
    ),
    "targeted": Explanation(
        summary="The same noise in the worst `top_k` layers and none elsewhere.",
        formula="multiplier = 1 in the `top_k` worst layers by the metric, 0 in the others",
        reading="look at how often the set of the worst layers changes when other prompts are "
        "drawn; where it does in half of the draws, the choice is chance.",
        pitfalls="it puts less noise energy into the model than uniform noise at the same sigma: "
        "compare it with its controls, or use --equal-energy. Layers at the edge of the set differ "
        "little.",
        source="the method's guide, with its ten layers",
    ),
    "variable": Explanation(
        summary="Noise in every layer, more of it where the layer is worse.",
        formula="multiplier = badness / mean of badness over layers, where badness is the error "
        "itself, or 10^(-dB / 20) of decibels",
        reading="the multipliers average 1, so that sigma keeps its meaning. Where the layers' "
        "figures differ by 10 %, so do the multipliers: less than a fraction of one stage of the "
        "schedule.",
        pitfalls="that a layer with more error should get more noise is an assumption, which only "
        "a run against `inverse` and `shuffled` can test. Several published runs of this kind had "
        "trainers that did not pass the multipliers on.",
        source="the method's guide, to within 0.007 of its table",
    ),
    "zone": Explanation(
        summary="A schedule for each tier of zones: the worst zones get the most noise.",
        formula="zones in tiers by natural breaks of their mean badness; each tier has a sigma of "
        "its own at the start and the end",
        reading="`depth` zones are ranges of layers, whatever their figures; `breaks` follows the "
        "figures alone. Zones whose figures are close form one tier.",
        pitfalls="tiers of different schedules are several configurations for trainers that know "
        "one schedule. Natural breaks find tiers in noise, too.",
        source="the method's guide; natural breaks: Fisher 1958, Jenks 1967",
    ),
}

CONTROLS: dict[str, Explanation] = {
    "inverse": Explanation(
        summary="The control that gives the most noise to the layers that had the least.",
        formula="multiplier = 2 - multiplier, drawn towards 1 where it would be negative",
        reading="if it does as well as its strategy, which layers get the noise does not matter.",
        pitfalls="it has the noise energy of its strategy, which may differ from uniform noise.",
        source="srdd's own, a control in the sense of an experiment",
    ),
    "shuffled": Explanation(
        summary="The control that deals the same schedules and multipliers to random layers.",
        formula="a random permutation of the multipliers over the layers, by --seed",
        reading="if it does as well as its strategy, the ranking of the layers has shown nothing.",
        pitfalls="one shuffle is one draw, and may put much noise where the strategy did; run "
        "several seeds.",
        source="srdd's own, a control in the sense of an experiment",
    ),
}
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
