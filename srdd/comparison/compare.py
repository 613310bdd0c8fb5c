"""The whole comparison of two scans: every metric of every row, and of all rows together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal

from srdd.comparison.comparability import remarks, same_prompts
from srdd.comparison.costs import cost_figures, cost_sums
from srdd.comparison.differences import Figures, difference, figures_of
from srdd.comparison.pairing import VIEWS, Matched, match
from srdd.comparison.ranks import drawn_figures, moves
from srdd.documents.comparison import (
    Comparison,
    Difference,
    Group,
    Place,
    Row,
    Selection,
    Side,
)
from srdd.documents.scan import Scan
from srdd.errors import InputError, unknown_name
from srdd.numerics.confidence import difference_intervals
from srdd.numerics.metrics import FIGURES, KL
from srdd.numerics.sites import needs_prompts


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
        metric: of srdd.numerics.metrics.FIGURES, what rows are ranked by.
        by: of VIEWS, what a row is.
        sites: only these; all that both have for none.
        old_format, new_format: which format of each; each that both have, if left out.
        names: what the two are called.
        seed: of the draws that tell which moves in rank are significant.

    Returns:
        The comparison, without gates: `srdd.comparison.judge` applies these.

    Raises:
        UsageError: an unknown metric or view, or a site or format that is asked for is not there.
        InputError: nothing is left to compare.
    """
    if metric not in FIGURES:
        raise unknown_name("metric", metric, FIGURES)
    if by not in VIEWS:
        raise unknown_name("view", by, VIEWS)
    matched, left_out = match(old, new, sites=sites, old_format=old_format, new_format=new_format)
    group = partial(_group, metric=metric, paired=same_prompts(old, new), seed=seed)
    costs = tuple(group(*each) for each in _costs(old, new, matched, by))
    if metric == KL.name and not costs:
        raise InputError(
            "the two scans have no sensitivity to compare in a format",
            "scan both with `kl`, in the formats to compare",
        )
    return Comparison(
        old=_side(names[0], old),
        new=_side(names[1], new),
        remarks=tuple(remarks(old, new, matched)),
        left_out=tuple(left_out),
        ranked_by=metric,
        by=by,
        groups=tuple(group(*each) for each in _errors(matched, by)),
        costs=costs,
    )


def _side(source: str, scan: Scan) -> Side:
    return Side(
        source=source,
        model=scan.model.name,
        revision=scan.model.revision,
        dtype=scan.model.dtype,
        layers=len(scan.model.layers),
        fingerprint=scan.model.fingerprint,
        calibration_fingerprint=scan.calibration.fingerprint,
        prompts=scan.calibration.prompts,
        tokens=scan.calibration.tokens,
    )


_Rows = tuple[Selection, list[Place], Figures, Figures]
"""What is compared: rows, and their figures in OLD and in NEW."""


def _errors(matched: Sequence[Matched], by: str) -> Iterator[_Rows]:
    for each in matched:
        rows = each.rows(by)
        old, new = (
            figures_of([[pair[side] for pair in pairs] for pairs in rows.values()])
            for side in (0, 1)
        )
        yield each.selection, list(rows), old, new


def _costs(old: Scan, new: Scan, matched: Sequence[Matched], by: str) -> Iterator[_Rows]:
    """What quantizing both operands costs, in each pair of formats that both scans have it in."""
    selections = [each.selection for each in matched]
    for formats in dict.fromkeys((each.old_format, each.new_format) for each in selections):
        first, second = cost_sums(old, formats[0], by), cost_sums(new, formats[1], by)
        places = [place for place in first if place in second]
        if places:
            selection = Selection(
                site="linear", operands="both", old_format=formats[0], new_format=formats[1]
            )
            ours, theirs = (cost_figures([sums[p] for p in places]) for sums in (first, second))
            yield selection, places, ours, theirs


def _group(
    selection: Selection,
    places: Sequence[Place],
    old: Figures,
    new: Figures,
    *,
    metric: str,
    paired: bool,
    seed: int,
) -> Group:
    (old_values, old_sums), (new_values, new_sums) = old, new
    exact = not needs_prompts([selection.site])
    ranked_by = metric if metric in old_values else next(iter(old_values))
    ends = drawn = overall = None
    if not exact and old_sums is not None and new_sums is not None:
        ends = difference_intervals(old_sums, new_sums, old_values, paired=paired)
        rows = old_sums[:, :-1], new_sums[:, :-1]
        drawn = drawn_figures(*rows, paired=paired, metric=ranked_by, seed=seed)

    def differences(row: int) -> dict[str, Difference]:
        return {
            name: difference(
                name,
                float(values[row]),
                float(new_values[name][row]),
                exact=exact,
                ends=None if ends is None else ends[0][name][row],
                new_ends=None if ends is None else ends[1][name][row],
            )
            for name, values in old_values.items()
        }

    if old_sums is not None and new_sums is not None:
        overall = differences(len(places))
    ranked = old_values[ranked_by][:-1], new_values[ranked_by][:-1]
    moved, tau = moves(places, *ranked, ranked_by, drawn, exact=exact)
    intervals: Literal["paired", "independent", "exact", "none"] = "exact" if exact else "none"
    if ends is not None:
        intervals = "paired" if paired else "independent"
    return Group(
        **vars(selection),
        intervals=intervals,
        overall=overall,
        rows=tuple(Row(**vars(place), metrics=differences(n)) for n, place in enumerate(places)),
        moved_in_rank=tuple(moved),
        kendall_tau=tau,
    )
