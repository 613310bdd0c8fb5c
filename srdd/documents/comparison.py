"""The Comparison document: the differences between two scans, and which gates they pass.

`srdd.compare` returns one, and `srdd compare --as json` writes it, for programs to read.
"""

from __future__ import annotations

import statistics
from collections import Counter
from typing import Any, Literal

from srdd.documents.document import Document, Part
from srdd.documents.scan import Operands
from srdd.numerics.metrics import KL

BETTER, WORSE, CHANGED, UNSEEN = "better", "worse", "changed", "no difference seen"
NO_INTERVAL, UNDEFINED = "no interval", "undefined"

Ends = tuple[float, float]


class Side(Part):
    """One of the two scans; `source` is the name of its file, `layers` their number."""

    source: str
    model: str
    revision: str | None
    dtype: str | None
    layers: int
    fingerprint: str | None
    calibration_fingerprint: str | None
    prompts: int | None
    tokens: int | None


class Remark(Part):
    """A sentence about what the comparison means; a `warning` changes what the figures mean.

    The text holds names from the scans and is untrusted.
    """

    text: str
    warning: bool


class Difference(Part):
    """One metric in both scans, in the metric's own unit; None where undefined.

    `interval` is of the difference, new - old, `new_interval` of the new figure. `exact` tells that
    the figures do not depend on prompts. The verdicts are explained in
    `srdd.comparison.differences`.
    """

    old: float | None
    new: float | None
    difference: float | None
    interval: Ends | None
    new_interval: Ends | None
    exact: bool
    verdict: str

    @property
    def significant(self) -> bool:
        """Whether the difference is beyond what other prompts of the same kind might do."""
        return self.verdict in (BETTER, WORSE, CHANGED)


class Place(Part):
    """What a figure belongs to.

    A layer (its index), a tensor of a layer (its name there), a kind of tensor such as `q,k,v`
    (layer None), or everything together (both None).
    """

    layer: int | None
    tensor: str | None

    @property
    def label(self) -> str:
        """It in words, such as `5`, `down` or `5 mlp.down_proj`; untrusted text."""
        parts = [str(part) for part in (self.layer, self.tensor) if part not in (None, "")]
        return " ".join(parts) or "all together"


class Selection(Part):
    """What was compared: one site, in one format (such as `mxfp4:floor`) of each scan."""

    site: str
    operands: Operands | None
    old_format: str
    new_format: str


class Row(Place):
    """All metrics of a layer, a kind of tensor or a tensor, its records taken together."""

    metrics: dict[str, Difference]


class Move(Place):
    """A row whose rank is another in the new scan; 1 is the worst.

    It is `significant` where the figures are exact, or where the 95 % interval of the change of
    rank excludes 0; None without replicates.
    """

    old: int
    new: int
    significant: bool | None


class Group(Selection):
    """The comparison of one selection; rows are in the order of the model.

    `intervals` says what they were drawn from: the same prompts in both scans, other prompts; exact
    figures need none. `overall` has the metrics of all these rows' added sums, None where a scan
    holds no sums. Ranks are by the comparison's metric, or else by the first of this group; the
    rows that moved the farthest come first. `kendall_tau` is that of the two orders; None where
    there is none.
    """

    intervals: Literal["paired", "independent", "exact", "none"]
    overall: dict[str, Difference] | None
    rows: tuple[Row, ...]
    moved_in_rank: tuple[Move, ...]
    kendall_tau: float | None

    def __repr__(self) -> str:
        site = self.site if self.operands is None else f"{self.site} ({self.operands})"
        return f"Group({site!r}, {self.old_format} -> {self.new_format}, rows={len(self.rows)})"

    def verdicts(self, metric: str) -> Counter[str]:
        """How many rows have each verdict."""
        return Counter(row.metrics[metric].verdict for row in self.rows)

    def median(self, metric: str) -> float | None:
        """The median over rows of the difference; None where none is defined."""
        differences = [row.metrics[metric].difference for row in self.rows]
        defined = [value for value in differences if value is not None]
        return statistics.median(defined) if defined else None


class Breach(Place, Selection):
    """Where a gate is breached, and by which value; None where an exact reconstruction is lost."""

    value: float | None


class Gate(Part):
    """A limit, as text and in its parts.

    Attributes:
        scope: whether it looks at each row (`layer`) or at all together.
        which: whether it looks at NEW - OLD or at NEW's figure.
        metric: of srdd.numerics.metrics.METRICS.
        limit: in the metric's own unit: dB, or a fraction.
    """

    text: str
    scope: Literal["layer", "overall"]
    which: Literal["difference", "new"]
    metric: str
    sign: Literal["<", "<=", ">", ">="]
    limit: float


class Outcome(Part):
    """The result of a gate.

    `looked_at` figures were judged, `unsure` are beyond it and may be so by chance, and `unknown`
    could not be judged: undefined, or without an interval.
    """

    gate: Gate
    passed: bool
    breaches: tuple[Breach, ...]
    unsure: int
    looked_at: int
    unknown: int


class Comparison(Document):
    """The result of a comparison.

    Rows are layers, kinds of tensors or tensors (`by`), and are ranked by one metric. The warnings
    among the remarks come first. `left_out` says what only one of the scans has. `groups` have
    errors of tensors, and `costs` what quantizing both operands of linears costs (the metric `kl`),
    one for each pair of formats; none where a scan has no sensitivity.
    """

    PRETTY = True

    kind: Literal["srdd.comparison"] = "srdd.comparison"
    schema_version: Literal[3] = 3
    old: Side
    new: Side
    remarks: tuple[Remark, ...]
    left_out: tuple[str, ...]
    ranked_by: str
    by: str
    groups: tuple[Group, ...]
    costs: tuple[Group, ...] = ()
    gates: tuple[Outcome, ...] = ()

    @property
    def ranked(self) -> tuple[Group, ...]:
        """The groups that have the metric that rows are ranked by."""
        return self.costs if self.ranked_by == KL.name else self.groups

    def __repr__(self) -> str:
        total = sum((group.verdicts(self.ranked_by) for group in self.ranked), Counter[str]())
        counts = ", ".join(f"{count} {word}" for word, count in total.most_common())
        return f"Comparison({list(self.ranked)}, by {self.by}, {self.ranked_by}: {counts})"

    def rows(self) -> list[dict[str, Any]]:
        """Every metric of every row, and of all rows together, as flat dictionaries.

        Returns:
            For each `site`, `operands`, `old_format`, `new_format`, `layer`, `tensor`, `metric`,
            `old`, `new`, `difference`, `low` and `high` (ends of the difference's 95 % interval)
            and `verdict`; None where there is none. `layer` and `tensor` are None for all rows
            together.
        """
        flat = []
        for group in (*self.groups, *self.costs):
            selection = {name: getattr(group, name) for name in Selection.model_fields}
            overall = [Row(layer=None, tensor=None, metrics=group.overall)] if group.overall else []
            for row in (*group.rows, *overall):
                for metric, each in row.metrics.items():
                    low, high = each.interval or (None, None)
                    flat.append(
                        selection
                        | {"layer": row.layer, "tensor": row.tensor, "metric": metric}
                        | {"old": each.old, "new": each.new, "difference": each.difference}
                        | {"low": low, "high": high, "verdict": each.verdict}
                    )
        return flat
