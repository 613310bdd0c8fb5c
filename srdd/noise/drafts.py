"""Which layers get how much noise, before it is known which modules that means.

A draft is a tier in the making: a schedule, or none, and a multiplier for each of its layers. Each
strategy is a function from the figures of the layers to drafts, and each control one from drafts to
drafts. Layers outside of all drafts, or with multiplier 0, get no noise.
"""

from __future__ import annotations

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


SMALLEST_CAP, LARGEST_MULTIPLIER = 1e-3, 1e3
"""Beyond these, a multiplier is a slip of the pen and not a strength of noise."""


@dataclass(frozen=True)
class Draft:
    """A tier in the making.

    Attributes:
        name: of the tier.
        sigmas: its schedule; None for no noise.
        multipliers: (layer, multiplier), the layer that the strategy puts first standing first.
    """

    name: str
    sigmas: Sigmas | None
    multipliers: tuple[tuple[int, float], ...]


def uniform(figures: Figures, sigmas: Sigmas) -> list[Draft]:
    """The same noise in every layer: what every other strategy has to beat.

    Formula: multiplier = 1 in every layer
    Reading: it needs no ranking of layers, and so does not depend on how sure one is. `suggest`
        recommends it where the layers hardly differ or their order is not stable.
    Pitfalls: it is a baseline for choosing layers, and no evidence that noise helps: hold it
        against a run without noise.
    Source: QeRL's adaptive quantization noise, which every trainer here can take
    """
    return [Draft("all", sigmas, tuple((figure.layer, 1.0) for figure in figures.layers))]


def targeted(figures: Figures, sigmas: Sigmas, top_k: int) -> list[Draft]:
    """The same noise in the worst `top_k` layers and none elsewhere, in order of rank.

    Formula: multiplier = 1 in the `top_k` layers that are worst by the metric, 0 in the others
    Reading: look at how often the set of the worst layers changes when other prompts are drawn;
        where it does in half of the draws, the choice is chance.
    Pitfalls: it puts less noise energy into the model than uniform noise at the same sigma, so hold
        it against its controls, or use --equal-energy. Layers at the edge of the set differ little.
    Source: the method's guide, with its ten layers

    Raises:
        UsageError: there are not so many layers, or none is worse than another.
    """
    layers = len(figures.layers)
    if not 1 <= top_k <= layers:
        raise UsageError(
            f"top_k is {top_k}, and the scan has {layers} layers",
            f"give a number from 1 to {layers}",
        )
    refuse_equal(figures, "targeted")
    return [Draft("worst", sigmas, tuple((layer, 1.0) for layer in figures.worst_first[:top_k]))]


def variable(
    figures: Figures,
    sigmas: Sigmas,
    *,
    direction: str = "proportional",
    cap: float | None = None,
    clip: tuple[float, float] | None = None,
) -> list[Draft]:
    """Noise in every layer, more of it where the layer is worse: multiplier = badness / mean.

    Formula: multiplier = badness / mean of badness over layers, where badness is the error itself,
        or 10^(-dB / 20) of decibels
    Reading: the multipliers average 1, so that sigma keeps its meaning. Where the layers' figures
        differ by 10 %, so do the multipliers: less than a fraction of one stage of the schedule.
    Pitfalls: that a layer with more error should get more noise is an assumption, which only a run
        against `inverse` and `shuffled` can test. Several published runs of this kind had trainers
        that did not pass the multipliers on.
    Source: the method's guide, to within 0.007 of its table

    The multipliers average 1. Then comes, in this order, what is asked for: `inverse` mirrors them
    about 1, which keeps the average; `clip` moves those outside of an interval to its ends; `cap`
    divides all by the same number so that the largest is `cap`.

    Raises:
        UsageError: unknown direction, or clip or cap leave no noise.
    """
    if direction not in ("proportional", "inverse"):
        raise unknown_name("direction", direction, ("proportional", "inverse"))
    if clip is not None and not 0 <= clip[0] <= clip[1] <= LARGEST_MULTIPLIER:
        raise UsageError(
            f"clip {clip[0]:g} {clip[1]:g} is no interval", "give LOW and HIGH, such as 0.8 1.2"
        )
    if cap is not None and not SMALLEST_CAP <= cap <= LARGEST_MULTIPLIER:
        raise UsageError(f"cap is {cap:g}", "give the largest multiplier, such as 1")
    badness = figures.badness
    mean = sum(badness) / len(badness)
    found = [1.0] * len(badness) if figures.all_equal else [value / mean for value in badness]
    if direction == "inverse":
        found = mirrored(found)
    if clip is not None:
        found = [min(max(value, clip[0]), clip[1]) for value in found]
    if max(found) == 0:
        raise UsageError("clip leaves no noise in any layer", "raise its upper end above 0")
    if cap is not None:
        largest = max(found)
        found = [value * (cap / largest) for value in found]
    layers = [figure.layer for figure in figures.layers]
    return [Draft("all", sigmas, tuple(zip(layers, found, strict=True)))]


def zone(
    figures: Figures,
    sigmas: Sigmas,
    zones: str = "depth",
    tiers: Mapping[str, Sigmas | None] | None = None,
) -> list[Draft]:
    """A schedule for each tier of zones: the worst zones get the most noise.

    Formula: zones in tiers by natural breaks of their mean badness; each tier has a sigma of its
        own at the start and the end
    Reading: `depth` zones are ranges of layers, whatever their figures; `breaks` follows the
        figures alone. Zones whose figures are close form one tier.
    Pitfalls: tiers of different schedules are several configurations for trainers that know one
        schedule. Natural breaks find tiers in noise, too.
    Source: the method's guide; natural breaks: Fisher 1958, Jenks 1967

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
    refuse_equal(figures, "zone")
    badness = figures.badness
    if zones == "breaks":
        layers = [[figure.layer] for figure in figures.layers]
    else:
        count = len(badness)
        cut = zoning.by_depth(count) if zones == "depth" else zoning.parse(zones, count)
        layers = [list(zone.layers) for zone in cut]
    means = [sum(badness[layer] for layer in group) / len(group) for group in layers]
    classes = min(len(TIERS), len(set(means)))
    if classes < 2:
        raise UsageError(
            "zones need at least two tiers, and these form one",
            "cut the model into more zones, or use --strategy uniform",
        )
    class_of = zoning.natural_breaks(means, classes)
    names = TIERS if classes == len(TIERS) else (TIERS[0], TIERS[-1])
    schedules = _tier_sigmas(sigmas) | _named(tiers or {}, names)
    drafts = []
    for place, name in enumerate(names):
        wanted = classes - 1 - place
        held = sorted(
            layer
            for group, found in zip(layers, class_of, strict=True)
            if found == wanted
            for layer in group
        )
        drafts.append(Draft(name, schedules[name], tuple((layer, 1.0) for layer in held)))
    if all(draft.sigmas is None for draft in drafts):
        raise UsageError("no tier has noise", "give one a schedule, such as high=0.05:0.001")
    return drafts


def _tier_sigmas(sigmas: Sigmas) -> dict[str, Sigmas | None]:
    start, end = sigmas
    medium = 0.6 * start
    return {
        "high": (start, min(2 * end, start)),
        "medium": (medium, min(end, medium)),
        "low": None,
    }


def _named(tiers: Mapping[str, Sigmas | None], names: Sequence[str]) -> dict[str, Sigmas | None]:
    for name in tiers:
        if name not in names:
            raise unknown_name("tier", name, names)
    return dict(tiers)


def refuse_equal(figures: Figures, strategy: str) -> None:
    """Make sure that some layer is worse than another.

    Raises:
        UsageError: all are equal, or there is only one.
    """
    if figures.all_equal:
        count = len(figures.layers)
        what = "there is only one layer" if count == 1 else f"all {count} layers are equally bad"
        raise UsageError(
            f"{strategy} has nothing to choose from: {what} by {figures.metric}",
            "use --strategy uniform, or rank by another metric",
        )


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


def inverse(drafts: Sequence[Draft], layers: int) -> list[Draft]:
    """The control that gives the most noise to the layers that had the least.

    Formula: multiplier = 2 - multiplier, drawn towards 1 where it would be negative
    Reading: if it does as well as its strategy, which layers get the noise does not matter.
    Pitfalls: it has the noise energy of its strategy, which need not be that of uniform noise.
    Source: srdd's own, a control in the sense of an experiment

    Of a single schedule the multipliers are mirrored; several schedules are handed to the tiers in
    reverse order.
    """
    if len(drafts) > 1:
        turned = reversed([draft.sigmas for draft in drafts])
        return [replace(d, sigmas=s) for d, s in zip(drafts, turned, strict=True)]
    found = dict(drafts[0].multipliers)
    images = mirrored([found.get(layer, 0.0) for layer in range(layers)])
    return [replace(drafts[0], name="all", multipliers=tuple(enumerate(images)))]


def shuffled(drafts: Sequence[Draft], layers: int, seed: int) -> list[Draft]:
    """The control that deals the same schedules and multipliers to random layers.

    Formula: a random permutation of the multipliers over the layers, by --seed
    Reading: if it does as well as its strategy, the ranking of the layers has shown nothing.
    Pitfalls: one shuffle is one draw, and may put much noise where the strategy did; run several
        seeds.
    Source: srdd's own, a control in the sense of an experiment

    Arguments:
        drafts: what to deal out.
        layers: number of layers of the model.
        seed: the same seed deals the same way; an order that changes nothing is dealt again.
    """
    held: list[tuple[int, float] | None] = [None] * layers
    for place, draft in enumerate(drafts):
        for layer, multiplier in draft.multipliers:
            held[layer] = (place, multiplier)
    order = random.Random(seed)
    dealt = list(held)
    while dealt == held:
        order.shuffle(dealt)
    return [
        replace(
            draft,
            multipliers=tuple(
                (layer, one[1]) for layer, one in enumerate(dealt) if one and one[0] == place
            ),
        )
        for place, draft in enumerate(drafts)
    ]


def same_everywhere(drafts: Sequence[Draft], layers: int) -> bool:
    """Whether every layer gets the same noise, so that dealing it out anew changes nothing."""
    noisy = [draft for draft in drafts if draft.sigmas is not None]
    values = [value for draft in noisy for _, value in draft.multipliers]
    return len(noisy) == 1 == len(set(values)) and len(values) == layers
