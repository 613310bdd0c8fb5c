"""Several formats of one scan beside each other, and the layers where their order is another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from srdd.documents.pool import pool_groups, pool_layers
from srdd.documents.scan import Record, Scan
from srdd.errors import counted
from srdd.numerics.formats import parse_spec
from srdd.numerics.metrics import floor_of, product_floor_db
from srdd.reports.cells import relative_error, sqnr
from srdd.reports.fitted import NARROW, WIDE, Column, Fitted
from srdd.reports.text import number, percent, safe


def _order(figures: Mapping[str, float | None]) -> list[str]:
    """Formats from the highest SQNR down; one that reproduces exactly has none, and leads."""
    return sorted(
        figures,
        key=lambda spec: float("-inf") if figures[spec] is None else -(figures[spec] or 0.0),
    )


def flips(by_format: Mapping[str, Sequence[Record]]) -> list[tuple[int, list[str]]]:
    """Layers whose formats stand in another order by SQNR than in most layers.

    Arguments:
        by_format: for each format one record a layer, the layers in the same order.

    Returns:
        (layer, formats from the highest SQNR to the lowest) for each such layer.
    """
    orders = [
        (
            records[0].layer,
            _order({r.format + ":" + r.scale_rule: r.metrics.sqnr_db for r in records}),
        )
        for records in zip(*by_format.values(), strict=True)
    ]
    seen = [order for _, order in orders]
    usual = max(seen, key=seen.count)
    return [(layer, order) for layer, order in orders if order != usual]


def _flip_sentences(by_format: Mapping[str, Sequence[Record]]) -> str:
    layers = len(next(iter(by_format.values())))
    found = flips(by_format)
    if not found:
        return f"The order of the formats by SQNR is the same in {counted(layers, 'layer')}."
    named = "; ".join(f"layer {layer}: {' > '.join(order)}" for layer, order in found[:8])
    more = f"; and {len(found) - 8} more" if len(found) > 8 else ""
    return (
        f"The order of the formats by SQNR is another in {len(found)} of {layers}: {named}{more}."
    )


def format_comparison(scan: Scan, site: str) -> list[RenderableType]:
    """A row for each format at `site`, all layers pooled; nothing for a single format."""
    rounding, seed = scan.settings.rounding, scan.settings.seed
    records = {spec: scan.select(site, spec) for spec in scan.settings.formats}
    records = {spec: found for spec, found in records.items() if found}
    if len(records) < 2 or any(r.replicates is None for found in records.values() for r in found):
        return []
    pooled = pool_groups(records.values(), rounding=rounding, seed=seed)
    whole = dict(zip(records, pooled, strict=True))
    floors = [
        number(product_floor_db(floor_of(parse_spec(spec), rounding).sqnr_db, record.operands))
        for spec, record in whole.items()
    ]
    layers = {
        spec: pool_layers(found, rounding=rounding, seed=seed) for spec, found in records.items()
    }
    worst = [min((r for r in found), key=_sqnr_or_best) for found in layers.values()]
    which = "both operands, layers pooled" if site == "linear" else "layers pooled"
    return [
        Fitted(
            f"Formats at site {safe(site)} ({which})",
            [
                Column("format", [safe(spec) for spec in whole], justify="left"),
                Column("SQNR dB", [sqnr(record) for record in whole.values()]),
                Column("Gaussian", floors, WIDE),
                *_shares(list(whole.values())),
                Column("worst layer", [f"{r.layer} ({sqnr(r)})" for r in worst], justify="left"),
            ],
        ),
        Text(_flip_sentences(layers)),
    ]


def _shares(records: Sequence[Record]) -> list[Column]:
    if (
        records[0].operands is not None
    ):  # products have no deadzone, see srdd.numerics.sites.UNDEFINED
        ratios = [percent(r.metrics.relative_l1) for r in records]
        return [Column("sum|e|/sum|x| %", ratios, NARROW)]
    return [
        Column("dead %", [percent(r.metrics.deadzone) for r in records], NARROW),
        Column("sat. %", [percent(r.metrics.saturation, 2) for r in records], NARROW),
        Column("rel. err %", [relative_error(r) for r in records], NARROW),
    ]


def _sqnr_or_best(record: Record) -> float:
    value = record.metrics.sqnr_db
    return float("inf") if value is None else value
