"""Whether the figures of a scan that was read agree with each other.

A schema says what a scan looks like; here is what must hold between its parts. All records are
checked together, as arrays, so that it costs little beside reading the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import gt
from typing import Any

import numpy as np

from srdd.documents.document import LARGEST, LARGEST_COUNT
from srdd.documents.scan import Record, Scan
from srdd.errors import SrddError
from srdd.numerics.formats import ROUNDINGS, parse_spec
from srdd.numerics.metrics import METRICS, derive
from srdd.numerics.sites import SITES, UNDEFINED
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

Faults = Iterator[tuple[Any, str]]
"""For each property: which records violate it, (records,), and what is wrong with those."""


def check_scan(scan: Scan) -> None:
    """Check a scan's settings and records.

    Raises:
        ValueError: something does not hold; the text names the first record.
    """
    _check_settings(scan)
    measured: list[tuple[int, Record]] = []
    for place, record in enumerate(scan.records):
        _check_place(place, record, scan)
        if (record.sums is None) != (record.replicates is None):
            raise _fault(place, record, "it has only one of `sums` and `replicates`")
        if record.sums is not None:
            measured.append((place, record))
    if not measured:
        return
    for violated, what in _faults([record for _, record in measured]):
        if violated.any():
            raise _fault(*measured[int(np.argmax(violated))], what)
    for place, record in measured:
        fault = _replicate_fault(vars(record.replicates), vars(record.sums))
        if fault is not None:
            raise _fault(place, record, fault)


def _fault(place: int, record: Record, what: str) -> ValueError:
    return ValueError(
        f"records.{place} (layer {record.layer}, {record.site}, {record.tensor}): {what}"
    )


def _check_settings(scan: Scan) -> None:
    settings = scan.settings
    if settings.rounding not in ROUNDINGS:
        raise ValueError(f"settings.rounding: unknown rounding {settings.rounding!r}")
    for site in settings.sites:
        if site not in SITES:
            raise ValueError(f"settings.sites: unknown site {site!r}")
    for spec in settings.formats:
        try:
            known = str(parse_spec(spec)) == spec
        except SrddError as error:
            raise ValueError(f"settings.formats: {error.message}") from None
        if not known:
            raise ValueError(f"settings.formats: {spec!r} is not a format with its scale rule")
    for ranking in scan.rankings:
        if ranking.metric not in METRICS:
            raise ValueError(f"rankings: unknown metric {ranking.metric!r}")


def _check_place(place: int, record: Record, scan: Scan) -> None:
    """Whether the record belongs to what the settings say was measured."""
    if record.site not in scan.settings.sites:
        raise _fault(place, record, f"the settings have no site {record.site!r}")
    spec = f"{record.format}:{record.scale_rule}"
    if spec not in scan.settings.formats:
        raise _fault(place, record, f"the settings have no format {spec!r}")
    if (record.operands is not None) != (record.site == "linear"):
        raise _fault(place, record, "`operands` is for site linear, and only for it")
    for name, ends in record.intervals or ():
        if ends is not None and ends[0] > ends[1]:
            raise _fault(place, record, f"intervals.{name} ends before it begins")


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


def _faults(records: Sequence[Record]) -> Faults:
    """What is wrong with records that hold sums."""
    sums: Sums = np.array([list(vars(record.sums).values()) for record in records], np.float64)
    for name, place in INDEX.items():
        limit = LARGEST_COUNT if name in COUNTS else LARGEST
        yield sums[:, place] > limit, f"sums.{name} is beyond any measurement"
    for part, whole in PARTS:
        above = sums[:, INDEX[part]] > sums[:, INDEX[whole]] * (1 + TOLERANCE)
        yield above, f"sums.{part} is above sums.{whole}"
    yield from _metric_faults(records, sums)
    counted = np.array([_histogram_total(record) for record in records], dtype=np.float64)
    yield counted > sums[:, INDEX["tokens"]], "token_sqnr_db counts more tokens than there are"


def _metric_faults(records: Sequence[Record], sums: Sums) -> Faults:
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


def _histogram_total(record: Record) -> int:
    tokens = record.token_sqnr_db
    return 0 if tokens is None else sum(tokens.counts) + tokens.undefined
