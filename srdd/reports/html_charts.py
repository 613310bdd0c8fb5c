"""The charts of a page as Plotly figures: plain data, drawn in the browser.

A colour is written as `@name` and takes its value from the page's theme: `@s0`, `@s1`, ... for the
series, `@band0` for their intervals, `@muted` and `@limit` for floors and thresholds, `@heat` for a
colour scale. Text from outside goes through `drawn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from srdd.documents.rin import RinConfig
from srdd.documents.scan import Record
from srdd.numerics.histogram import BIN_DB, LOWEST_DB
from srdd.numerics.metrics import METRICS
from srdd.reports.groups import Group
from srdd.reports.html_series import Content, Series, drawn, short
from srdd.reports.tensors import kind_place, kinds

Figure: TypeAlias = dict[str, Any]
"""A Plotly figure: `data` and `layout`."""

PROFILES = ("sqnr_db", "relative_error", "deadzone", "saturation", "relative_l1")
HEATS = ("sqnr_db", "relative_error", "deadzone")
BY_DEFAULT = ("targeted", "variable", "zone", "uniform")
"""Strategies whose multipliers are drawn from the start; controls on demand."""

COLOURS = {"targeted": 2, "variable": 3, "zone": 4, "uniform": 7, "inverse": 5, "shuffled": 6}
"""Colours of strategies: others than the first formats have, and grey for the baseline."""

FEW_LAYERS = 8
"""Up to so many, each has a tick of its own."""

TOKEN_TAIL = 0.002
"""Share of the tokens at either end that the axis leaves out."""


def scale_of(metric: str) -> float:
    """Factor to the unit that a person reads."""
    return 1.0 if metric == "sqnr_db" else 100.0


def unit_of(metric: str) -> str:
    return "dB" if metric == "sqnr_db" else "%"


def _rounded(value: float | None, scale: float = 1.0) -> float | None:
    return None if value is None else float(f"{scale * value:.6g}")


def _layers_axis(layers: int) -> dict[str, Any]:
    axis = {"title": {"text": "layer"}, "tickformat": "d", "zeroline": False}
    # Left to itself, Plotly would put several ticks between two of few layers.
    return axis | ({"dtick": 1} if layers <= FEW_LAYERS else {})


def profile(place: Sequence[tuple[Series, Group]], metric: str) -> Figure | None:
    """A metric over the layers: a line a series, with interval, floor and threshold.

    Returns:
        None where no layer of any series has the metric.
    """
    data: list[dict[str, Any]] = []
    notes: list[dict[str, Any]] = []
    scale, unit = scale_of(metric), unit_of(metric)
    for series, group in place:
        if not group.values(metric):
            continue
        colour = f"@s{series.index}"
        own = {"meta": {"series": series.index}, "showlegend": False}
        layers = [record.layer for record in group.layers]
        data += _band(series, group, metric)
        data.append(
            {
                **own,
                "type": "scatter",
                "mode": "lines+markers",
                "name": drawn(series.label),
                "x": layers,
                "y": [_rounded(getattr(r.metrics, metric), scale) for r in group.layers],
                "customdata": list(group.words),
                "line": {"color": colour, "width": 2},
                "marker": {"color": colour, "size": 5 if len(layers) <= 100 else 2},
                "hovertemplate": "%{y:.4g} " + unit + " (%{customdata})",
            }
        )
        floor = group.floor[metric]
        if floor is not None:
            data.append(
                {
                    **own,
                    "type": "scatter",
                    "mode": "lines",
                    "name": "Gaussian floor",
                    "x": [layers[0], layers[-1]],
                    "y": [_rounded(floor, scale)] * 2,
                    "line": {"color": colour, "width": 1.5, "dash": "dot"},
                    "hoverinfo": "skip",
                }
            )
    if not data:
        return None
    limit = getattr(place[0][1].thresholds, metric, None)
    count = max(len(group.scan.model.layers) for _, group in place)
    if limit is not None:
        data.append(_level(scale * limit, count - 1))
        notes.append(_note(f"threshold {scale * limit:g}", scale * limit, "@limit"))
    axis = {"title": {"text": ""}, "zeroline": False}
    layout = {"xaxis": _layers_axis(count), "yaxis": axis, "annotations": notes}
    return {"data": data, "layout": layout | {"hovermode": "x unified"}}


def _band(series: Series, group: Group, metric: str) -> list[dict[str, Any]]:
    """The 95 % intervals as an area, where there are any."""
    held = [
        (record.layer, getattr(record.intervals, metric))
        for record in group.layers
        if record.intervals is not None and getattr(record.intervals, metric) is not None
    ]
    if len(held) < 2:
        return []
    scale = scale_of(metric)
    layers = [layer for layer, _ in held]
    low = [_rounded(pair[0], scale) for _, pair in held]
    high = [_rounded(pair[1], scale) for _, pair in held]
    return [
        {
            "meta": {"series": series.index},
            "showlegend": False,
            "type": "scatter",
            "mode": "lines",
            "name": "95 % interval",
            "x": [*layers, *reversed(layers)],
            "y": [*low, *reversed(high)],
            "fill": "toself",
            "fillcolor": f"@band{series.index}",
            "line": {"width": 0},
            "hoverinfo": "skip",
        }
    ]


def _level(value: float, last: int) -> dict[str, Any]:
    """A threshold across the chart; markers that do not show keep it off the edge."""
    return {
        "meta": {"role": "threshold"},
        "showlegend": False,
        "type": "scatter",
        "mode": "lines+markers",
        "name": "threshold",
        "x": [0, last],
        "y": [value] * 2,
        "line": {"color": "@limit", "width": 1, "dash": "dash"},
        "marker": {"opacity": 0, "size": 5},
        "hoverinfo": "skip",
    }


def _note(text: str, value: float, colour: str) -> dict[str, Any]:
    return {
        "text": text,
        "xref": "paper",
        "x": 1,
        "y": value,
        "xanchor": "right",
        "yanchor": "bottom",
        "showarrow": False,
        "font": {"color": colour, "size": 11},
    }


def heat(groups: Sequence[Group], metric: str) -> Figure | None:
    """Layers by kind of tensor for the groups of one series; the worst where a kind has several.

    Returns:
        None where no tensor has the metric.
    """
    scale, lower_is_worse = scale_of(metric), METRICS[metric].higher_is_better
    rows: dict[str, dict[int, float]] = {}
    for group in groups:
        for record in sorted(group.tensors, key=kind_place):
            value = getattr(record.metrics, metric)
            if value is None:
                continue
            row = rows.setdefault(_row_name(group, record), {})
            other = row.get(record.layer, value)
            row[record.layer] = (min if lower_is_worse else max)(value, other)
    if not rows:
        return None
    count = len(groups[0].scan.model.layers)
    names = list(rows)
    unit = unit_of(metric)
    data = {
        "type": "heatmap",
        "x": list(range(count)),
        "y": [drawn(name) for name in names],
        "z": [[_rounded(rows[name].get(layer), scale) for layer in range(count)] for name in names],
        "colorscale": "@heat",
        "reversescale": lower_is_worse,
        "xgap": 1 if count <= 100 else 0,
        "ygap": 1,
        "hoverongaps": False,
        "colorbar": {"title": {"text": unit}, "thickness": 12, "outlinewidth": 0},
        "hovertemplate": f"layer %{{x}}, %{{y}}: %{{z:.4g}} {unit}<extra></extra>",
    }
    layout = {
        "xaxis": _layers_axis(count) | {"showgrid": False, "range": [-0.5, count - 0.5]},
        "yaxis": {"type": "category", "autorange": "reversed", "showgrid": False, "ticklen": 0},
        "height": 90 + 24 * max(len(names), 4),
    }
    return {"data": [data], "layout": layout}


def _row_name(group: Group, record: Record) -> str:
    if not group.several:
        return short(group.place, 32)
    return f"{short(group.place, 32)}: {short(kinds(record), 24)}"


def tokens(group: Group) -> Figure | None:
    """How the SQNR of single tokens is spread in each layer, with its 5, 50 and 95 % quantiles.

    Returns:
        None where the scan holds no such histograms.
    """
    held = [r for r in group.layers if r.token_sqnr_db is not None and any(r.token_sqnr_db.counts)]
    if not held:
        return None
    low, high = _token_range(held)
    step = max(1, (high - low) // 120)
    places = range(low, high, step)
    density: list[list[float | None]] = [[] for _ in places]
    for record in held:
        found = record.token_sqnr_db
        assert found is not None
        total = sum(found.counts)
        for row, place in zip(density, places, strict=True):
            first = max(place - found.first_bin, 0)
            inside = sum(found.counts[first : max(place + step - found.first_bin, 0)])
            row.append(_rounded(inside / total, 100) if inside else None)
    layers = [record.layer for record in held]
    data: list[dict[str, Any]] = [
        {
            "type": "heatmap",
            "x": layers,
            "y": [LOWEST_DB + BIN_DB * (place + step / 2) for place in places],
            "z": density,
            "colorscale": "@density",
            "showscale": False,
            "hoverongaps": False,
            "hovertemplate": "layer %{x}, %{y:.2f} dB: %{z:.2g} %<extra></extra>",
        }
    ]
    for name, dash in (("p5", "dot"), ("p50", "solid"), ("p95", "dot")):
        values = [getattr(record.token_sqnr_db, name) for record in held]
        data.append(
            {
                "type": "scatter",
                "mode": "lines" if len(layers) > 1 else "markers",
                "name": {"p5": "5 %", "p50": "median", "p95": "95 %"}[name],
                "x": layers,
                "y": [_rounded(value) for value in values],
                "line": {"color": "@strong", "width": 1.5, "dash": dash},
                "marker": {"color": "@strong"},
                "showlegend": False,
                "hovertemplate": "%{y:.2f} dB",
            }
        )
    layout = {
        "xaxis": _layers_axis(len(layers)) | {"showgrid": False},
        "yaxis": {"title": {"text": ""}, "zeroline": False},
        "hovermode": "closest",
    }
    return {"data": data, "layout": layout}


def _token_range(records: Sequence[Record]) -> tuple[int, int]:
    """Bins from the first to behind the last that hold more than the tails of some layer."""
    low, high = [], []
    for record in records:
        found = record.token_sqnr_db
        assert found is not None
        tail, seen = TOKEN_TAIL * sum(found.counts), 0
        inside = []
        for place, count in enumerate(found.counts, found.first_bin):
            seen += count
            if seen > tail and seen - count < sum(found.counts) - tail:
                inside.append(place)
        low.append(inside[0])
        high.append(inside[-1] + 1)
    return min(low), max(high)


def noise(configs: dict[str, RinConfig]) -> Figure | None:
    """The sigma of each layer at the first noisy stage by strategy, over the schedule's start.

    Returns:
        None where there is no configuration.
    """
    if not configs:
        return None
    data = []
    for name, config in configs.items():
        colour, factors = f"@s{COLOURS[name]}", multipliers(config)
        data.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": name,
                "meta": {"strategy": name},
                "visible": name in BY_DEFAULT,
                "showlegend": False,
                "x": list(range(len(factors))),
                "y": [_rounded(value) for value in factors],
                "line": {"color": colour, "width": 2, "shape": "hvh"},
                "marker": {"color": colour, "size": 4},
                "hovertemplate": "%{y:.3g}",
            }
        )
    layout = {
        "xaxis": _layers_axis(next(iter(configs.values())).source.layers),
        "yaxis": {"title": {"text": "sigma / sigma_start"}, "rangemode": "tozero"},
        "hovermode": "x unified",
    }
    return {"data": data, "layout": layout}


def multipliers(config: RinConfig) -> list[float]:
    """Each layer's sigma at the first noisy stage over that of uniform noise; 0 without noise."""
    factors = [0.0] * config.source.layers
    for entry in config.layers:
        factors[entry.layer] = entry.sigma / config.parameters.sigma_start
    return factors


def figures(content: Content, configs: Sequence[dict[str, RinConfig]]) -> dict[str, Figure]:
    """Every chart of the page by its key; those that would be empty are missing.

    Arguments:
        content: the groups.
        configs: for each scan its configurations by strategy.
    """
    found: dict[str, Figure | None] = {}
    for number, place in enumerate(content.places):
        for metric in PROFILES:
            found[f"profile/{number}/{metric}"] = profile(content.at(place), metric)
        for series, group in content.at(place):
            found[f"tokens/{number}/{series.index}"] = tokens(group)
    for series in content.series:
        groups = [group for own, group in content.members if own == series]
        for metric in HEATS:
            found[f"heat/{series.index}/{metric}"] = heat(groups, metric)
    for number, own in enumerate(configs):
        found[f"noise/{number}"] = noise(own)
    return {key: figure for key, figure in found.items() if figure is not None}
