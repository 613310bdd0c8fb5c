"""Zones: layers -> named contiguous ranges, and values -> natural classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate

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
    """The zone that `layer` lies in.

    Raises:
        ValueError: it lies in none.
    """
    for zone in zones:
        if zone.first <= layer <= zone.last:
            return zone
    raise ValueError(f"layer {layer} lies in none of the zones")


_RANGE = re.compile(r"\s*(\d{1,9})\s*(?:-\s*(\d{1,9})\s*)?", re.ASCII)


def parse(text: str, layers: int) -> tuple[Zone, ...]:
    """`0-3,4-9,10-19` -> zones that cover layers 0 to `layers` - 1, each once and in order.

    A zone is named as it is written; `5` is the zone `5-5`.

    Raises:
        UsageError: a part is no range, or runs backwards; zones overlap, leave a gap, stand out of
            order or reach beyond the model; the last layers are in none.
    """
    hint = f"write ranges in order that cover layers 0 to {layers - 1}, such as {_example(layers)}"
    zones: list[Zone] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise UsageError(f"{part.strip()!r} in zones {text!r} is no range of layers", hint)
        first, last = int(match[1]), int(match[2] or match[1])
        zone = Zone(f"{first}-{last}", first, last)
        if last < first:
            raise UsageError(f"zone {zone.name} runs backwards", hint)
        if last >= layers:
            raise UsageError(
                f"zone {zone.name} reaches beyond layer {layers - 1}, the last one", hint
            )
        if zones and first < zones[-1].first:
            raise UsageError(f"zone {zone.name} stands after zone {zones[-1].name}", hint)
        zones.append(zone)
    expected = 0
    for before, zone in zip((None, *zones), zones, strict=False):
        if before is not None and zone.first < expected:
            raise UsageError(f"zones {before.name} and {zone.name} overlap", hint)
        if zone.first > expected:
            raise UsageError(f"no zone holds {_span(expected, zone.first - 1)}", hint)
        expected = zone.last + 1
    if expected < layers:
        raise UsageError(f"no zone holds {_span(expected, layers - 1)}", hint)
    return tuple(zones)


def _span(first: int, last: int) -> str:
    return f"layer {first}" if first == last else f"layers {first} to {last}"


def _example(layers: int) -> str:
    return ",".join(f"{zone.first}-{zone.last}" for zone in by_depth(layers))


def natural_breaks(values: Sequence[float], classes: int) -> tuple[int, ...]:
    """The class of each value, 0 for the lowest, such that values of a class lie close together.

    Minimises the sum over classes of squared deviations from the class mean, exactly, by dynamic
    programming over the distinct values in order; equal values share a class. Of partitions that
    are equally good, the one whose upper classes are larger is taken.

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
    centre = sum(values) / len(values)
    weight = [0, *accumulate(counts[v] for v in distinct)]
    first = [0.0, *accumulate(counts[v] * (v - centre) for v in distinct)]
    second = [0.0, *accumulate(counts[v] * (v - centre) ** 2 for v in distinct)]

    def spread(low: int, high: int) -> float:
        """Squared deviations of distinct[low:high] from their mean."""
        total = first[high] - first[low]
        return second[high] - second[low] - total * total / (weight[high] - weight[low])

    best = [spread(0, high) if high else 0.0 for high in range(len(distinct) + 1)]
    starts: list[list[int]] = []
    for done in range(1, classes):
        previous, best, start = best, [0.0] * len(best), [0] * len(best)
        for high in range(done + 1, len(best)):
            options = ((previous[low] + spread(low, high), low) for low in range(done, high))
            best[high], start[high] = min(options)
        starts.append(start)
    class_of = dict.fromkeys(distinct, 0)
    high = len(distinct)
    for index, start in zip(range(classes - 1, 0, -1), reversed(starts), strict=True):
        for value in distinct[start[high] : high]:
            class_of[value] = index
        high = start[high]
    return tuple(class_of[value] for value in values)
