"""A scan's charts with plotly: the figures of the page, in the units that are shown."""

from __future__ import annotations

import sys

import pytest
from made_scans import costing, rising, thorough

from srdd.errors import UsageError


def test_lines_and_bars_show_the_figures_of_the_scan() -> None:
    pytest.importorskip("plotly")
    scan = thorough(rising(4))
    figure = scan.plot()
    (line,) = [trace for trace in figure.data if trace.name == "mxfp4:floor"]
    assert list(line.y) == pytest.approx([record.metrics.sqnr_db for record in scan.records])
    low, high = scan.records[1].intervals.sqnr_db
    assert line.error_y.array[1] == pytest.approx(high - line.y[1])
    assert line.error_y.arrayminus[1] == pytest.approx(line.y[1] - low)
    costs = costing([0.01, 0.02, 0.03, 0.05])
    bars = {trace.name: list(trace.y) for trace in costs.plot().data if trace.type == "bar"}
    assert bars == {"q": pytest.approx([10, 30]), "up": pytest.approx([20, 50])}
    (heat,) = [trace for trace in costs.plot().data if trace.type == "heatmap"]
    assert heat.zmax == -heat.zmin
    assert heat.z[0][0] == pytest.approx(costs.records[0].vs_floor_db)


def test_without_plotly_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(UsageError, match="pip install plotly"):
        thorough(rising(4)).plot()
