"""Additive sums: all that is kept of a tensor once it has been measured.

Sums of two disjoint sets of values are the sums of their union, so batches, replicates and whole
scans merge by adding. They live in plain float64 arrays whose last axis runs over FIELDS: counts
stay exact up to 2^53, and power sums keep full precision over any number of blocks.

For finite inputs x with dequantized values y and errors e = y - x:

    tokens        rows measured
    elements      finite values
    nonfinite     values that are NaN or infinite; they enter no other field
    nonzero       x != 0
    flushed       x != 0 and y == 0
    saturated     |x| / scale above the element's largest magnitude
    x2, e2        sum of x^2, sum of e^2
    clipped_e2    sum of e^2 over saturated values
    abs_x, abs_e  sum of |x|, sum of |e|
    relative      sum of |e| / |x| over x != 0
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

FIELDS = (
    "tokens",
    "elements",
    "nonfinite",
    "nonzero",
    "flushed",
    "saturated",
    "x2",
    "e2",
    "clipped_e2",
    "abs_x",
    "abs_e",
    "relative",
)
COUNTS = FIELDS[:6]
"""The fields that are whole numbers."""
INDEX = {name: place for place, name in enumerate(FIELDS)}

Sums = NDArray[np.float64]
"""float64, (..., len(FIELDS))."""


def new(*shape: int) -> Sums:
    """Sums of nothing, (*shape, len(FIELDS))."""
    return np.zeros((*shape, len(FIELDS)), dtype=np.float64)


def field(sums: Sums, name: str) -> NDArray[np.float64]:
    """One field of `sums` (..., len(FIELDS)) as an array (...); a view, not a copy."""
    view: NDArray[np.float64] = sums[..., INDEX[name]]
    return view


def to_lists(sums: Sums) -> dict[str, list[int | float]]:
    """Sums (n, len(FIELDS)) -> for each field its n values; counts as whole numbers."""
    return {
        name: (field(sums, name).astype(np.int64) if name in COUNTS else field(sums, name)).tolist()
        for name in FIELDS
    }


def from_lists(lists: Mapping[str, list[int | float]]) -> Sums:
    """The inverse of `to_lists`."""
    return np.stack([np.asarray(lists[name], dtype=np.float64) for name in FIELDS], axis=-1)
