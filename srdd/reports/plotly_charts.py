"""Charts as a plotly figure, for notebooks: one below the other, with the page's charts in it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

from srdd.documents.scan import Scan
from srdd.errors import UsageError
from srdd.reports.html_page import charts
from srdd.reports.view import Chart, Series

HEIGHT = 320
"""Pixels of a chart."""

WORSE, BETTER = "#b2182b", "#2166ac"


def plot(scan: Scan) -> Any:
    """The charts of a scan's page; see `figure_of`."""
    return figure_of(charts(scan))


def figure_of(drawn: Sequence[Chart]) -> Any:
    """A `plotly.graph_objects.Figure` of at least one chart.

    Raises:
        UsageError: plotly is not installed.
    """
    try:
        plotly: Any = import_module("plotly.graph_objects")
        make_subplots = import_module("plotly.subplots").make_subplots
    except ImportError:
        raise UsageError("plotly is not installed", "pip install plotly") from None
    figure = make_subplots(rows=len(drawn), cols=1, subplot_titles=[c.title for c in drawn])
    for row, chart in enumerate(drawn, start=1):
        for trace in _traces(chart, plotly, 1 - (row - 0.5) / len(drawn), 0.8 / len(drawn)):
            figure.add_trace(trace, row=row, col=1)
        for label, value in chart.references:
            level = chart.measure.scale * value
            figure.add_hline(level, row=row, col=1, line_dash="dot", annotation_text=label)
        figure.update_xaxes(title_text=chart.x_title, type="category", row=row, col=1)
        if chart.kind != "heat":
            figure.update_yaxes(title_text=chart.measure.unit, row=row, col=1)
    figure.update_layout(height=HEIGHT * len(drawn), barmode="stack")
    return figure


def _traces(chart: Chart, plotly: Any, middle: float, length: float) -> list[Any]:
    x = [str(label) for label in chart.x]
    scaled = [[_scaled(chart, value) for value in one.values] for one in chart.series]
    if chart.kind == "heat":
        full = None if chart.full is None else chart.measure.scale * chart.full
        scale = [[0, WORSE], [0.5, "#f7f7f7"], [1, BETTER]]
        return [
            plotly.Heatmap(
                x=x,
                y=[one.label for one in chart.series],
                z=scaled,
                zmid=0 if full is None else None,
                zmin=None if full is None else -full,
                zmax=full,
                colorscale=scale,
                colorbar={"title": chart.measure.unit, "y": middle, "len": length},
            )
        ]
    if chart.kind == "bars":
        pairs = zip(chart.series, scaled, strict=True)
        return [plotly.Bar(x=x, y=values, name=one.label) for one, values in pairs]
    return [
        plotly.Scatter(x=x, y=values, name=one.label, error_y=_errors(chart, one))
        for one, values in zip(chart.series, scaled, strict=True)
    ]


def _scaled(chart: Chart, value: float | None) -> float | None:
    return None if value is None else chart.measure.scale * value


def _errors(chart: Chart, series: Series) -> dict[str, Any] | None:
    """The intervals of a line as error bars; None where it has none."""
    if not any(series.intervals):
        return None
    ends = [
        (0.0, 0.0) if pair is None or value is None else (value - pair[0], pair[1] - value)
        for value, pair in zip(series.values, series.intervals, strict=True)
    ]
    below, above = (
        [chart.measure.scale * each for each in side] for side in zip(*ends, strict=True)
    )
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below}
