"""Differences and their intervals, against figures by hand and against a known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from made_pairs import changed, prompts, scan_of
from made_scans import prototype
from scipy.stats import bootstrap

from srdd.comparison import compare_scans
from srdd.comparison.differences import difference
from srdd.documents.prototype import read_prototype
from srdd.documents.scan import Scan


def steady(*noise: float, replicates: int = 20) -> list[list[float]]:
    """Layers whose every replicate has the same noise."""
    return [[value] * replicates for value in noise]


class TestByHand:
    def test_figures_and_differences_of_every_metric(self) -> None:
        # Signal 100 a replicate; noise 1.0 -> 20 dB, 2.0 -> 16.99 dB.
        comparison = compare_scans(scan_of(steady(1.0)), scan_of(steady(2.0), weights="b" * 64))
        (layer,) = comparison.groups[0].rows
        sqnr = layer.metrics["sqnr_db"]
        assert (sqnr.old, sqnr.new) == pytest.approx((20.0, 20.0 - 10 * math.log10(2)))
        assert sqnr.difference == pytest.approx(-3.0103, abs=1e-4)
        assert sqnr.verdict == "worse"
        dead = layer.metrics["deadzone"]  # 10 and 20 of 1000 elements
        assert (dead.old, dead.new, dead.difference) == pytest.approx((0.01, 0.02, 0.01))
        assert dead.verdict == "worse"
        relative = layer.metrics["relative_error"]  # 100 and 200 over 1000 values
        assert (relative.old, relative.new) == pytest.approx((0.1, 0.2))
        l1 = layer.metrics["relative_l1"]
        assert l1.difference == pytest.approx(10 / 500 * (math.sqrt(2) - 1))
        assert layer.metrics["saturation"].verdict == "no difference seen"  # 0 in both

    def test_the_other_way_round_it_is_better(self) -> None:
        comparison = compare_scans(scan_of(steady(2.0)), scan_of(steady(1.0), weights="b" * 64))
        (layer,) = comparison.groups[0].rows
        assert layer.metrics["sqnr_db"].difference == pytest.approx(+3.0103, abs=1e-4)
        words = {name: one.verdict for name, one in layer.metrics.items()}
        for name in ("sqnr_db", "deadzone", "relative_error", "relative_l1"):
            assert words[name] == "better", name

    def test_all_layers_together_add_sums_and_do_not_average_decibels(self) -> None:
        # Noise 1 and 3 against 1 and 1: 200/4 against 200/2.
        comparison = compare_scans(scan_of(steady(1.0, 3.0)), scan_of(steady(1.0, 1.0)))
        overall = comparison.groups[0].overall
        assert overall is not None
        one = overall["sqnr_db"]
        assert one.old == pytest.approx(10 * math.log10(200 / 4))
        assert one.new == pytest.approx(10 * math.log10(200 / 2))
        mean = (20 + 10 * math.log10(100 / 3)) / 2
        assert one.old != pytest.approx(mean, abs=0.05)

    def test_tensors_of_a_layer_add_their_sums(self) -> None:
        old = {"q_proj": steady(1.0), "down_proj": steady(3.0)}
        new = {"q_proj": steady(2.0), "down_proj": steady(2.0)}
        comparison = compare_scans(scan_of(old, site="input"), scan_of(new, site="input"))
        one = comparison.groups[0].rows[0].metrics["sqnr_db"]
        assert one.old == pytest.approx(10 * math.log10(200 / 4))
        assert one.verdict == "no difference seen"  # the sums are the same

    def test_the_median_is_that_of_the_layers(self) -> None:
        old, new = steady(1.0, 1.0, 1.0), steady(1.0, 2.0, 10.0)
        group = compare_scans(scan_of(old), scan_of(new)).groups[0]
        assert group.median("sqnr_db") == pytest.approx(-3.0103, abs=1e-4)
        assert group.verdicts("sqnr_db") == {"worse": 2, "no difference seen": 1}


class TestIntervals:
    """Prompts vary by far more than the two scans differ."""

    rng = np.random.default_rng(7)
    prompt = np.exp(rng.normal(0, 0.5, 40))  # what each prompt does to both
    old = prompt * np.exp(rng.normal(0, 0.02, 40))
    new = 1.1 * prompt * np.exp(rng.normal(0, 0.02, 40))

    def compared(self, texts: list[str]) -> object:
        return (
            compare_scans(scan_of([self.old]), scan_of([self.new], weights="b" * 64, texts=texts))
            .groups[0]
            .rows[0]
            .metrics["sqnr_db"]
        )

    def test_the_same_prompts_are_paired_and_show_the_difference(self) -> None:
        one = self.compared(prompts(40))
        assert one.verdict == "worse"  # type: ignore[attr-defined]
        low, high = one.interval  # type: ignore[attr-defined]
        assert low < -10 * math.log10(1.1) < high
        assert high - low < 0.1

    def test_other_prompts_are_independent_and_do_not(self) -> None:
        one = self.compared(prompts(40, first=40))
        assert one.verdict == "no difference seen"  # type: ignore[attr-defined]
        low, high = one.interval  # type: ignore[attr-defined]
        assert high - low > 1

    def test_an_independent_interval_has_the_width_of_both_errors_together(self) -> None:
        # Normal theory: the log of a mean of n lognormal values, by the delta method.
        one = self.compared(prompts(40, first=40))
        errors = [
            10 / math.log(10) * values.std(ddof=0) / values.mean() / math.sqrt(40)
            for values in (self.old, self.new)
        ]
        low, high = one.interval  # type: ignore[attr-defined]
        assert (high - low) / 2 == pytest.approx(1.96 * math.hypot(*errors), rel=0.15)

    @pytest.mark.parametrize("paired", [True, False])
    def test_scipy_s_bootstrap_gives_about_the_same_interval(self, paired: bool) -> None:
        one = self.compared(prompts(40, first=0 if paired else 40))
        drawn = bootstrap(
            (self.old, self.new),
            lambda a, b, axis: 10 * np.log10(a.sum(axis=axis) / b.sum(axis=axis)),
            n_resamples=20_000,
            paired=paired,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        width = drawn.high - drawn.low
        low, high = one.interval  # type: ignore[attr-defined]
        # A percentile bootstrap of 40 prompts is too narrow.
        assert low == pytest.approx(drawn.low, abs=0.15 * width)
        assert high == pytest.approx(drawn.high, abs=0.15 * width)
        assert width < high - low < 1.3 * width

    def test_the_same_prompts_are_paired_in_any_order(self) -> None:
        old, new = scan_of([self.old]), scan_of([self.new], texts=prompts(40)[::-1])
        assert compare_scans(old, new).groups[0].intervals == "paired"

    @pytest.mark.parametrize("rules", [("order", "order"), ("order", "prompt")])
    def test_replicates_that_follow_another_order_are_not_paired(
        self, rules: tuple[str, str]
    ) -> None:
        old = changed(scan_of([self.old]), "calibration", replicate_rule=rules[0])
        new = scan_of([self.new[::-1]], texts=prompts(40)[::-1])
        new = changed(new, "calibration", replicate_rule=rules[1])
        assert compare_scans(old, new).groups[0].intervals == "independent"

    def test_a_skipped_first_token_is_not_paired(self) -> None:
        new = changed(scan_of([self.new]), "calibration", skip_first_token=True)
        assert compare_scans(scan_of([self.old]), new).groups[0].intervals == "independent"

    @pytest.mark.parametrize("paired", [True, False])
    def test_nineteen_of_twenty_intervals_hold_the_truth(self, paired: bool) -> None:
        """300 layers with noise of their own, all with the same true difference."""
        rng = np.random.default_rng([3, paired])
        layers, replicates, truth = 300, 64, -10 * math.log10(1.2)

        def noise(factor: float, prompt: np.ndarray) -> np.ndarray:
            own = np.exp(rng.normal(0, 0.1, (layers, replicates)))
            return factor * prompt * own

        shared = np.exp(rng.normal(0, 0.3, (layers, replicates)))
        other = shared if paired else np.exp(rng.normal(0, 0.3, (layers, replicates)))
        old, new = noise(1.0, shared), noise(1.2, other)
        texts = prompts(replicates, first=0 if paired else 1000)
        group = compare_scans(scan_of(list(old)), scan_of(list(new), texts=texts)).groups[0]
        assert group.intervals == ("paired" if paired else "independent")
        covered = [
            one.interval[0] <= truth <= one.interval[1]
            for layer in group.rows
            for one in [layer.metrics["sqnr_db"]]
            if one.interval
        ]
        assert len(covered) == layers
        # 300 layers tell the coverage to 1.3 %.
        assert 0.91 <= np.mean(covered) <= 0.985

    def test_layers_that_do_not_differ_are_seldom_called_so(self) -> None:
        rng = np.random.default_rng(11)
        prompt = np.exp(rng.normal(0, 0.3, (300, 64)))
        old, new = (prompt * np.exp(rng.normal(0, 0.1, (300, 64))) for _ in range(2))
        (group,) = compare_scans(scan_of(list(old)), scan_of(list(new))).groups
        verdicts = group.verdicts("sqnr_db")
        assert 0.02 <= (verdicts["better"] + verdicts["worse"]) / 300 <= 0.10

    def test_a_single_prompt_has_no_interval(self) -> None:
        group = compare_scans(scan_of([[1.0]]), scan_of([[2.0]])).groups[0]
        assert group.intervals == "none"
        one = group.rows[0].metrics["sqnr_db"]
        assert (one.verdict, one.interval) == ("no interval", None)
        assert one.difference == pytest.approx(-3.0103, abs=1e-4)

    def test_scans_with_different_numbers_of_replicates(self) -> None:
        group = compare_scans(
            scan_of([self.old[:12]]), scan_of([self.new], texts=prompts(40))
        ).groups[0]
        assert group.intervals == "independent"
        assert group.rows[0].metrics["sqnr_db"].interval is not None


class TestExact:
    def test_weights_need_no_interval(self) -> None:
        old, new = scan_of([[1.0], [1.0]], site="weight"), scan_of([[1.01], [1.0]], site="weight")
        group = compare_scans(old, new).groups[0]
        assert group.intervals == "exact"
        words = [layer.metrics["sqnr_db"].verdict for layer in group.rows]
        assert words == ["worse", "no difference seen"]
        assert group.overall is not None
        assert group.overall["sqnr_db"].exact

    def test_last_digits_are_no_difference(self) -> None:
        assert difference("sqnr_db", 18.0, 18.0009, exact=True).verdict == "no difference seen"
        assert difference("sqnr_db", 18.0, 18.0011, exact=True).verdict == "better"
        assert difference("deadzone", 0.2, 0.200019, exact=True).verdict == "no difference seen"
        assert difference("deadzone", 0.2, 0.200021, exact=True).verdict == "worse"

    def test_exact_reconstruction_is_better_than_any_number(self) -> None:
        none, some = scan_of([[0.0]], site="weight"), scan_of([[1.0]], site="weight")
        words = [
            compare_scans(a, b).groups[0].rows[0].metrics["sqnr_db"].verdict
            for a, b in ((none, some), (some, none), (none, none))
        ]
        assert words == ["worse", "better", "no difference seen"]


class TestUndefined:
    def test_a_layer_of_zeros_is_undefined_and_named_so(self) -> None:
        old = scan_of(steady(1.0, 1.0))
        new = Scan.model_validate(scan_of(steady(1.0, 0.0)).model_dump())
        record = new.records[1].model_copy(
            update={
                "replicates": new.records[1].replicates.model_copy(  # type: ignore[union-attr]
                    update={"x2": [0.0] * 20, "nonzero": [0] * 20, "abs_x": [0.0] * 20}
                )
            }
        )
        new = new.model_copy(update={"records": [new.records[0], record]})
        group = compare_scans(old, new).groups[0]
        one = group.rows[1].metrics["sqnr_db"]
        assert (one.new, one.difference, one.verdict) == (None, None, "undefined")
        assert group.rows[0].metrics["sqnr_db"].verdict == "no difference seen"

    def test_metrics_without_meaning_at_a_site_stay_undefined(self) -> None:
        scan = scan_of({"q_proj": steady(1.0)}, site="linear")
        records = [record.model_copy(update={"operands": "both"}) for record in scan.records]
        scan = scan.model_copy(update={"records": records})
        (layer,) = compare_scans(scan, scan).groups[0].rows
        assert layer.metrics["sqnr_db"].old == pytest.approx(20.0)
        for metric in ("deadzone", "saturation", "relative_error"):
            assert layer.metrics[metric].old is None, metric

    def test_a_scan_of_the_prototype_has_figures_and_no_intervals(self) -> None:
        old = read_prototype(prototype(), "old")
        changed_file = prototype()
        for layer in changed_file["report"]["per_layer"]:
            layer["sqnr_db"] -= 0.5
        comparison = compare_scans(old, read_prototype(changed_file, "new"))
        (group,) = comparison.groups
        assert group.intervals == "none"
        assert group.overall is None
        for layer in group.rows:
            one = layer.metrics["sqnr_db"]
            assert one.difference == pytest.approx(-0.5)
            assert one.verdict == "no interval"
            assert layer.metrics["saturation"].verdict == "undefined"
        assert any("made by the prototype" in remark.text for remark in comparison.remarks)
