"""A noise configuration as blocks: what the scan supports, each layer's error beside its noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from srdd.documents.rin import LayerNoise, RinConfig
from srdd.documents.scan import Scan
from srdd.noise import figures_of
from srdd.noise.recommendation import summary
from srdd.noise.zones import by_depth, zone_of
from srdd.numerics.metrics import METRICS
from srdd.reports.scan_view import DISTANCE
from srdd.reports.sensitivity_view import KL
from srdd.reports.view import INDEX, Block, Column, Estimate, Field, Measure, Table, Text, tabulate

_DECIBELS = Measure("dB", digits=1)
_TIMES = Measure(digits=2)

NOTE = (
    "multiplier: factor on sigma; sigma: at the first noisy stage; noise: signal over that noise; "
    "quantization: the SQNR that it leaves. Higher is cleaner."
)


@dataclass(frozen=True)
class _Row:
    layer: int
    value: Estimate
    quantization: float | None
    zone: str
    noise: LayerNoise | None


def suggestion_blocks(config: RinConfig, scan: Scan) -> list[Block]:
    """What `srdd suggest` shows beside the configuration that it writes.

    Arguments:
        config: what to show.
        scan: the one it was made from.
    """
    return [
        Text(summary(config), "answer"),
        _layers(config, scan),
        Text(_energy(config)),
        *_warnings(config),
    ]


def _layers(config: RinConfig, scan: Scan) -> Table:
    source = config.source
    spec = f"{source.format}:{source.scale_rule}"
    figures = figures_of(scan, site=source.site, format=spec, metric=source.metric)
    zones = by_depth(len(figures))
    names = {layer: zone_of(zones, layer).name for layer in range(len(figures))}
    if config.strategy == "zone":
        tiers = {entry.layer: tier.name for tier in config.tiers for entry in tier.layers}
        names = {layer: tiers.get(layer, "none") for layer in names}
    noise = {entry.layer: entry for entry in config.layers}
    rows = [
        _Row(
            layer,
            Estimate(value, figures.intervals[layer]),
            figures.records[layer].metrics.sqnr_db,
            names[layer],
            noise.get(layer),
        )
        for layer, value in enumerate(figures.values)
    ]
    name = config.strategy if config.control is None else f"{config.control} {config.strategy}"
    fields = [
        Field[_Row](Column("layer", INDEX), lambda row: row.layer),
        Field[_Row](Column("zone", align="left", priority=4), lambda row: row.zone),
        Field[_Row](
            _metric_column(source.metric),
            lambda row: row.value,
        ),
        Field[_Row](
            Column("multiplier", _TIMES, priority=1),
            lambda row: row.noise.multiplier if row.noise else None,
        ),
        Field[_Row](
            Column("sigma", Measure(digits=4), priority=1),
            lambda row: row.noise.sigma if row.noise else None,
        ),
        Field[_Row](
            Column("noise", _DECIBELS, priority=2),
            lambda row: row.noise.signal_to_noise_db if row.noise else None,
        ),
        Field[_Row](Column("quantization", _DECIBELS, priority=3), lambda row: row.quantization),
    ]
    title = f"{name}: {source.model}, {spec}, site {source.site}"
    return tabulate(title, fields, rows, [NOTE])


def _metric_column(metric: str) -> Column:
    if metric in METRICS:
        return Column(METRICS[metric].label, Measure.of(metric))
    if metric == "kl":
        return Column("KL", KL)
    return Column("vs floor", DISTANCE)


def _energy(config: RinConfig) -> str:
    energy = config.energy
    weights = "" if energy.weights is None else f" of {energy.weights:,} weights"
    return (
        f"noise energy{weights}: {energy.first_stage:.3g} at the first noisy stage; over the run "
        f"{energy.relative_to_uniform:.3g} times that of uniform noise"
    )


def _warnings(config: RinConfig) -> Iterator[Text]:
    for text in config.warnings:
        yield Text(text, "warning")


def multipliers_table(configs: Mapping[str, RinConfig]) -> Table:
    """What each strategy multiplies a layer's sigma with; 0 is no noise."""
    first = next(iter(configs.values()))
    by_name = {
        name: {entry.layer: entry.multiplier for entry in config.layers}
        for name, config in configs.items()
    }

    def strategy(name: str) -> Field[int]:
        return Field(Column(name, _TIMES), lambda layer: by_name[name].get(layer, 0.0))

    fields = [Field[int](Column("layer", INDEX), lambda layer: layer), *map(strategy, by_name)]
    layers = range(first.source.layers)
    return tabulate("Multipliers on sigma", fields, list(layers), details=True)
