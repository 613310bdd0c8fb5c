"""Multipliers of layers: rounded as they are written, and mirrored for a control."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
