"""A noise configuration as blocks: what the scan supports, each layer's error beside its noise,
and what the noise costs the predictions in each stage.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from srdd.documents.rin import LayerNoise, RinConfig
from srdd.documents.scan import Scan
from srdd.noise.figures import KL as BY_KL
from srdd.noise.figures import LOCAL, NOISE, Figures, agreement_of, figures_of
from srdd.noise.recommendation import LEAST_TAU, summary
from srdd.noise.zones import by_depth, zone_of
from srdd.numerics.metrics import METRICS
from srdd.reports.rows import operand_label
from srdd.reports.scan_view import DISTANCE
from srdd.reports.sensitivity_view import KL
from srdd.reports.view import (
    INDEX,
    Block,
    Cell,
    Chart,
    Column,
    Estimate,
    Field,
    Measure,
    Series,
    Table,
    Text,
    tabulate,
)

_DECIBELS = Measure("dB", digits=1)
_PERCENT = Measure("%", scale=100.0, digits=1)
_TIMES = Measure(digits=2)
_SIGMA = Measure(digits=4)
_ENERGY = Measure()

NOTE = (
    "multiplier: factor on sigma; sigma: at the first noisy stage; noise: signal over that noise; "
    "quantization: the SQNR that it leaves. Higher is cleaner."
)


_Arm = tuple[str, RinConfig]


@dataclass(frozen=True)
class _Row:
    layer: int
    value: Estimate
    quantization: float | None
    zone: str
    noise: LayerNoise | None
    kl: Estimate
    share: float | None


def suggestion_blocks(config: RinConfig, scan: Scan) -> list[Block]:
    """What `srdd suggest` shows beside the configuration that it writes.

    Arguments:
        config: what to show.
        scan: the one it was made from.
    """
    blocks: list[Block] = [Text(summary(config), "answer")]
    if config.kl is not None:
        blocks.append(Text(_cost(config)))
    if text := _ranking(config, scan):
        blocks.append(Text(text))
    blocks.append(_layers(config, scan))
    if config.kl is not None:
        blocks.append(_stages(config, scan))
    return [*blocks, Text(_energy(config)), *_warnings(config)]


def _label(config: RinConfig) -> str:
    """Quantizing both operands in the configuration's format: `W4A4`."""
    return operand_label(_spec(config), "both")


def _spec(config: RinConfig) -> str:
    return f"{config.source.format}:{config.source.scale_rule}"


def _ranking(config: RinConfig, scan: Scan) -> str:
    """What layers are ranked by, where that is their cost and local errors rank otherwise."""
    source = config.source
    if source.metric != BY_KL or config.strategy not in ("targeted", "variable", "zone"):
        return ""
    figures = figures_of(scan, site=source.site, format=_spec(config), metric=BY_KL)
    tau = agreement_of(figures, LOCAL)
    text = "Layers are ranked by what quantizing them costs the predictions (kl)"
    if tau is None or tau >= LEAST_TAU:
        return f"{text}."
    return f"{text}; by {LOCAL} their order is another one (Kendall's tau {tau:.2f})."


def _figures(config: RinConfig, scan: Scan) -> Figures:
    """The figures whose values the configuration holds, with their intervals."""
    source, spec = config.source, _spec(config)
    if source.metric == NOISE:
        from srdd.noise.costs import noise_costs
        from srdd.noise.targets import targets_of

        targets = targets_of(scan, config.layer_type, config.exclude_patterns)
        figures = figures_of(scan, site=source.site, format=spec, metric=BY_KL)
        return noise_costs(scan, targets).figures(scan, figures.records)
    return figures_of(scan, site=source.site, format=spec, metric=source.metric)


def _layers(config: RinConfig, scan: Scan) -> Table:
    source = config.source
    figures = _figures(config, scan)
    zones = by_depth(len(figures))
    names = {layer: zone_of(zones, layer).name for layer in range(len(figures))}
    if config.strategy == "zone":
        tiers = {entry.layer: tier.name for tier in config.tiers for entry in tier.layers}
        names = {layer: tiers.get(layer, "none") for layer in names}
    noise = {entry.layer: entry for entry in config.layers}
    costs: dict[int, dict[str, Any]] = {}
    quantizing: dict[int, float] = {}
    if config.kl is not None:
        costs = {row["layer"]: row for row in scan.noise_kl(config, 1, "layer")}
        quantizing = {
            row["layer"]: row["kl"] for row in scan.sensitivities(_spec(config), by="layer")
        }
    rows = []
    for layer, value in enumerate(figures.values):
        cost = costs.get(layer, {"kl": None, "kl_interval": None})
        whole = quantizing.get(layer)
        rows.append(
            _Row(
                layer,
                Estimate(value, figures.intervals[layer]),
                figures.records[layer].metrics.sqnr_db,
                names[layer],
                noise.get(layer),
                Estimate(cost["kl"], cost["kl_interval"]),
                cost["kl"] / whole if whole and cost["kl"] is not None else None,
            )
        )
    name = config.strategy if config.control is None else f"{config.control} {config.strategy}"
    known = config.kl is not None
    fields = [
        Field[_Row](Column("layer", INDEX), lambda row: row.layer),
        Field[_Row](Column("zone", align="left", priority=7), lambda row: row.zone),
        Field[_Row](
            _metric_column(source.metric, _label(config)),
            lambda row: row.value,
        ),
        Field[_Row](
            Column("multiplier", _TIMES, priority=1),
            lambda row: row.noise.multiplier if row.noise else None,
        ),
        Field[_Row](
            Column("sigma", _SIGMA, priority=1),
            lambda row: row.noise.sigma if row.noise else None,
        ),
        Field[_Row](
            Column("noise", _DECIBELS, priority=5 if known else 2),
            lambda row: row.noise.signal_to_noise_db if row.noise else None,
        ),
        Field[_Row](
            Column("quantization", _DECIBELS, priority=6 if known else 3),
            lambda row: row.quantization,
        ),
    ]
    if known:
        fields += [
            Field[_Row](Column("KL of noise", KL, priority=2), lambda row: row.kl),
            Field[_Row](Column(f"of {_label(config)}", _PERCENT, priority=3), lambda r: r.share),
        ]
    title = f"{name}: {source.model}, {_spec(config)}, site {source.site}"
    note = NOTE
    if known:
        note += (
            f" KL of noise: what it is predicted to cost at the first noisy stage; of "
            f"{_label(config)}: as a share of what quantizing the layer costs."
        )
    return tabulate(title, fields, rows, [note])


def _metric_column(metric: str, label: str) -> Column:
    if metric in METRICS:
        return Column(METRICS[metric].label, Measure.of(metric))
    if metric == BY_KL:
        return Column(f"KL {label}", KL)
    if metric == NOISE:
        return Column(NOISE, Measure("nats", digits=2))
    return Column("vs floor", DISTANCE)


def _stages(config: RinConfig, scan: Scan) -> Table:
    """Sigma, energy and cost of every noisy stage."""
    assert config.kl is not None
    kl, weights = config.kl, config.energy.weights or 1
    rows = scan.noise_kl(config)[1:]

    def column(title: str, measure: Measure, name: str, priority: int = 0) -> Field[dict[str, Any]]:
        return Field(Column(title, measure, priority=priority), lambda row: row[name])

    def estimate(row: dict[str, Any]) -> Cell:
        return Estimate(row["kl"], row["kl_interval"])

    fields = [
        column("stage", INDEX, "stage"),
        Field[dict[str, Any]](Column("sigma", _SIGMA), lambda row: row["sigma"]),
        Field[dict[str, Any]](
            Column("energy", _ENERGY, priority=2), lambda row: _rounded(row["sigma"] ** 2 * weights)
        ),
        column("arriving", _PERCENT, "arriving", 1),
        Field[dict[str, Any]](Column("KL of noise", Measure("mnat", 1000.0, 3)), estimate),
        Field[dict[str, Any]](
            Column(f"of {_label(config)}", Measure("%", 100.0, 2)),
            lambda row: kl.of_quantization(row["kl"]),
        ),
    ]
    note = (
        "Stage 0 has no noise. sigma: root mean square over the noisy weights; arriving: share of "
        "the noise energy that rounding to the weights' type lets through."
    )
    return tabulate("Stages, and what their noise costs the predictions", fields, rows, [note])


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


def _cost(config: RinConfig) -> str:
    """What the noise costs, and what quantization does."""
    assert config.kl is not None
    kl, column = config.kl, Column("", KL)
    share = kl.of_quantization(kl.first)
    whole = column.text(Estimate(kl.quantization, kl.quantization_interval))
    return (
        f"The noise of the first noisy stage costs "
        f"{column.text(Estimate(kl.first, kl.intervals[1]))} mnat (thousandths of a nat a token), "
        + ("beside " if share is None else f"{100 * share:.3g} % of ")
        + f"what {_label(config)} of all linears costs: {whole}, "
        + ("measured." if kl.quantization_measured else "estimated.")
    )


def costs_table(configs: Mapping[str, RinConfig]) -> Table | None:
    """What the noise of each configuration costs; None where no scan tells."""
    known = [(name, config) for name, config in configs.items() if config.kl is not None]
    if not known:
        return None

    def cost(config: RinConfig) -> Any:
        assert config.kl is not None
        return config.kl

    label = _label(known[0][1])
    fields = [
        Field[_Arm](Column("strategy", align="left"), lambda row: row[0]),
        Field[_Arm](
            Column("sigma", _SIGMA, priority=1),
            lambda row: max(tier.schedule.sigma_start for tier in row[1].tiers),
        ),
        Field[_Arm](
            Column("energy", _TIMES, priority=2), lambda row: row[1].energy.relative_to_uniform
        ),
        Field[_Arm](
            Column("KL of noise", KL),
            lambda row: Estimate(cost(row[1]).first, cost(row[1]).intervals[1]),
        ),
        Field[_Arm](
            Column(f"of {label}", _PERCENT),
            lambda row: cost(row[1]).of_quantization(cost(row[1]).first),
        ),
        Field[_Arm](Column("mean KL", KL, priority=1), lambda row: cost(row[1]).mean),
    ]
    quantization = cost(known[0][1])
    column = Column("", KL)
    whole = Estimate(quantization.quantization, quantization.quantization_interval)
    note = (
        f"sigma and KL of noise: at the first noisy stage; mean KL: over the run; energy: times "
        f"that of uniform noise. {label} of all linears costs {column.text(whole)} mnat."
    )
    return tabulate("What the noise costs the predictions", fields, known, [note])


def noise_chart(scan: Scan, spec: str, configs: Mapping[str, RinConfig]) -> Chart:
    """What the noise of each strategy costs in each layer, beside what quantizing it costs."""
    layers = tuple(range(len(scan.model.layers)))

    def series(name: str, rows: Iterable[Mapping[str, Any]]) -> Series:
        costs = {row["layer"]: row["kl"] for row in rows}
        return Series(name, tuple(costs.get(layer, 0.0) for layer in layers))

    label = operand_label(spec, "both")
    lines = [
        series(name, scan.noise_kl(config, 1, "layer"))
        for name, config in configs.items()
        if config.kl is not None and config.control is None
    ]
    lines.append(series(label, scan.sensitivities(spec, by="layer")))
    title = f"KL of the noise in each layer at the first noisy stage, beside {label} in {spec}"
    return Chart(title, "lines", "layer", layers, KL, tuple(lines))


def stages_table(configs: Mapping[str, RinConfig]) -> Table | None:
    """What the noise of each configuration costs in every noisy stage; None where no scan tells."""
    costs = {name: config.kl.stages for name, config in configs.items() if config.kl is not None}
    if not costs:
        return None

    def strategy(name: str) -> Field[int]:
        return Field(
            Column(name, Measure("mnat", 1000.0, 3)),
            lambda stage: costs[name][stage] if stage < len(costs[name]) else None,
        )

    fields = [Field[int](Column("stage", INDEX), lambda stage: stage), *map(strategy, costs)]
    stages = range(1, max(map(len, costs.values())))
    return tabulate("KL of the noise by stage", fields, list(stages), details=True)


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
