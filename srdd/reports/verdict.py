"""Verdicts: a layer's figures in one word, and all layers' figures in one sentence.

A threshold alone says little about 4-bit formats, because ideal Gaussian data fails the usual ones.
So the word also weighs how far the SQNR lies below the format's own floor:

    ok         no threshold is breached
    at floor   one is breached, but the SQNR is at most 1 dB below what Gaussian data gets, or
               above it: the format's own limit
    poor       one is breached, and the SQNR is 1 to 3 dB below that floor
    bad        one is breached, and the SQNR is more than 3 dB below that floor
    flagged    a threshold is breached, and no SQNR is there to compare
    broken     it produced NaN or infinite values, which are left out of its figures
"""

from __future__ import annotations

from srdd.documents.scan import Record, Scan
from srdd.numerics.metrics import Thresholds

POOR_DB, BAD_DB = 1.0, 3.0

STYLES = {
    "ok": "green",
    "at floor": "cyan",
    "poor": "yellow",
    "bad": "red",
    "flagged": "yellow",
    "broken": "bold red",
}
"""Colours that underline the words; the words alone suffice."""


def thresholds_of(scan: Scan) -> Thresholds:
    """The thresholds that the scan was made with."""
    return Thresholds(**scan.settings.thresholds.model_dump())


def verdict(record: Record, thresholds: Thresholds) -> str:
    """One of the words of this module."""
    if record.sums is not None and record.sums.nonfinite:
        return "broken"
    if not thresholds.breaches(dict(record.metrics)):
        return "ok"
    vs_floor_db = record.vs_floor_db
    if vs_floor_db is None:
        return "flagged"
    if vs_floor_db < -BAD_DB:
        return "bad"
    return "poor" if vs_floor_db < -POOR_DB else "at floor"


def status(failing: int, layers: int) -> str:
    """How many layers breach a threshold, in words."""
    if failing == 0:
        return "all pass"
    return "all fail" if failing == layers else f"{failing} of {layers} fail"
