"""Verdicts: the figures of a layer or tensor in one word.

A threshold alone says little about 4-bit formats, because ideal Gaussian data fails the usual ones.
So where one is breached, the word says how far the SQNR is from the format's own Gaussian floor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from srdd.documents.scan import Record
from srdd.numerics.metrics import Thresholds
from srdd.reports.view import Tally, Word

POOR_DB, BAD_DB = 1.0, 3.0

OK, ABOVE = Word("ok", "good"), Word("above floor", "good")
AT_FLOOR = Word("at floor", "neutral")
POOR, FLAGGED = Word("poor", "warning"), Word("flagged", "warning")
BAD, BROKEN = Word("bad", "bad"), Word("broken", "alarm")

MEANINGS: dict[Word, str] = {
    BROKEN: "it holds NaN or infinite values, which its figures leave out",
    BAD: f"a threshold is breached, and the SQNR is more than {BAD_DB:g} dB below the floor: what "
    "ideal Gaussian data gets in the format",
    POOR: f"a threshold is breached, and the SQNR is {POOR_DB:g} to {BAD_DB:g} dB below the floor",
    FLAGGED: "a threshold is breached, and there is no SQNR to compare with the floor",
    AT_FLOOR: f"a threshold is breached, and the SQNR is within {POOR_DB:g} dB of the floor: the "
    "format's own limit",
    ABOVE: f"a threshold is breached, though the SQNR is more than {POOR_DB:g} dB above the floor",
    OK: "no threshold is breached",
}
"""Every word with its meaning, the most serious first."""

LEGEND = (
    "vs floor: SQNR minus what ideal Gaussian data gets in the format. bad: more than "
    f"{BAD_DB:g} dB below that; poor: {POOR_DB:g} to {BAD_DB:g} dB below; at floor: within "
    f"{POOR_DB:g} dB; above floor: higher; ok: within all thresholds; broken: NaN or infinite "
    "values. ±: half of a 95 % interval over prompts."
)
"""What stands once under the tables of a scan."""


def verdict(record: Record, thresholds: Thresholds) -> Word:
    """One of the words of this module."""
    if record.sums is not None and record.sums.nonfinite:
        return BROKEN
    if not thresholds.breaches(dict(record.metrics)):
        return OK
    distance = record.vs_floor_db
    if distance is None:
        return FLAGGED
    if distance < -BAD_DB:
        return BAD
    if distance < -POOR_DB:
        return POOR
    return ABOVE if distance > POOR_DB else AT_FLOOR


def tally(words: Iterable[Word]) -> Tally:
    """How often each word occurs, the most serious first."""
    counts = Counter(words)
    return Tally(tuple((word, counts[word]) for word in MEANINGS if counts[word]))
