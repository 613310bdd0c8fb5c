"""Zones: layers -> named contiguous ranges, and values -> natural classes."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate, combinations, pairwise, starmap
from math import fsum

from srdd.errors import UsageError


@dataclass(frozen=True)
class Zone:
    """A named contiguous range of layers, both ends included."""

    name: str
    first: int
    last: int

    @property
    def layers(self) -> range:
        """The indices of its layers."""
        return range(self.first, self.last + 1)


_DEPTHS = (
    ("First", Fraction(1, 7)),
    ("Early-Mid", Fraction(5, 14)),
    ("Middle", Fraction(5, 7)),
    ("Late-Mid", Fraction(13, 14)),
    ("Last", Fraction(1)),
)


def by_depth(layers: int) -> tuple[Zone, ...]:
    """Five zones that end at 1/7, 5/14, 5/7, 13/14 and all of the depth.

    For 28 layers these are the guide's 0-3, 4-9, 10-19, 20-25 and 26-27. An end that falls between
    two layers is rounded to the nearer one; a shallow model has fewer zones, since empty ones are
    left out.

    Arguments:
        layers: number of decoder layers, at least 1.
    """
    zones: list[Zone] = []
    first = 0
    for name, share in _DEPTHS:
        end = round(share * layers)
        if end > first:
            zones.append(Zone(name, first, end - 1))
            first = end
    return tuple(zones)


def zone_of(zones: tuple[Zone, ...], layer: int) -> Zone:
    """The zone that `layer` lies in, which one of them has to be."""
    return next(zone for zone in zones if layer in zone.layers)


_RANGE = re.compile(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", re.ASCII)


def parse(text: str, layers: int) -> tuple[Zone, ...]:
    """`0-3,4-9,10-19` -> zones that cover layers 0 to `layers` - 1, each once and in order.

    A zone is named as it is written; `5` is the zone `5-5`.

    Raises:
        UsageError: a part is no range, or does not go on where the one before it ends, or the last
            one does not end with the model.
    """
    example = ",".join(f"{zone.first}-{zone.last}" for zone in by_depth(layers))
    hint = f"write ranges in order that cover layers 0 to {layers - 1}, such as {example}"
    zones: list[Zone] = []
    start = 0
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise UsageError(f"{part.strip()!r} in zones {text!r} is no range of layers", hint)
        first, last = int(match[1]), int(match[2] or match[1])
        zone = Zone(f"{first}-{last}", first, last)
        if first != start:
            raise UsageError(f"zone {zone.name} must start at layer {start}", hint)
        if not first <= last < layers:
            raise UsageError(
                f"zone {zone.name} must end at a layer from {first} to {layers - 1}", hint
            )
        zones.append(zone)
        start = last + 1
    if start < layers:
        raise UsageError(f"no zone covers layers {start} to {layers - 1}", hint)
    return tuple(zones)


def natural_breaks(values: Sequence[float], classes: int) -> tuple[int, ...]:
    """The class of each value, 0 for the lowest, such that values of a class lie close together.

    Minimises the sum over classes of squared deviations from the class mean: tries every partition
    of the distinct values, of which there are n^(classes - 1). Equal values share a class. Of
    partitions that are equally good, the one whose upper classes are larger is taken.

    Source: Fisher 1958, "On Grouping for Maximum Homogeneity"; known as Jenks natural breaks.

    Arguments:
        values: finite, at least one.
        classes: how many, at least 1 and at most the number of distinct values.

    Raises:
        ValueError: `classes` is out of that range.
    """
    counts = Counter(values)
    distinct = sorted(counts)
    if not 1 <= classes <= len(distinct):
        raise ValueError(f"{len(distinct)} distinct values cannot form {classes} classes")
    # Sums of squares are taken about the mean: about zero they would cancel for close values.
    # fsum, so that no order of the values decides between partitions that are equally good.
    centre = fsum(values) / len(values)
    weight = [0, *accumulate(counts[v] for v in distinct)]
    first = [0.0, *accumulate(counts[v] * (v - centre) for v in distinct)]
    second = [0.0, *accumulate(counts[v] * (v - centre) ** 2 for v in distinct)]

    def spread(low: int, high: int) -> float:
        """Squared deviations of distinct[low:high] from their mean."""
        total = first[high] - first[low]
        return second[high] - second[low] - total * total / (weight[high] - weight[low])

    def deviations(cuts: tuple[int, ...]) -> float:
        return sum(starmap(spread, pairwise((0, *cuts, len(distinct)))))

    cuts = min(combinations(range(1, len(distinct)), classes - 1), key=deviations)
    starts = [distinct[cut] for cut in cuts]
    return tuple(bisect_right(starts, value) for value in values)
