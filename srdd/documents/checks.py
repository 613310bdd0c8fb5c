"""Whether the figures of a scan that was read agree with each other.

A schema says what a scan looks like; here is what must hold between its parts. All records are
checked together, as arrays, so that it costs little beside reading the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import gt

import numpy as np
from numpy.typing import NDArray

from srdd.documents.document import LARGEST, LARGEST_COUNT
from srdd.documents.scan import Record, Scan, Settings
from srdd.numerics.metrics import derive
from srdd.numerics.sites import UNDEFINED
from srdd.numerics.sums import COUNTS, INDEX, Sums

TOLERANCE = 1e-9
"""Relative difference between sums that were added in another order."""
METRIC_TOLERANCE = 1e-6
"""Difference between a metric and what its sums give, for other machines' logarithms."""

PARTS = (
    ("flushed", "nonzero"),
    ("nonzero", "elements"),
    ("saturated", "elements"),
    ("clipped_e2", "e2"),
)
"""Sums that are over a part of another's values."""

Violations = Iterator[tuple[NDArray[np.bool_], str]]
"""For each property: which records violate it, (records,), and what is wrong with those."""


def check_scan(scan: Scan) -> None:
    """Check that the records of a scan agree with its settings and with themselves.

    Raises:
        ValueError: something does not hold; the text names the first record.
    """
    for place, what in _faults(scan):
        record = scan.records[place]
        raise ValueError(
            f"records.{place} (layer {record.layer}, {record.site}, {record.tensor}): {what}"
        )


def _faults(scan: Scan) -> Iterator[tuple[int, str]]:
    """The place of each record with a fault, and what is wrong with it."""
    for place, record in enumerate(scan.records):
        if what := _mismatch(record, scan.settings):
            yield place, what
    places = [place for place, record in enumerate(scan.records) if record.sums is not None]
    if not places:
        return
    for violated, what in _violations([scan.records[place] for place in places]):
        for index in np.flatnonzero(violated):
            yield places[index], what
    for place in places:
        record = scan.records[place]
        if fault := _replicate_fault(vars(record.replicates), vars(record.sums)):
            yield place, fault


def _mismatch(record: Record, settings: Settings) -> str | None:
    """Why the record does not belong to what the settings say was measured, if so."""
    spec = f"{record.format}:{record.scale_rule}"
    if record.site not in settings.sites:
        return f"the settings have no site {record.site!r}"
    if spec not in settings.formats:
        return f"the settings have no format {spec!r}"
    if (record.operands is not None) != (record.site == "linear"):
        return "`operands` is for site linear, and only for it"
    if (record.sums is None) != (record.replicates is None):
        return "it has only one of `sums` and `replicates`"
    return None


def _replicate_fault(
    replicates: Mapping[str, Sequence[float]], sums: Mapping[str, float]
) -> str | None:
    """What is wrong with a record's replicates, if anything."""
    # Lists of 64 are added and compared faster as they are than as arrays.
    if len({len(values) for values in replicates.values()}) > 1:
        return "its replicates are of different lengths"
    for name, values in replicates.items():
        if abs(sum(values) - sums[name]) > TOLERANCE * sums[name]:
            return f"sums.{name} is not the sum over the replicates"
    for part, whole in PARTS:
        if any(map(gt, replicates[part], replicates[whole])) and any(
            a > b * (1 + TOLERANCE)
            for a, b in zip(replicates[part], replicates[whole], strict=True)
        ):
            return f"replicates.{part} is above replicates.{whole}"
    return None


def _violations(records: Sequence[Record]) -> Violations:
    """What is wrong with records that hold sums."""
    sums: Sums = np.array([list(vars(record.sums).values()) for record in records], np.float64)
    for name, place in INDEX.items():
        limit = LARGEST_COUNT if name in COUNTS else LARGEST
        yield sums[:, place] > limit, f"sums.{name} is beyond any measurement"
    for part, whole in PARTS:
        above = sums[:, INDEX[part]] > sums[:, INDEX[whole]] * (1 + TOLERANCE)
        yield above, f"sums.{part} is above sums.{whole}"
    yield from _metric_violations(records, sums)
    histograms = [record.token_sqnr_db for record in records]
    counted = np.array([h and sum(h.counts) + h.undefined for h in histograms], dtype=np.float64)
    yield counted > sums[:, INDEX["tokens"]], "token_sqnr_db counts more tokens than there are"


def _metric_violations(records: Sequence[Record], sums: Sums) -> Violations:
    with np.errstate(over="ignore"):
        derived = derive(sums)
    for name, expected in derived.items():
        given = np.array([getattr(record.metrics, name) for record in records], dtype=np.float64)
        undefined = np.array([name in UNDEFINED.get(record.site, {}) for record in records])
        expected = np.where(undefined, np.nan, expected)
        far = abs(given - expected) > METRIC_TOLERANCE * (1 + abs(expected))
        yield (
            far | (np.isnan(given) != np.isnan(expected)),
            f"metrics.{name} does not follow from the sums",
        )
