"""A scan as tables for a terminal, and the order of its layers in words."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType

from srdd.documents.scan import Ranking, Record, Scan
from srdd.errors import InputError
from srdd.numerics.metrics import METRICS
from srdd.reports.groups import groups_of
from srdd.reports.scan_view import heading, scan_blocks
from srdd.reports.sensitivity_view import sensitivity_blocks
from srdd.reports.terminal import render
from srdd.reports.view import Table, Text


def worst(records: Sequence[Record], metric: str, count: int) -> list[Record]:
    """The `count` worst records by a metric, worst first; ties in order of layers."""
    sign = METRICS[metric].sign
    defined = [r for r in records if getattr(r.metrics, metric) is not None]
    return sorted(defined, key=lambda r: (sign * getattr(r.metrics, metric), r.layer))[:count]


def ranking_sentence(ranking: Ranking) -> str:
    """How stable the order of layers is, in words."""
    name = METRICS[ranking.metric].title
    spread = "" if ranking.spread is None else f"; layers spread by {100 * ranking.spread:.1f} %"
    if ranking.site == "weight":
        return f"Ranking by {name}: exact, since weights depend on no prompt{spread}."
    if ranking.tau_halves is None or ranking.top_k_change is None:
        return f"Ranking by {name}: its stability needs at least two prompts and differing layers."
    return (
        f"Ranking by {name}: Kendall's tau between halves of the prompts "
        f"{ranking.tau_halves:.2f}; the set of the worst {ranking.top_k} differs in "
        f"{100 * ranking.top_k_change:.0f} % of resamples{spread}."
    )


def scan_tables(
    scan: Scan, by: str = "tensor", *, everything: bool = False
) -> list[RenderableType]:
    """What a terminal shows of a scan; arguments as in `scan_blocks`."""
    try:
        groups = groups_of(scan)
    except InputError:
        return render([Text(heading(scan), "heading"), Table("Measured", (), ())])
    blocks = scan_blocks(groups, by, everything=everything)
    if scan.sensitivity is not None:
        blocks += sensitivity_blocks(scan, by, everything=everything)
    return render(blocks)
