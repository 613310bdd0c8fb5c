"""Scans as comma- or tab-separated values: a row a layer or tensor, with all digits.

A spreadsheet takes a cell that begins with `=`, `+`, `-` or `@` for a formula. Text from a scan
that begins so gets an apostrophe in front; figures do not, since they are written from numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from srdd.documents.scan import Record
from srdd.errors import UsageError, unknown_name
from srdd.model.kinds import kinds_of
from srdd.noise.zones import zone_of
from srdd.numerics.metrics import METRICS
from srdd.reports.groups import Group
from srdd.reports.text import safe
from srdd.reports.verdict import verdict

DELIMITERS = {"csv": ",", "tsv": "\t"}
VIEWS = ("layer", "tensor")

LONGEST = 1000
"""Characters of a name at most."""

FORMULA = frozenset("=+-@＝＋－＠")
"""What a formula begins with, also in full width."""

_NAMES = ("scan", "model", "site", "operands", "format", "scale_rule")
_PLACE = ("layer", "zone", "tensor", "kind", "shared_with")
_COUNTS = ("tokens", "elements", "nonfinite")
_QUANTILES = ("p5", "p50", "p95")

COLUMNS = (
    *_NAMES,
    *_PLACE,
    *(column for metric in METRICS for column in (metric, f"{metric}_low", f"{metric}_high")),
    "vs_floor_db",
    *(f"token_sqnr_db_{name}" for name in _QUANTILES),
    *_COUNTS,
    "verdict",
)
"""The header. `NAME_low` and `NAME_high` are the ends of the 95 % interval."""


def delimited(groups: Sequence[tuple[str, Group]], form: str, by: str = "layer") -> str:
    """Groups as text with a header, one row a layer or tensor; empty cells for undefined figures.

    Arguments:
        groups: each with the name of the file it is from.
        form: `csv` or `tsv`.
        by: `layer`, the tensors of a layer pooled, or `tensor`.

    Raises:
        UsageError: no such form or view.
    """
    if form not in DELIMITERS:
        raise unknown_name("form", form, DELIMITERS)
    if by not in VIEWS:
        raise UsageError(
            f"{form} has a row a layer or tensor, not a {by}", "use --by layer or --by tensor"
        )
    file = io.StringIO()
    writer = csv.DictWriter(file, COLUMNS, delimiter=DELIMITERS[form], lineterminator="\n")
    writer.writeheader()
    for name, group in groups:
        for record in group.layers if by == "layer" else group.tensors:
            row = _row(name, group, record)
            writer.writerow(
                {
                    key: harmless(value) if isinstance(value, str) else value
                    for key, value in row.items()
                }
            )
    return file.getvalue()


def _row(name: str, group: Group, record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {
        "scan": name,
        "model": group.scan.model.name,
        "site": record.site,
        "operands": record.operands,
        "format": record.format,
        "scale_rule": record.scale_rule,
        "layer": record.layer,
        "zone": zone_of(group.zones, record.layer).name,
        "tensor": record.tensor,
        "kind": "" if record.site == "output" else kinds_of([record.tensor, *record.shared_with]),
        "shared_with": " ".join(record.shared_with),
        "vs_floor_db": record.vs_floor_db,
        "verdict": verdict(record, group.thresholds),
    }
    for metric in METRICS:
        low, high = getattr(record.intervals, metric, None) or (None, None)
        row |= {metric: getattr(record.metrics, metric), f"{metric}_low": low}
        row[f"{metric}_high"] = high
    for name in _QUANTILES:
        row[f"token_sqnr_db_{name}"] = getattr(record.token_sqnr_db, name, None)
    for name in _COUNTS:
        row[name] = getattr(record.sums, name, None)
    return row


def harmless(text: str) -> str:
    """A name that no spreadsheet takes for a formula."""
    shown = safe(text, longest=LONGEST)
    return f"'{shown}" if shown.lstrip()[:1] in FORMULA else shown
