"""A noise configuration as a table for a terminal: each layer's error beside the noise it gets.

Above it stands what was asked for and what is recommended, below it noise energy and warnings.
Columns that do not fit are left out and named; no figure is ever cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from srdd.documents.rin import LayerNoise, RinConfig
from srdd.documents.scan import Scan
from srdd.noise import Figures, figures_of
from srdd.noise.recommendation import summary
from srdd.noise.zones import by_depth, zone_of
from srdd.reports.text import bar, number, safe, with_half_width

BAR_CELLS = 8
_TITLES = {
    "relative_error": ("rel. err %", "err %", 100.0, 1),
    "relative_l1": ("rel. L1 %", "L1 %", 100.0, 1),
    "deadzone": ("dead %", "dead %", 100.0, 1),
    "sqnr_db": ("SQNR dB", "dB", 1.0, 2),
    "vs_floor_db": ("vs floor dB", "floor", 1.0, 2),
}
"""Title, short title, factor and decimals of the metric's column."""

_INTERVALS_FROM, _ZONES_FROM, _BARS_FROM = 48, 60, 72
"""Widths from which on there is room for them."""


def rin_tables(config: RinConfig, scan: Scan) -> list[RenderableType]:
    """The parts to print, in order.

    Arguments:
        config: what to show.
        scan: the one it was made from.
    """
    figures = figures_of(
        scan,
        site=config.source.site,
        format=f"{config.source.format}:{config.source.scale_rule}",
        metric=config.source.metric,
    )
    return [
        _recommendation(config),
        Text(f"\n{_title(config)}", style="bold underline"),
        LayerNoiseTable(config, figures),
        Text(_energy(config)),
        *_warnings(config),
    ]


def _title(config: RinConfig) -> str:
    name = config.strategy if config.control is None else f"{config.control} {config.strategy}"
    source = config.source
    return f"{name}: {safe(source.model, longest=60)}, {source.format}:{source.scale_rule}"


def _recommendation(config: RinConfig) -> Text:
    style = "bold yellow" if config.recommendation.strategy != config.label else "bold"
    return Text(summary(config), style=style)


def _energy(config: RinConfig) -> str:
    energy = config.energy
    weights = "" if energy.weights is None else f" of {energy.weights:,} weights"
    return (
        f"noise energy{weights}: {energy.first_stage:.3g} at the first noisy stage; over the run "
        f"{energy.relative_to_uniform:.3g} times that of uniform noise"
    )


def _warnings(config: RinConfig) -> list[RenderableType]:
    items = Table.grid(padding=(0, 1, 0, 0))
    for text in config.warnings:
        items.add_row("-", Text(safe(text, longest=1000)))
    title = Text("\nWarnings", style="bold underline")
    return [title, items]


@dataclass(frozen=True)
class _Row:
    layer: int
    zone: str
    value: str
    with_interval: str
    noise: LayerNoise | None
    quantization: float | None


class LayerNoiseTable:
    """The table, with as many columns as there is room for."""

    def __init__(self, config: RinConfig, figures: Figures) -> None:
        self._metric = _TITLES[config.source.metric]
        self._rows = _rows(config, figures, self._metric)
        self._largest = max(entry.sigma for entry in config.layers)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width = options.max_width
        wide = width >= _INTERVALS_FROM
        columns: list[tuple[str, Sequence[str], bool]] = [
            ("layer", [str(row.layer) for row in self._rows], False)
        ]
        if width >= _ZONES_FROM:
            columns.append(("zone", [row.zone for row in self._rows], True))
        values = [row.with_interval if wide else row.value for row in self._rows]
        columns.append((self._metric[0] if wide else self._metric[1], values, False))
        columns += [
            ("x", [_multiplier(row.noise) for row in self._rows], False),
            ("sigma", [_sigma(row.noise) for row in self._rows], False),
            ("noise", [_noise(row.noise) for row in self._rows], False),
            ("quant", [number(row.quantization) for row in self._rows], False),
        ]
        if width >= _BARS_FROM:
            shares = [row.noise.sigma / self._largest if row.noise else 0.0 for row in self._rows]
            drawn = [bar(share, BAR_CELLS, ascii_only=options.ascii_only) for share in shares]
            columns.append(("", drawn, True))
        table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", pad_edge=False)
        for name, _, left in columns:
            table.add_column(name, justify="left" if left else "right", no_wrap=True)
        for cells in zip(*(cells for _, cells, _ in columns), strict=True):
            table.add_row(*cells)
        yield table
        yield Text(
            "x: factor on sigma; sigma: at the first noisy stage; noise: signal over that noise, "
            "dB; quant: SQNR that quantization leaves, dB (higher is cleaner)",
            style="dim",
        )
        intervals = any(row.with_interval != row.value for row in self._rows)
        hidden = ["intervals"] if intervals and not wide else []
        hidden += ["zone"] if width < _ZONES_FROM else []
        if hidden:
            yield Text(f"(a wider terminal also shows: {', '.join(hidden)})", style="dim")


def _rows(config: RinConfig, figures: Figures, metric: tuple[str, str, float, int]) -> list[_Row]:
    zones = by_depth(len(figures))
    names = {layer: zone_of(zones, layer).name for layer in range(len(figures))}
    if config.strategy == "zone":
        names = dict.fromkeys(names, "-") | {
            entry.layer: tier.name for tier in config.tiers for entry in tier.layers
        }
    noisy = {entry.layer: entry for entry in config.layers}
    *_, scale, digits = metric
    return [
        _Row(
            layer=layer,
            zone=names[layer],
            value=number(scale * value, digits),
            with_interval=with_half_width(
                value, figures.intervals[layer], digits=digits, scale=scale
            ),
            noise=noisy.get(layer),
            quantization=figures.sqnr_db[layer],
        )
        for layer, value in enumerate(figures.values)
    ]


def _multiplier(noise: LayerNoise | None) -> str:
    return "-" if noise is None else f"{noise.multiplier:.2f}"


def _sigma(noise: LayerNoise | None) -> str:
    return "none" if noise is None else f"{noise.sigma:.3g}"


def _noise(noise: LayerNoise | None) -> str:
    return "-" if noise is None else number(noise.signal_to_noise_db)
