"""The whole comparison of two scans: every metric of every row, and of all rows together."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from srdd.comparison.comparability import Remark, remarks, same_prompts
from srdd.comparison.costs import cost_differences, cost_table
from srdd.comparison.differences import Basis, Difference, difference
from srdd.comparison.figures import figures_of
from srdd.comparison.pairing import VIEWS, Matched, Place, match
from srdd.comparison.ranks import Move, drawn_figures, moves
from srdd.documents.scan import Scan
from srdd.errors import InputError, unknown_name
from srdd.numerics.confidence import difference_intervals
from srdd.numerics.metrics import FIGURES, KL, METRICS
from srdd.numerics.sites import needs_prompts

_FIGURES = ("old", "new", "difference")


@dataclass(frozen=True)
class Side:
    """One of the two scans; `source` is its file, or what stands for it."""

    source: str
    scan: Scan


@dataclass(frozen=True)
class Row:
    """All metrics of a layer, a kind of tensor or a tensor, its records taken together."""

    place: Place
    differences: dict[str, Difference]

    @property
    def layer(self) -> int | None:
        """Index of the layer; None for a kind."""
        return self.place.layer

    @property
    def label(self) -> str:
        """What it is, in words; untrusted text."""
        return self.place.label


@dataclass(frozen=True, repr=False)
class Group:
    """One site in one format of each scan.

    Attributes:
        matched: the site, the formats, and which records were compared.
        basis: where the intervals come from.
        rows: in the order of the model.
        overall: the metrics of all these rows' added sums; None where a scan holds no sums.
        moves: rows that moved in rank by the comparison's metric, the farthest first.
        tau: Kendall's tau between the two orders; None where there is none.
    """

    matched: Matched
    basis: Basis
    rows: tuple[Row, ...]
    overall: dict[str, Difference] | None
    moves: tuple[Move, ...]
    tau: float | None

    def __repr__(self) -> str:
        each = self.matched
        site = each.site if each.operands is None else f"{each.site} ({each.operands})"
        formats = f"{each.old_format} -> {each.new_format}"
        return f"Group({site!r}, {formats}, rows={len(self.rows)})"

    def verdicts(self, metric: str) -> Counter[str]:
        """How many rows have each verdict."""
        return Counter(row.differences[metric].verdict for row in self.rows)

    def median(self, metric: str) -> float | None:
        """The median over rows of the difference; None where none is defined."""
        differences = [row.differences[metric].difference for row in self.rows]
        defined = [value for value in differences if value is not None]
        return statistics.median(defined) if defined else None


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two scans compared.

    Attributes:
        metric: what rows are ranked by.
        by: what a row is: a layer, a kind of tensor, or a tensor.
        remarks: what a reader has to know first, the warnings in front.
        left_out: what only one of them holds, in words.
        groups: at least one.
        costs: what quantizing linears costs, one for each pair of formats; none where a scan has no
            sensitivity. Their rows have the metric `kl` alone.
    """

    old: Side
    new: Side
    metric: str
    by: str
    remarks: tuple[Remark, ...]
    left_out: tuple[str, ...]
    groups: tuple[Group, ...]
    costs: tuple[Group, ...] = ()

    def __repr__(self) -> str:
        verdicts = sum((group.verdicts(self.metric) for group in self.groups), Counter[str]())
        counts = ", ".join(f"{count} {word}" for word, count in verdicts.most_common())
        return f"Comparison({list(self.groups)}, by {self.by}, {self.metric}: {counts})"

    def rows(self) -> list[dict[str, Any]]:
        """Every metric of every row, and of all rows together, as flat dictionaries.

        Returns:
            For each `site`, `operands`, `old_format`, `new_format`, `layer`, `tensor`, `metric`,
            `old`, `new`, `difference`, `low` and `high` (ends of the difference's 95 % interval)
            and `verdict`; None where there is none. `layer` and `tensor` are None for all rows
            together.
        """
        flat = []
        for group in self.groups:
            names = {
                name: getattr(group.matched, name)
                for name in ("site", "operands", "old_format", "new_format")
            }
            together = [] if group.overall is None else [Row(Place(None, None), group.overall)]
            for row in (*group.rows, *together):
                for each in row.differences.values():
                    low, high = each.interval or (None, None)
                    figures = {name: getattr(each, name) for name in ("metric", *_FIGURES)}
                    ends = {"low": low, "high": high, "verdict": each.verdict}
                    flat.append(names | vars(row.place) | figures | ends)
        return flat


def compare_scans(
    old: Scan,
    new: Scan,
    *,
    metric: str = "sqnr_db",
    by: str = "layer",
    sites: Sequence[str] = (),
    old_format: str | None = None,
    new_format: str | None = None,
    names: tuple[str, str] = ("OLD", "NEW"),
    seed: int = 0,
) -> Comparison:
    """Compare two scans: checkpoints, formats, or scale rules.

    Arguments:
        old, new: from `srdd.load_scan` or `srdd.scan_model`.
        metric: of srdd.numerics.metrics.FIGURES, what rows are ranked by. With `kl`, the groups are
            what quantizing both operands of linears costs.
        by: of VIEWS, what a row is.
        sites: only these; all that both have for none.
        old_format, new_format: which format of each; each that both have, if left out.
        names: what the two are called.
        seed: of the draws that tell which moves in rank are significant.

    Raises:
        UsageError: an unknown metric or view, or a site or format that is asked for is not there.
        InputError: nothing is left to compare.
    """
    if metric not in FIGURES:
        raise unknown_name("metric", metric, FIGURES)
    if by not in VIEWS:
        raise unknown_name("view", by, VIEWS)
    matched, left_out = match(old, new, sites=sites, old_format=old_format, new_format=new_format)
    paired = same_prompts(old, new)
    costs = tuple(_costs(old, new, matched, by, paired, seed))
    if metric == KL.name and not costs:
        raise InputError(
            "the two scans have no sensitivity to compare in a format",
            "scan both with --kl, in the formats to compare",
        )
    return Comparison(
        old=Side(names[0], old),
        new=Side(names[1], new),
        metric=metric,
        by=by,
        remarks=tuple(remarks(old, new, matched)),
        left_out=tuple(left_out),
        groups=costs
        if metric == KL.name
        else tuple(_group(each, by, paired, metric, seed) for each in matched),
        costs=costs,
    )


def _costs(
    old: Scan, new: Scan, matched: Sequence[Matched], by: str, paired: bool, seed: int
) -> Iterator[Group]:
    """What quantizing both operands costs, in each pair of formats that both scans have it in."""
    for formats in dict.fromkeys((each.old_format, each.new_format) for each in matched):
        tables = [
            cost_table(scan, spec, by) for scan, spec in zip((old, new), formats, strict=True)
        ]
        places = [place for place in tables[0] if place in tables[1]]
        if not places:
            continue
        sums = [np.stack([table[place] for place in places], axis=1) for table in tables]
        together = [np.stack([each[:, 0, 0], each[..., 1].sum(1)], axis=1) for each in sums]
        sums = [
            np.concatenate([each, whole[:, None]], axis=1)
            for each, whole in zip(sums, together, strict=True)
        ]
        found = cost_differences(*sums, paired=paired)
        drawn = drawn_figures(
            sums[0][:, :-1], sums[1][:, :-1], paired=paired, metric=KL.name, seed=seed
        )
        first, second = (KL.compute(each.sum(axis=0))[:-1] for each in sums)
        moved, tau = moves(places, first, second, KL.name, drawn)
        basis: Basis = "none" if drawn is None else "paired" if paired else "independent"
        yield Group(
            matched=Matched("linear", "both", *formats, ()),
            basis=basis,
            rows=tuple(
                Row(place, {KL.name: one}) for place, one in zip(places, found, strict=False)
            ),
            overall={KL.name: found[-1]},
            moves=tuple(moved),
            tau=tau,
        )


def _group(matched: Matched, by: str, paired: bool, metric: str, seed: int) -> Group:
    by_place = matched.rows(by)
    places = list(by_place)
    old = figures_of([[pair.old for pair in pairs] for pairs in by_place.values()])
    new = figures_of([[pair.new for pair in pairs] for pairs in by_place.values()])
    exact = not needs_prompts([matched.site])
    summed = old.replicates is not None and new.replicates is not None
    ends = drawn = None
    if not exact and old.replicates is not None and new.replicates is not None:
        ends = difference_intervals(old.replicates, new.replicates, paired=paired)
        drawn = drawn_figures(
            old.replicates[:, :-1],
            new.replicates[:, :-1],
            paired=paired,
            metric=metric,
            seed=seed,
        )

    def differences(row: int) -> dict[str, Difference]:
        return {
            name: difference(
                name,
                old.value(name, row),
                new.value(name, row),
                exact=exact,
                old_reproduced=bool(old.exact[row]),
                new_reproduced=bool(new.exact[row]),
                ends=None if ends is None else ends[0][name][row],
                new_ends=None if ends is None else ends[1][name][row],
            )
            for name in METRICS
        }

    moved, tau = moves(
        places,
        old.values[metric][:-1],
        new.values[metric][:-1],
        metric,
        drawn,
        exact=exact,
    )
    basis: Basis = "exact" if exact else "none"
    if ends is not None:
        basis = "paired" if paired else "independent"
    return Group(
        matched=matched,
        basis=basis,
        rows=tuple(Row(place, differences(row)) for row, place in enumerate(places)),
        overall=differences(len(places)) if summed else None,
        moves=tuple(moved),
        tau=tau,
    )
