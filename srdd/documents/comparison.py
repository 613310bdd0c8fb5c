"""The Comparison document: the differences between two scans, and which gates they pass.

`srdd compare --as json` writes it, for programs to read.
"""

from __future__ import annotations

from typing import Literal

from srdd.documents.document import Document, Part

Interval = tuple[float, float]


class Side(Part):
    """One of the two scans; `source` is the name of its file."""

    source: str
    model: str
    revision: str | None
    fingerprint: str | None
    calibration_fingerprint: str | None
    prompts: int | None
    tokens: int | None


class Remark(Part):
    """A sentence about what the comparison means; a `warning` changes what the figures mean."""

    text: str
    warning: bool


class Difference(Part):
    """One metric in both scans; see `srdd.comparison.differences`.

    `interval` is of the difference, new - old, `new_interval` of the new figure. `exact` tells that
    the figures do not depend on prompts.
    """

    old: float | None
    new: float | None
    difference: float | None
    interval: Interval | None
    new_interval: Interval | None
    exact: bool
    verdict: str


class Row(Part):
    """What is compared: a layer (its index), a tensor of it, or a kind of tensor (layer null)."""

    layer: int | None
    tensor: str | None
    metrics: dict[str, Difference]


class Move(Part):
    """A row whose rank is another in the new scan; 1 is the worst."""

    layer: int | None
    tensor: str | None
    old: int
    new: int
    significant: bool | None


class Group(Part):
    """One site, in one format of each scan; `intervals` says what they were drawn from."""

    site: str
    operands: Literal["weight", "input", "both"] | None
    old_format: str
    new_format: str
    intervals: Literal["paired", "independent", "exact", "none"]
    overall: dict[str, Difference] | None
    rows: list[Row]
    moved_in_rank: list[Move]
    kendall_tau: float | None


class Breach(Part):
    """Where a gate is breached, and by which value."""

    site: str
    operands: Literal["weight", "input", "both"] | None
    old_format: str
    new_format: str
    layer: int | None
    tensor: str | None
    value: float


class Gate(Part):
    """The result of a gate.

    `looked_at` figures were judged, `unsure` are beyond it and may be so by chance, and `unknown`
    could not be judged.
    """

    gate: str
    passed: bool
    breaches: list[Breach]
    unsure: int
    looked_at: int
    unknown: int


class Comparison(Document):
    """The result of a comparison."""

    PRETTY = True

    kind: Literal["srdd.comparison"] = "srdd.comparison"
    schema_version: Literal[2] = 2
    old: Side
    new: Side
    remarks: list[Remark]
    left_out: list[str]
    ranked_by: str
    by: str
    groups: list[Group]
    gates: list[Gate]
