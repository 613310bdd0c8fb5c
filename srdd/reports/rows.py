"""What the tables of a scan list: its tensors, or the tensors of a layer or kind taken as one."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from srdd.documents.pool import pool, pool_groups
from srdd.documents.scan import Operands, Record
from srdd.documents.sensitivity_figures import figure
from srdd.model.kinds import ORDER, kind_of, kinds_of
from srdd.noise.zones import zone_of
from srdd.numerics.formats import parse_spec
from srdd.numerics.metrics import METRICS
from srdd.reports.groups import Group
from srdd.reports.verdicts import BROKEN, tally, verdict
from srdd.reports.view import Estimate, Tally, Word

VIEWS = ("tensor", "layer", "kind")
"""What a row of a scan's table can be; the first is the default."""


@dataclass(frozen=True)
class Row:
    """A row: one tensor, or several as one.

    Attributes:
        group: the site and format that it is from.
        record: its figures; pooled where it stands for several tensors.
        members: the tensors behind it, at least one.
        layer: None where the members are of several layers.
        kind: what reads the members, such as `q,k,v`; None where they are of several kinds, or
            layer outputs.
        operands: at site `linear` the figures with only the weight, or only the input quantized.
    """

    group: Group
    record: Record
    members: tuple[Record, ...]
    layer: int | None
    kind: str | None
    operands: Mapping[Operands, Record] = field(default_factory=dict)

    @cached_property
    def words(self) -> tuple[Word, ...]:
        """The verdict on each member."""
        return tuple(verdict(record, self.group.thresholds) for record in self.members)

    @property
    def verdict(self) -> Word | Tally:
        """That of the only member, or how many members have which."""
        return self.words[0] if len(self.members) == 1 else tally(self.words)

    @property
    def lowest(self) -> Record | None:
        """Of several members the one farthest below the floor; None for one, or without floors."""
        known = [record for record in self.members if record.vs_floor_db is not None]
        if len(self.members) < 2 or not known:
            return None
        return min(known, key=lambda record: record.vs_floor_db or 0.0)

    @property
    def median_db(self) -> float | None:
        """The members' median distance from the floor."""
        known = [r.vs_floor_db for r in self.members if r.vs_floor_db is not None]
        return statistics.median(known) if known else None

    def estimate(self, metric: str) -> Estimate:
        """A metric with its interval."""
        return Estimate(
            getattr(self.record.metrics, metric), getattr(self.record.intervals, metric, None)
        )


def kinds(record: Record) -> str | None:
    """What reads this tensor, such as `q,k,v`; None for the output of a layer."""
    if record.site == "output":
        return None
    return kinds_of([record.tensor, *record.shared_with])


def rows_of(groups: Sequence[Group], by: str) -> list[Row]:
    """The rows of some groups, in order of the groups; in each, as the model uses its tensors.

    Groups of site `linear` with a single operand quantized have no rows of their own: they stand in
    `Row.operands` of the group with both.

    Arguments:
        groups: of one scan.
        by: of VIEWS.

    Raises:
        InputError: several tensors have to be taken as one, and the scan holds no sums.
    """
    found = []
    for group in groups:
        if group.operands in ("weight", "input"):
            continue
        siblings = {
            other.operands: _by_key(other, by)
            for other in groups
            if group.operands
            and other.operands in ("weight", "input")
            and (other.site, other.spec) == (group.site, group.spec)
        }
        for key, (record, members) in _by_key(group, by).items():
            operands: dict[Operands, Record] = {
                which: one[key][0] for which, one in siblings.items() if which and key in one
            }
            found.append(Row(group, record, members, key[0], key[1], operands))
    return found


_Key = tuple["int | None", "str | None", str]


def _by_key(group: Group, by: str) -> dict[_Key, tuple[Record, tuple[Record, ...]]]:
    """Rows by layer, kind and tensor, as far as `by` tells them apart."""
    if by == "tensor":
        return {(r.layer, kinds(r), r.tensor): (r, (r,)) for r in group.tensors}
    if by == "layer":
        inside: dict[int, list[Record]] = {}
        for record in group.tensors:
            inside.setdefault(record.layer, []).append(record)
        return {(r.layer, None, ""): (r, tuple(inside[r.layer])) for r in group.layers}
    members: dict[str | None, list[Record]] = {}
    for record in sorted(group.tensors, key=_kind_place):
        members.setdefault(kinds(record), []).append(record)
    settings = group.scan.settings
    pooled = pool_groups(members.values(), rounding=settings.rounding)
    return {
        (None, kind, ""): (record, tuple(members[kind]))
        for kind, record in zip(members, pooled, strict=True)
    }


def operand_label(spec: str, operands: Operands) -> str:
    """What a choice of quantized operands is called: `W4A16`, `W16A4` or `W4A4` with 4 bits."""
    bits = parse_spec(spec).format.element.bits
    weight = 16 if operands == "input" else bits
    return f"W{weight}A{16 if operands == 'weight' else bits}"


def whole(group: Group) -> Row:
    """All tensors of a group as one row."""
    return Row(group, _pool(group, group.tensors), group.tensors, None, None)


def _pool(group: Group, records: Sequence[Record]) -> Record:
    if len(records) == 1:
        return records[0]
    settings = group.scan.settings
    return pool(records, rounding=settings.rounding)


def _kind_place(record: Record) -> tuple[int, str]:
    """Where its kind stands in the order in which a layer uses them: a key to sort by."""
    kind = kind_of(record.tensor)
    return (ORDER.index(kind) if kind in ORDER else len(ORDER), kind)


def worst_first(rows: Sequence[Row]) -> list[Row]:
    """Broken rows, then by distance from the floor; those without one last, ties as they were."""

    def badness(row: Row) -> tuple[bool, bool, float]:
        distance = row.record.vs_floor_db
        return BROKEN not in row.words, distance is None, distance or 0.0

    return sorted(rows, key=badness)


def flat_rows(name: str, group: Group, by: str) -> list[dict[str, Any]]:
    """The rows of a single group as flat dictionaries with every figure, for spreadsheets and JSON.

    `NAME_low` and `NAME_high` are the ends of the 95 % interval of a metric.

    Arguments:
        name: of the file that the scan is from.
        by: of VIEWS.
    """
    return [_flat(name, group, *entry) for entry in _by_key(group, by).items()]


def _costs(group: Group, key: _Key, members: Sequence[Record]) -> dict[str, float | None]:
    """What quantizing the linears of a row costs the predictions, both operands, nats a token.

    None for the outputs of layers, and in a scan that has no costs in this format.
    """
    costs: dict[str, float | None] = {"kl": None, "kl_low": None, "kl_high": None}
    sensitivity = group.scan.sensitivity
    names = {name for record in members for name in (record.tensor, *record.shared_with)}
    if sensitivity is None or group.site == "output":
        return costs
    chosen = [
        change
        for change in sensitivity.changes
        if (change.format, change.operands) == (group.spec, group.operands or "both")
        and change.tensor in names
    ]
    if not chosen:
        return costs
    nats = np.sum([change.nats for change in chosen], axis=0)
    pooled = figure(nats, np.array(sensitivity.tokens, dtype=np.float64))
    low, high = pooled["interval"] or (None, None)
    return {"kl": pooled["value"], "kl_low": low, "kl_high": high}


def _flat(
    name: str, group: Group, key: _Key, entry: tuple[Record, tuple[Record, ...]]
) -> dict[str, Any]:
    record, members = entry
    row: dict[str, Any] = {
        "scan": name,
        "model": group.scan.model.name,
        "site": record.site,
        "operands": record.operands,
        "format": record.format,
        "scale_rule": record.scale_rule,
        "layer": key[0],
        "zone": None if key[0] is None else zone_of(group.zones, key[0]).name,
        "tensor": record.tensor,
        "kind": key[1],
        "shared_with": " ".join(record.shared_with),
    }
    for metric in METRICS:
        low, high = getattr(record.intervals, metric, None) or (None, None)
        value = getattr(record.metrics, metric)
        row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
    row["vs_floor_db"] = record.vs_floor_db
    row |= _costs(group, key, members)
    for quantile in ("p5", "p50", "p95"):
        row[f"token_sqnr_db_{quantile}"] = getattr(record.token_sqnr_db, quantile, None)
    for count in ("tokens", "elements", "nonfinite"):
        row[count] = getattr(record.sums, count, None)
    words = [verdict(member, group.thresholds) for member in members]
    return row | {"verdict": tally(words).counts[0][0].text}  # the most serious of several
