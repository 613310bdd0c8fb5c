"""A record's figures as cells of a table."""

from __future__ import annotations

from srdd.report.text import with_half_width
from srdd.schema.scan import Record


def sqnr(record: Record) -> str:
    """SQNR in dB with half its interval."""
    interval = record.intervals.sqnr_db if record.intervals else None
    return with_half_width(record.metrics.sqnr_db, interval, digits=2)


def relative_error(record: Record) -> str:
    """Relative error in per cent with half its interval."""
    interval = record.intervals.relative_error if record.intervals else None
    return with_half_width(record.metrics.relative_error, interval, scale=100)


def distance(record: Record) -> str:
    """Distance from the floor in dB, minus below it."""
    below = record.floor_distance_db
    return "-" if below is None else f"{-below:+.2f}"
