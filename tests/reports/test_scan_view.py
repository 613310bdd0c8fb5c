"""A scan's tables, answer and charts: which rows, which figures, in which order."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache

import pytest
from made_scans import PROTOTYPE, made, rising, scan_of, thorough, with_metric

from srdd.documents.scan import Record, Scan, load_scan
from srdd.numerics.metrics import METRICS, Thresholds
from srdd.reports.answer import answer
from srdd.reports.groups import groups_of
from srdd.reports.scan_view import (
    kind_heat,
    profile,
    scan_blocks,
    scan_table,
    sites_and_formats,
    token_chart,
)
from srdd.reports.verdicts import verdict
from srdd.reports.view import Cell, Estimate, Table, Tally, Text, Word

FLOOR = 18.788
"""What Gaussian data gets in mxfp4:floor, dB."""

LIKE_THE_DEMO = {
    "input": {
        "self_attn.q_proj": [FLOOR + 0.1] * 12,
        "self_attn.o_proj": [FLOOR - 0.2] * 3 + [FLOOR - 3.4] + [FLOOR - 0.2] * 8,
        "mlp.gate_proj": [FLOOR] * 11 + [FLOOR + 3.9],
        "mlp.up_proj": [FLOOR] * 12,
        "mlp.down_proj": [FLOOR - 1.2 - 0.1 * layer for layer in range(12)],
    }
}


@cache
def like_the_demo() -> Scan:
    return scan_of(LIKE_THE_DEMO)


def column(table: Table, title: str) -> list[Cell]:
    place = [each.title for each in table.columns].index(title)
    return [row[place] for row in table.rows]


def titles(table: Table) -> list[str]:
    return [each.title for each in table.columns]


def value(cell: Cell) -> float:
    assert isinstance(cell, Estimate)
    assert cell.value is not None
    return cell.value


def tables(scan: Scan, by: str = "tensor", *, everything: bool = False) -> list[Table]:
    blocks = scan_blocks(groups_of(scan), by, everything=everything)
    return [block for block in blocks if isinstance(block, Table)]


class TestVerdicts:
    def record(
        self, sqnr: float | None = None, vs_floor: float | None = None, **metrics: float | None
    ) -> Record:
        """A record with the metrics given; the others are harmless."""
        harmless = {"deadzone": 0.0, "saturation": 0.0, "relative_error": 0.0}
        scan = with_metric(made([0.2]), 0, **{"sqnr_db": sqnr, **harmless, **metrics})
        return scan.records[0].model_copy(update={"vs_floor_db": vs_floor})

    @pytest.mark.parametrize(
        ("distance", "word"),
        [
            (3.9, "above floor"),
            (1.01, "above floor"),
            (1.0, "at floor"),
            (0.0, "at floor"),
            (-1.0, "at floor"),
            (-1.01, "poor"),
            (-3.0, "poor"),
            (-3.01, "bad"),
            (None, "flagged"),
        ],
    )
    def test_a_flagged_tensor_is_judged_by_its_distance_from_the_floor(
        self, distance: float | None, word: str
    ) -> None:
        assert verdict(self.record(15.0, distance), Thresholds()).text == word

    @pytest.mark.parametrize("distance", [-5.0, 0.0, 9.0, None])
    def test_a_tensor_within_all_thresholds_is_ok(self, distance: float | None) -> None:
        assert verdict(self.record(20.0, distance), Thresholds()).text == "ok"

    @pytest.mark.parametrize(
        "metrics", [{"deadzone": 0.051}, {"saturation": 0.011}, {"relative_error": 0.101}]
    )
    def test_any_one_breach_flags_a_tensor(self, metrics: dict[str, float]) -> None:
        assert verdict(self.record(25.0, -4.0, **metrics), Thresholds()).text == "bad"
        within = {name: round(limit - 0.001, 3) for name, limit in metrics.items()}
        assert verdict(self.record(25.0, -4.0, **within), Thresholds()).text == "ok"

    def test_an_undefined_metric_breaches_nothing(self) -> None:
        assert verdict(self.record(**dict.fromkeys(METRICS)), Thresholds()).text == "ok"

    @pytest.mark.parametrize("sqnr", [25.0, 15.0, None])
    def test_non_finite_values_are_broken_whatever_the_figures(self, sqnr: float | None) -> None:
        one = self.record(sqnr)
        assert one.sums is not None
        sums = one.sums.model_copy(update={"nonfinite": 1})
        assert verdict(one.model_copy(update={"sums": sums}), Thresholds()).text == "broken"


class TestRows:
    def test_the_worst_tensors_come_first_and_layers_do_not_hide_them(self) -> None:
        table = scan_table(groups_of(like_the_demo()))
        assert len(table.rows) == 20
        rows = list(zip(column(table, "tensor"), column(table, "layer"), strict=True))
        assert rows[0] == ("o", 3)
        assert rows[1:13] == [("down", layer) for layer in range(11, -1, -1)]
        distances = column(table, "vs floor")
        assert distances == sorted(distances, key=lambda cell: cell or 0)
        words = column(table, "verdict")
        assert [w.text for w in words if isinstance(w, Word)][:13] == ["bad"] + ["poor"] * 12

    def test_in_the_order_of_the_model_nothing_is_left_out(self) -> None:
        table = scan_table(groups_of(like_the_demo()), most=None)
        assert len(table.rows) == 60
        assert column(table, "layer")[:5] == [0] * 5
        assert "above floor" in {w.text for w in column(table, "verdict") if isinstance(w, Word)}

    def test_kinds_are_pooled_with_their_worst_layer_and_verdicts(self) -> None:
        table = scan_table(groups_of(like_the_demo()), "kind")
        assert column(table, "tensor")[0] == "down"
        assert column(table, "tensors") == [12] * 5
        place = column(table, "tensor").index("o")
        assert column(table, "in")[place] == "layer 3"
        assert column(table, "worst")[place] == pytest.approx(-3.4, abs=0.2)
        counts = column(table, "verdict")[place]
        assert isinstance(counts, Tally)
        assert [(word.text, count) for word, count in counts.counts] == [
            ("bad", 1),
            ("at floor", 11),
        ]

    def test_layers_are_pooled_with_their_worst_tensor(self) -> None:
        table = scan_table(groups_of(like_the_demo()), "layer", None)
        assert column(table, "layer") == list(range(12))
        assert column(table, "in")[3] == "o"
        assert column(table, "in")[4] == "down"
        counts = column(table, "verdict")[3]
        assert isinstance(counts, Tally)
        assert [word.text for word, _ in counts.counts] == ["bad", "poor", "at floor"]

    def test_what_a_table_is_ranked_by_is_a_column_that_no_terminal_drops(self) -> None:
        for by in ("tensor", "layer", "kind"):
            table = scan_table(groups_of(like_the_demo()), by)
            (ranked,) = [each for each in table.columns if each.title == "vs floor"]
            assert ranked.priority == 0

    def test_products_show_which_operand_brings_the_error(self) -> None:
        scan = scan_of({"linear": {"mlp.down_proj": [15.0, 16.0]}})
        table = scan_table(groups_of(scan), most=None)
        assert len(table.rows) == 2
        assert [column(table, name)[0] for name in ("W4A16", "W16A4")] == [
            pytest.approx(18.0, abs=0.2)
        ] * 2
        assert column(table, "vs sum")[0] == pytest.approx(0.0, abs=0.01)
        assert column(table, "more from") == ["alike", "alike"]

    def test_a_layer_output_is_of_no_kind_and_has_no_module(self) -> None:
        assert not {"tensor", "module", "tensors"} & set(titles(scan_table(groups_of(made([0.2])))))

    def test_every_metric_has_a_column(self) -> None:
        shown = titles(scan_table(groups_of(like_the_demo())))
        assert {metric.label for metric in METRICS.values()} <= set(shown)

    def test_broken_tensors_stand_first_and_undefined_ones_last(self) -> None:
        scan = with_metric(thorough([0.2, 0.5, 0.3]), 1, **dict.fromkeys(METRICS))
        records = list(scan.records)
        records[1] = records[1].model_copy(update={"vs_floor_db": None})
        assert records[0].sums is not None
        broken = records[0].sums.model_copy(update={"nonfinite": 3})
        records[0] = records[0].model_copy(update={"sums": broken})
        table = scan_table(groups_of(scan.model_copy(update={"records": records})))
        assert column(table, "layer") == [0, 2, 1]
        assert column(table, "vs floor")[2] is None


class TestUndefined:
    def test_a_metric_that_is_undefined_everywhere_says_so(self) -> None:
        table = scan_table(groups_of(load_scan(PROTOTYPE)))
        assert METRICS["saturation"].label not in titles(table)
        assert any(n.startswith("undefined: saturation (") for n in table.notes)

    def test_metrics_without_a_meaning_at_a_site_share_their_reason(self) -> None:
        scan = scan_of({"linear": {"mlp.down_proj": [15.0, 16.0]}})
        notes = scan_table(groups_of(scan)).notes
        assert any("deadzone, saturation, clipping share" in note for note in notes)

    def test_a_scan_of_zeros_is_shown(self) -> None:
        scan = with_metric(made([0.2]), 0, **dict.fromkeys(METRICS))
        records = [scan.records[0].model_copy(update={"vs_floor_db": None})]
        groups = groups_of(scan.model_copy(update={"records": records}))
        assert titles(scan_table(groups)) == ["layer", "zone", "verdict"]
        assert "No SQNR is defined" in answer(groups)[0]


class TestSitesAndFormats:
    FORMATS: Mapping[str, float] = {"mxfp4:floor": 0.0, "nvfp4:token": 1.5}

    def test_each_site_in_each_format_has_a_row(self) -> None:
        scan = scan_of({"output": {"output": [17.0, 18.0]}, **LIKE_THE_DEMO}, formats=self.FORMATS)
        table = sites_and_formats(groups_of(scan))
        assert table is not None
        rows = list(zip(column(table, "site"), column(table, "format"), strict=True))
        assert rows == [(site, spec) for site in ("output", "input") for spec in self.FORMATS]
        first, second = (value(cell) for cell in column(table, "SQNR")[:2])
        assert second - first == pytest.approx(1.5, abs=0.01)

    def test_a_single_site_and_format_has_none(self) -> None:
        assert sites_and_formats(groups_of(thorough([0.2, 0.3]))) is None


class TestBlocks:
    @staticmethod
    @cache
    def everything() -> Scan:
        levels: dict[str, Mapping[str, Sequence[float]]] = {"output": {"output": [17.0] * 12}}
        levels |= dict.fromkeys(("input", "weight", "linear"), LIKE_THE_DEMO["input"])
        return scan_of(levels, formats=TestSitesAndFormats.FORMATS)

    def test_two_formats_and_four_sites_are_one_table_and_an_overview(self) -> None:
        ranked, overview = tables(self.everything())
        assert len(ranked.rows) == 20
        assert "format" not in titles(ranked)
        assert len(overview.rows) == 8

    def test_everything_is_a_table_for_each_site_and_format(self) -> None:
        *every, overview = tables(self.everything(), everything=True)
        assert [len(table.rows) for table in every] == [12] * 2 + [60] * 6
        assert len(overview.rows) == 8

    def test_the_answer_stands_behind_the_heading_and_the_legend_once(self) -> None:
        blocks = scan_blocks(groups_of(self.everything()))
        roles = [block.role for block in blocks if isinstance(block, Text)]
        assert roles[:2] == ["heading", "answer"]
        assert roles.count("note") == 2  # how to see more, and the legend

    def test_the_heading_says_what_was_measured(self) -> None:
        first = scan_blocks(groups_of(thorough([0.2] * 3)))[0]
        assert first == Text(
            "made/up | MadeForCausalLM | bfloat16 | 3 layers | 64 prompts, 5,000 tokens", "heading"
        )

    def test_another_rounding_is_named(self) -> None:
        scan = made([0.2])
        settings = scan.settings.model_copy(update={"rounding": "stochastic"})
        first = scan_blocks(groups_of(scan.model_copy(update={"settings": settings})))[0]
        assert isinstance(first, Text)
        assert first.text.endswith("rounding stochastic")

    def test_modules_without_figures_are_named_or_counted(self) -> None:
        from srdd.documents.scan import NotMeasured

        missing = [NotMeasured(module=f"m{n}", reason="no forward pass") for n in range(9)]
        scan = made([0.2]).model_copy(update={"not_measured": missing})
        for everything, lines in ((False, 6), (True, 9)):
            blocks = scan_blocks(groups_of(scan), everything=everything)
            texts = [block.text for block in blocks if isinstance(block, Text)]
            assert sum(text.startswith("not measured: ") for text in texts) == lines


class TestAnswer:
    def test_it_names_the_kind_that_is_low_everywhere_and_the_single_tensor(self) -> None:
        finding, usual, *_ = answer(groups_of(like_the_demo()))
        assert re.search(r"inputs of down \(12 of 12 .* worst in layer 11: 2\.3 ±0\.\d dB", finding)
        assert re.search(r"the input of o in layer 3 \(3\.4 ±0\.\d dB below\)", finding)
        assert "random weights" in usual

    def test_without_a_gate_the_down_projection_is_not_called_usual(self) -> None:
        levels = {k: v for k, v in LIKE_THE_DEMO["input"].items() if "gate" not in k}
        found = " ".join(answer(groups_of(scan_of({"input": levels}))))
        assert "inputs of down" in found
        assert "random weights" not in found

    def test_where_nothing_is_low_it_says_so(self) -> None:
        found = answer(groups_of(scan_of({"input": {"mlp.down_proj": [FLOOR, FLOOR + 2]}})))
        assert found[0].startswith("Nothing stands out: all 2 tensors")

    def test_it_compares_formats(self) -> None:
        scan = scan_of(LIKE_THE_DEMO, formats=TestSitesAndFormats.FORMATS)
        assert any("nvfp4:token +1.5" in sentence for sentence in answer(groups_of(scan)))

    def test_few_prompts_are_doubted(self) -> None:
        found = answer(groups_of(scan_of(LIKE_THE_DEMO, prompts=8)))
        assert any("8 prompts" in sentence for sentence in found)
        assert not any("prompts" in s for s in answer(groups_of(like_the_demo())))

    def test_broken_tensors_come_first(self) -> None:
        scan = thorough(rising(3))
        assert scan.records[1].sums is not None
        sums = scan.records[1].sums.model_copy(update={"nonfinite": 1})
        records = list(scan.records)
        records[1] = records[1].model_copy(update={"sums": sums})
        found = answer(groups_of(scan.model_copy(update={"records": records})))
        assert found[0].startswith("NaN or infinite values in 1 tensor of 3, the output in layer 1")


class TestCharts:
    def test_a_profile_has_a_line_for_each_format_and_their_floors(self) -> None:
        groups = groups_of(scan_of(LIKE_THE_DEMO, formats=TestSitesAndFormats.FORMATS))
        chart = profile(groups, "sqnr_db")
        assert chart.x == tuple(range(12))
        assert [series.label for series in chart.series] == ["mxfp4:floor", "nvfp4:token"]
        assert chart.references[0] == ("Gaussian floor of mxfp4:floor", FLOOR)
        assert len(chart.series[0].intervals) == 12

    def test_a_heat_map_has_a_row_for_each_kind(self) -> None:
        chart = kind_heat(groups_of(like_the_demo())[0])
        assert [series.label for series in chart.series] == ["q", "o", "gate", "up", "down"]
        assert chart.series[1].values[3] == pytest.approx(-3.4, abs=0.2)

    def test_token_quantiles_have_a_value_for_each_layer(self) -> None:
        chart = token_chart(groups_of(thorough([0.2, 0.3]))[0])
        assert [len(series.values) for series in chart.series] == [2, 2, 2]
