"""The whole comparison of two scans: every metric of every layer, and of all layers together."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from srdd.comparison.comparability import Remark, remarks, same_prompts
from srdd.comparison.differences import Basis, Difference, Resampled, difference, resample
from srdd.comparison.figures import figures_of
from srdd.comparison.pairing import Matched, match
from srdd.comparison.ranks import Move, moves
from srdd.documents.scan import Scan
from srdd.errors import unknown_name
from srdd.numerics.metrics import METRICS
from srdd.numerics.sites import needs_prompts


@dataclass(frozen=True)
class Side:
    """One of the two scans, as a reader has to know it.

    Attributes:
        source: the file, or what stands for it.
    """

    source: str
    scan: Scan


@dataclass(frozen=True)
class Layer:
    """All metrics of one layer, its tensors taken together."""

    layer: int
    differences: dict[str, Difference]


@dataclass(frozen=True)
class Group:
    """One site in one format of each scan.

    Attributes:
        matched: the site, the formats, and which records were held against each other.
        basis: where the intervals come from.
        layers: in order.
        overall: the metrics of all these layers' added sums; None where a scan holds no sums.
        moves: layers that moved in rank by the comparison's metric, the farthest first.
        tau: Kendall's tau between the two orders; None where there is none.
    """

    matched: Matched
    basis: Basis
    layers: tuple[Layer, ...]
    overall: dict[str, Difference] | None
    moves: tuple[Move, ...]
    tau: float | None

    def verdicts(self, metric: str) -> Counter[str]:
        """How many layers have each verdict."""
        return Counter(layer.differences[metric].verdict for layer in self.layers)

    def median(self, metric: str) -> float | None:
        """The median over layers of the difference; None where none is defined."""
        found = [layer.differences[metric].difference for layer in self.layers]
        known = [value for value in found if value is not None]
        return statistics.median(known) if known else None


@dataclass(frozen=True)
class Comparison:
    """Two scans held against each other.

    Attributes:
        metric: what layers are ranked by.
        remarks: what a reader has to know first, the loud ones in front.
        left_out: what only one of them holds, in words.
        groups: at least one.
    """

    old: Side
    new: Side
    metric: str
    remarks: tuple[Remark, ...]
    left_out: tuple[str, ...]
    groups: tuple[Group, ...]


def compare_scans(
    old: Scan,
    new: Scan,
    *,
    metric: str = "sqnr_db",
    sites: Sequence[str] = (),
    old_format: str | None = None,
    new_format: str | None = None,
    names: tuple[str, str] = ("OLD", "NEW"),
    seed: int = 0,
) -> Comparison:
    """Hold two scans against each other: checkpoints, formats, or scale rules.

    Arguments:
        old, new: from `srdd.load_scan` or `srdd.scan_model`.
        metric: of srdd.numerics.metrics.METRICS, what layers are ranked by.
        sites: only these; all that both hold for none.
        old_format, new_format: which format of each; each that both hold, if left out.
        names: what the two are called.
        seed: of the bootstrap.

    Raises:
        UsageError: an unknown metric, or a site or format that is asked for is not there.
        InputError: nothing is left to compare.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    matched, left_out = match(old, new, sites=sites, old_format=old_format, new_format=new_format)
    paired = same_prompts(old, new)
    return Comparison(
        old=Side(names[0], old),
        new=Side(names[1], new),
        metric=metric,
        remarks=tuple(remarks(old, new, matched)),
        left_out=tuple(left_out),
        groups=tuple(_group(one, paired, metric, seed) for one in matched),
    )


def _group(matched: Matched, paired: bool, metric: str, seed: int) -> Group:
    old = figures_of([pair.old for pair in matched.layers])
    new = figures_of([pair.new for pair in matched.layers])
    drawn: Resampled | None = None
    basis: Basis = "none"
    exact = not needs_prompts([matched.site])
    if exact:
        basis = "exact"
    elif old.replicates is not None and new.replicates is not None:
        drawn = resample(old.replicates, new.replicates, paired=paired, metric=metric, seed=seed)
        basis = "none" if drawn is None else "paired" if paired else "apart"

    def differences(place: int) -> dict[str, Difference]:
        return {
            name: difference(
                name,
                old.value(name, place),
                new.value(name, place),
                exact=exact,
                old_reproduced=bool(old.reproduced[place]),
                new_reproduced=bool(new.reproduced[place]),
                ends=None if drawn is None else drawn.difference[name][place],
                new_ends=None if drawn is None else drawn.new[name][place],
            )
            for name in METRICS
        }

    indices = [pair.layer for pair in matched.layers]
    summed = old.replicates is not None and new.replicates is not None
    moved, tau = moves(
        indices,
        old.values[metric][:-1],
        new.values[metric][:-1],
        metric,
        None if drawn is None else (drawn.old_draws[:, :-1], drawn.new_draws[:, :-1]),
        exact=exact,
    )
    return Group(
        matched=matched,
        basis=basis,
        layers=tuple(Layer(layer, differences(place)) for place, layer in enumerate(indices)),
        overall=differences(len(indices)) if summed else None,
        moves=tuple(moved),
        tau=tau,
    )
