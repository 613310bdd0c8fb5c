"""A scan as tables for a terminal: overall, layer by layer, the worst, the zones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from rich.console import RenderableType
from rich.text import Text

from srdd.documents.pool import pool_layers
from srdd.documents.scan import Ranking, Record, Scan
from srdd.errors import counted
from srdd.noise.zones import Zone, by_depth, zone_of
from srdd.numerics.formats import parse_spec
from srdd.numerics.metrics import METRICS, Floor, Thresholds, floor_of
from srdd.reports.cells import distance, relative_error, sqnr, token_sqnr
from srdd.reports.comparison import format_comparison
from srdd.reports.fitted import NARROW, WIDE, Column, Fitted, Share
from srdd.reports.operands import legend, operand_tables
from srdd.reports.tensors import kind_table, tensor_table, worst_tensors
from srdd.reports.text import number, percent, safe
from srdd.reports.verdict import STYLES, status, thresholds_of, verdict

_NAMES = {
    "sqnr_db": "SQNR dB",
    "deadzone": "deadzone %",
    "saturation": "saturation %",
    "relative_error": "rel. error %",
    "relative_l1": "sum|e|/sum|x| %",
}

SATURATION = "sat. %"


def _values(records: Sequence[Record], metric: str) -> list[float]:
    found = [getattr(record.metrics, metric) for record in records]
    return [value for value in found if value is not None]


def _overall(
    records: Sequence[Record], thresholds: Thresholds, floor: Floor, layers: int
) -> Fitted:
    names, low, high, mean, limits, floors, words = [], [], [], [], [], [], []
    for metric, title in _NAMES.items():
        values = _values(records, metric)
        scale = 1.0 if metric == "sqnr_db" else 100.0
        digits = 2 if metric == "saturation" else 1
        names.append(title)
        if values:
            scaled = scale * np.array(values)
            low.append(f"{scaled.min():.{digits}f}")
            high.append(f"{scaled.max():.{digits}f}")
            mean.append(f"{scaled.mean():.{digits}f} ±{scaled.std():.{digits}f}")
        else:
            for cells in (low, high, mean):
                cells.append("-")
        limit = getattr(thresholds, metric, None)
        sign = "<" if METRICS[metric].higher_is_better else ">"
        limits.append("" if limit is None else f"{sign}{scale * limit:g}")
        floors.append(f"{scale * getattr(floor, metric):.{digits}f}")
        failing = sum(metric in thresholds.breaches(dict(record.metrics)) for record in records)
        undefined = layers - len(values)
        words.append(
            ""
            if limit is None
            else status(failing, layers) + (f", {undefined} undefined" if undefined else "")
        )
    return Fitted(
        "Over all layers",
        [
            Column("metric", names, justify="left"),
            Column("min", low),
            Column("max", high),
            Column("mean ±std", mean, NARROW),
            Column("flagged", limits, NARROW),
            Column("Gaussian", floors, WIDE - 8),
            Column("status", words, WIDE - 8, "left"),
        ],
    )


def _layer_columns(
    records: Sequence[Record], zones: tuple[Zone, ...], thresholds: Thresholds
) -> list[Column]:
    words = [verdict(record, thresholds) for record in records]
    largest = max(_values(records, "relative_error"), default=0.0) or 1.0
    shares = [(record.metrics.relative_error or 0.0) / largest for record in records]
    return [
        Column("layer", [str(record.layer) for record in records]),
        Column("zone", [zone_of(zones, r.layer).name for r in records], NARROW, "left"),
        Column("SQNR dB", [sqnr(record) for record in records]),
        Column("vs floor", [distance(record) for record in records], WIDE),
        Column("tokens 5 50 95 %", [token_sqnr(record) for record in records], WIDE + 20),
        Column("dead %", [percent(r.metrics.deadzone) for r in records], NARROW),
        Column(SATURATION, [percent(r.metrics.saturation, 2) for r in records], NARROW),
        Column("rel. err %", [relative_error(record) for record in records]),
        Column("", [Share(share) for share in shares], WIDE + 1, "left"),
        Column("verdict", [Text(word, STYLES[word]) for word in words], justify="left"),
    ]


def worst(records: Sequence[Record], metric: str, count: int) -> list[Record]:
    """The `count` worst records by a metric, worst first; ties in order of layers."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0
    defined = [r for r in records if getattr(r.metrics, metric) is not None]
    return sorted(defined, key=lambda r: (sign * getattr(r.metrics, metric), r.layer))[:count]


def _zone_table(records: Sequence[Record], zones: tuple[Zone, ...]) -> Fitted:
    rows = [(zone, [r for r in records if r.layer in zone.layers]) for zone in zones]
    rows = [(zone, inside) for zone, inside in rows if inside]

    def means(metric: str) -> list[str]:
        found = [_values(inside, metric) for _, inside in rows]
        scale = 1.0 if metric == "sqnr_db" else 100.0
        return [number(scale * float(np.mean(values)) if values else None) for values in found]

    return Fitted(
        "By zone (means over layers)",
        [
            Column("zone", [zone.name for zone, _ in rows], justify="left"),
            Column("layers", [f"{zone.first}-{zone.last}" for zone, _ in rows]),
            Column("rel. err %", means("relative_error")),
            Column("dead %", means("deadzone")),
            Column("SQNR dB", means("sqnr_db"), NARROW),
        ],
    )


def ranking_sentence(ranking: Ranking) -> str:
    """How stable the order of layers is, in words."""
    name = {
        "relative_error": "relative error",
        "relative_l1": "relative L1 error",
        "sqnr_db": "SQNR",
    }.get(ranking.metric, ranking.metric)
    if ranking.site == "weight":
        spread = (
            "" if ranking.spread is None else f"; layers spread by {100 * ranking.spread:.1f} %"
        )
        return f"Ranking by {name}: exact, since weights depend on no prompt{spread}."
    if ranking.tau_halves is None or ranking.top_k_change is None:
        return f"Ranking by {name}: its stability needs at least two prompts and differing layers."
    spread = "" if ranking.spread is None else f"; layers spread by {100 * ranking.spread:.1f} %"
    return (
        f"Ranking by {name}: Kendall's tau between halves of the prompts "
        f"{ranking.tau_halves:.2f}; the set of the worst {ranking.top_k} differs in "
        f"{100 * ranking.top_k_change:.0f} % of resamples{spread}."
    )


def _heading(scan: Scan, site: str, spec: str) -> Text:
    model, text = scan.model, scan.calibration
    name = safe(model.name, longest=1000)
    facts = [name if len(name) <= 60 else f"…{name[-59:]}"]  # of a path, its end tells most
    facts += [safe(value) for value in (model.architecture, model.dtype) if value]
    facts.append(counted(len(model.layers), "layer"))
    if text.prompts is not None and text.tokens is not None:
        facts.append(f"{counted(text.prompts, 'prompt')}, {counted(text.tokens, 'token')}")
    rounding = "" if scan.settings.rounding == "even" else f", rounding {scan.settings.rounding}"
    facts.append(f"{safe(spec)}{rounding}, site {safe(site)}")
    return Text(" | ".join(facts))


def _group(scan: Scan, site: str, spec: str, by: str) -> list[RenderableType]:
    records = scan.select(site, spec)
    parts: list[RenderableType] = [_heading(scan, site, spec)]
    if not records:
        return [*parts, Text("nothing was measured here")]
    if site == "linear":
        rankings = [Text(s) for s in _ranking_sentences(scan, site, spec)]
        return [*parts, *operand_tables(scan, spec, by), Text(""), *rankings, Text(legend(spec))]
    zones = by_depth(len(scan.model.layers))
    thresholds = thresholds_of(scan)
    rounding, seed = scan.settings.rounding, scan.settings.seed
    floor = floor_of(parse_spec(spec), rounding)
    layers = records
    several = len({record.layer for record in records}) < len(records)
    if several and by == "tensor":
        return [*parts, tensor_table(records, thresholds)]
    if several and by == "kind":
        return [*parts, kind_table(records, rounding, seed)]
    if several:
        layers = pool_layers(records, rounding=rounding, seed=seed)
    parts.append(_overall(layers, thresholds, floor, len(layers)))
    columns = _layer_columns(layers, zones, thresholds)
    if several:
        # In place of the bars; saturation gives way where there is no room for both.
        columns = [
            worst_tensors(records)
            if not column.title
            else replace(column, from_width=WIDE + 8)
            if column.title == SATURATION
            else column
            for column in columns
        ]
    parts.append(Fitted("Layer by layer" + (", tensors pooled" if several else ""), columns))
    by_error = worst(layers, "relative_error", 10)
    by_sqnr = worst(layers, "sqnr_db", 5)
    parts.append(_worst_table("Worst by relative error", by_error, zones))
    parts.append(_worst_table("Worst by SQNR", by_sqnr, zones))
    parts.append(_zone_table(layers, zones))
    parts.append(Text(""))
    return [*parts, *map(Text, _ranking_sentences(scan, site, spec))]


def _ranking_sentences(scan: Scan, site: str, spec: str) -> list[str]:
    return [
        ranking_sentence(ranking)
        for ranking in scan.rankings
        if (ranking.site, f"{ranking.format}:{ranking.scale_rule}") == (site, spec)
        and ranking.operands in (None, "both")
    ]


def _worst_table(title: str, records: Sequence[Record], zones: tuple[Zone, ...]) -> Fitted:
    return Fitted(
        title,
        [
            Column("rank", [str(place) for place in range(1, len(records) + 1)]),
            Column("layer", [str(record.layer) for record in records]),
            Column("rel. err %", [relative_error(record) for record in records]),
            Column("dead %", [percent(r.metrics.deadzone) for r in records], NARROW),
            Column("SQNR dB", [sqnr(record) for record in records]),
            Column("zone", [zone_of(zones, r.layer).name for r in records], NARROW, "left"),
        ],
    )


def scan_tables(scan: Scan, by: str = "layer") -> list[RenderableType]:
    """Everything a person sees of a scan, in order, for each site and format.

    Arguments:
        by: of srdd.reports.tensors.VIEWS: how sites with several tensors in a layer are shown.
    """
    parts: list[RenderableType] = []
    for site in scan.settings.sites:
        for spec in scan.settings.formats:
            parts += [Text("")] if parts else []
            parts += _group(scan, site, spec, by)
        parts += format_comparison(scan, site)
    parts.append(Text(""))
    parts.append(
        Text(
            "Verdicts: ok = no threshold breached; at floor = breached, but at most 1 dB below "
            "what Gaussian data gets in this format; poor, bad = more than 1, 3 dB below that; "
            "broken = NaN or infinite values.",
            style="dim",
        )
    )
    for missing in scan.not_measured:
        where = f" (site {safe(missing.site)})" if missing.site else ""
        parts.append(Text(f"not measured: {safe(missing.module)}{where}: {safe(missing.reason)}"))
    return parts
