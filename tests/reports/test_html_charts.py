"""Charts as geometry: where lines, bands, bars, cells and labels of the page stand."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from srdd.reports.html_charts import HEIGHT, Plot, heat_of, plot_of, values_table
from srdd.reports.view import Chart, Measure, Series

DECIBELS = Measure("dB", digits=1)


def lines(values: Sequence[float | None], **options: object) -> Chart:
    series = (Series("one", tuple(values)),)
    return Chart("t", "lines", "layer", tuple(range(len(values))), DECIBELS, series, **options)  # type: ignore[arg-type]


class TestLines:
    def test_values_are_placed_on_a_linear_scale(self) -> None:
        plot = plot_of(lines([10.0, 12.0, 11.0]))
        ((_, first), (_, second), (_, third)) = plot.lines[0].marks
        assert third == pytest.approx((first + second) / 2, abs=0.1)
        assert 0 < second < first < HEIGHT
        assert [x for x, _ in plot.lines[0].marks] == [16.67, 50, 83.33]

    def test_a_tick_stands_where_a_value_of_its_size_does(self) -> None:
        measure = Measure("%", scale=100.0, digits=0)
        series = (Series("one", (0.1, 0.2, 0.4)),)
        plot = plot_of(Chart("t", "lines", "layer", (0, 1, 2), measure, series))
        ticks = {text: y for y, text in plot.ticks}
        marks = [y for _, y in plot.lines[0].marks]
        assert [ticks["10"], ticks["20"], ticks["40"]] == marks
        assert marks[0] - marks[-1] > HEIGHT / 2

    def test_a_gap_breaks_the_line_and_a_lonely_value_is_marked(self) -> None:
        line = plot_of(lines([1.0, 2.0, None, 3.0])).lines[0]
        assert line.path.count("M") == 2
        assert len(line.marks) == 3
        many = plot_of(lines([1.0, None, *[2.0] * 100])).lines[0]
        assert len(many.marks) == 1

    def test_intervals_are_a_band_around_the_line(self) -> None:
        series = Series("one", (1.0, 2.0, 3.0), ((0.5, 1.5), (1.5, 2.5), None))
        line = plot_of(Chart("t", "lines", "layer", (0, 1, 2), DECIBELS, (series,))).lines[0]
        points = [tuple(map(float, p.split())) for p in line.band.strip("MZ").split("L")]
        assert [x for x, _ in points] == [x for x, _ in reversed(points)]
        low, _, _, high = (y for _, y in points)
        assert (low + high) / 2 == pytest.approx(line.marks[0][1], abs=0.1)

    def test_a_gap_in_the_intervals_breaks_the_band(self) -> None:
        end = (0.5, 1.5)
        series = Series("one", (1.0,) * 6, (end, end, None, end, end, None))
        line = plot_of(Chart("t", "lines", "layer", tuple(range(6)), DECIBELS, (series,))).lines[0]
        assert (line.path.count("M"), line.band.count("M")) == (1, 2)

    @pytest.mark.parametrize("values", [[], [None, None], [5.0], [0.0, 0.0], [1e-9, 2e12]])
    def test_odd_values_have_a_scale(self, values: list[float | None]) -> None:
        plot = plot_of(lines(values))
        assert plot.ticks
        assert all(0 <= y <= HEIGHT for _, y in plot.lines[0].marks)

    def test_no_more_labels_than_fit(self) -> None:
        assert len(plot_of(lines([1.0] * 12)).labels) == 12
        assert [text for _, text in plot_of(lines([1.0] * 28)).labels] == [
            str(n) for n in range(0, 28, 5)
        ]

    def test_every_reference_is_inside_and_labelled_apart(self) -> None:
        references = (("floor a", 18.8), ("floor b", 18.7))
        plot = plot_of(lines([17.0, 16.0], references=references))
        assert [level.text for level in plot.references] == ["floor a: 18.8 dB", "floor b: 18.7 dB"]
        assert all(0 < level.y < HEIGHT for level in plot.references)
        first, second = plot.references
        assert first.side != second.side or abs(first.baseline - second.baseline) >= 14

    def test_a_pointer_finds_every_series_at_a_place(self) -> None:
        both = (Series("a", (1.0, None), ((0.5, 1.5), None)), Series("b", (2.0, 3.0)))
        plot = plot_of(Chart("t", "lines", "layer", (4, 7), DECIBELS, both))
        assert [tip for _, _, tip in plot.columns] == [
            ("layer 4", "a: 1.0 ±0.5 dB", "b: 2.0 dB"),
            ("layer 7", "b: 3.0 dB"),
        ]

    def test_the_table_holds_what_is_drawn(self) -> None:
        table = values_table(lines([1.0, None], references=()))
        assert [column.title for column in table.columns] == ["layer", "one"]
        assert [
            [c.text(v) for c, v in zip(table.columns, row, strict=True)] for row in table.rows
        ] == [
            ["0", "1.0"],
            ["1", "-"],
        ]


class TestBars:
    @pytest.fixture
    def plot(self) -> Plot:
        series = (Series("q", (1.0, 2.0)), Series("down", (3.0, None)), Series("o", (1.0, None)))
        return plot_of(Chart("KL", "bars", "layer", (0, 1), Measure("nat"), series))

    def test_parts_are_stacked_from_zero_on(self, plot: Plot) -> None:
        first, second, third, alone = plot.bars
        assert first.y == pytest.approx(second.y + second.height)
        assert second.y == pytest.approx(third.y + third.height)
        assert first.y + first.height == HEIGHT == alone.y + alone.height
        assert second.height == pytest.approx(3 * first.height, abs=0.3)
        assert [bar.series for bar in plot.bars] == [0, 1, 2, 0]

    def test_the_highest_stack_fits(self, plot: Plot) -> None:
        assert min(bar.y for bar in plot.bars) > 0
        assert {text: y for y, text in plot.ticks}["0"] == HEIGHT


class TestHeat:
    def test_signed_values_are_worse_below_zero(self) -> None:
        measure = Measure("dB", digits=1, signed=True)
        series = (Series("down", (-6.0, -3.0, 0.0, 3.0, 99.0, None)),)
        heat = heat_of(Chart("t", "heat", "layer", tuple(range(6)), measure, series, full=6.0))
        ((label, cells),) = heat.rows
        assert label == "down"
        assert [cell.shade for cell in cells] == [
            "worse m10",
            "worse m5",
            "better m0",
            "better m5",
            "better m10",
            "none",
        ]
        assert cells[1].text == "-3.0"
        assert cells[1].tip == "down, layer 1: -3.0 dB"
        assert (heat.low, heat.high, heat.key[0]) == ("-6.0 dB", "+6.0 dB", "worse m10")

    @pytest.mark.parametrize(
        ("columns", "size", "kept"),
        [(8, "few", 8), (12, "many", 12), (28, "many", 6), (80, "dense", 8)],
    )
    def test_labels_of_columns_thin_out(self, columns: int, size: str, kept: int) -> None:
        series = (Series("down", (0.0,) * columns),)
        chart = Chart("t", "heat", "layer", tuple(range(columns)), DECIBELS, series)
        heat = heat_of(chart)
        assert heat.size == size
        assert sum(keep for _, keep in heat.labels) == kept

    def test_others_are_the_worse_the_larger(self) -> None:
        series = (Series("down", (0.0, 1.0, 2.0)),)
        heat = heat_of(Chart("t", "heat", "layer", (0, 1, 2), Measure("nat", digits=1), series))
        assert [cell.shade for cell in heat.rows[0][1]] == ["worse m0", "worse m5", "worse m10"]
        assert (heat.low, heat.high) == ("0.0 nat", "2.0 nat")
