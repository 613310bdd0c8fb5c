"""Histograms of per-token SQNR: how quantization treats single tokens, in a form that adds.

A pooled SQNR is ruled by the tokens with the most energy; on some models that is the first token
alone. The quantiles of the SQNR of single tokens are not. To merge, they are read from a histogram
with fixed bins of 0.25 dB, so a quantile is right to within one bin.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from srdd.numerics.sums import INDEX, Sums

LOWEST_DB = -40.0
"""Lower edge of the first bin; tokens below are counted in it."""
BIN_DB = 0.25
BINS = 640
"""Up to 120 dB; tokens above are counted in the last bin."""

Histogram = NDArray[np.int64]
"""Tokens in each bin, int64, (BINS,)."""


def new() -> Histogram:
    """A histogram of no tokens."""
    return np.zeros(BINS, dtype=np.int64)


def place(rows: Sums) -> NDArray[np.int64]:
    """The bin of each row of sums (rows, fields); BINS for a row without an SQNR."""
    x2, e2 = rows[:, INDEX["x2"]], rows[:, INDEX["e2"]]
    defined = (x2 > 0) & (e2 > 0)
    sqnr_db = 10 * np.log10(np.where(defined, x2, 1.0) / np.where(defined, e2, 1.0))
    bins = np.clip(np.floor((sqnr_db - LOWEST_DB) / BIN_DB), 0, BINS - 1)
    return np.where(defined, bins, BINS).astype(np.int64)


def quantile(counts: Histogram, share: float) -> float | None:
    """The SQNR in dB below which `share` of the tokens lie, or None without tokens.

    Inside a bin the tokens are taken to be spread evenly.
    """
    total = int(counts.sum())
    if total == 0:
        return None
    wanted = share * total
    reached = np.cumsum(counts)
    place = int(np.searchsorted(reached, wanted, side="left"))
    place = min(max(place, int(np.argmax(counts > 0))), BINS - 1)
    before = int(reached[place] - counts[place])
    inside = (wanted - before) / int(counts[place]) if counts[place] else 0.0
    return LOWEST_DB + BIN_DB * (place + min(max(inside, 0.0), 1.0))


def to_span(counts: Histogram) -> tuple[int, list[int]]:
    """The first occupied bin and the counts up to the last one: the form a document stores."""
    occupied = np.flatnonzero(counts)
    if not len(occupied):
        return 0, []
    first, last = int(occupied[0]), int(occupied[-1])
    return first, [int(v) for v in counts[first : last + 1]]


def from_span(first: int, span: list[int]) -> Histogram:
    """The inverse of `to_span`.

    Raises:
        ValueError: the span reaches beyond the bins.
    """
    if first < 0 or first + len(span) > BINS:
        raise ValueError(f"bins {first} to {first + len(span)} lie outside 0 to {BINS}")
    counts = new()
    counts[first : first + len(span)] = span
    return counts
