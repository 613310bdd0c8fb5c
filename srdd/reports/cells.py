"""A record's figures as cells of a table."""

from __future__ import annotations

from srdd.documents.scan import Record
from srdd.reports.text import with_half_width


def sqnr(record: Record) -> str:
    """SQNR in dB with half its interval."""
    interval = record.intervals.sqnr_db if record.intervals else None
    return with_half_width(record.metrics.sqnr_db, interval, digits=2)


def token_sqnr(record: Record) -> str:
    """SQNR of single tokens in dB: the 5, 50 and 95 % quantiles."""
    found = record.token_sqnr_db
    if found is None or found.p5 is None or found.p50 is None or found.p95 is None:
        return "-"
    return f"{found.p5:.1f} {found.p50:.1f} {found.p95:.1f}"


def relative_error(record: Record) -> str:
    """Relative error in per cent with half its interval."""
    interval = record.intervals.relative_error if record.intervals else None
    return with_half_width(record.metrics.relative_error, interval, scale=100)


def distance(record: Record) -> str:
    """SQNR minus that of the floor in dB: negative below it."""
    value = record.vs_floor_db
    return "-" if value is None else f"{value:+.2f}"
