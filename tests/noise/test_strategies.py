"""Strategies: the published figures, what must hold for any scan, and what is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scans import PROTOTYPE, made, rising, thorough, with_metric

from srdd.documents.identity import fingerprint
from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan, load_scan
from srdd.errors import InputError, UsageError
from srdd.noise import ALWAYS_EXCLUDED, figures_of, suggest
from srdd.noise.strategies import mirrored, rounded

GUIDE_MULTIPLIERS = [
    *(0.83, 0.89, 0.93, 0.93, 0.93, 0.98, 0.99, 1.01, 1.00, 1.02),
    *(1.06, 1.10, 1.12, 1.11, 1.15, 1.17, 1.15, 1.12, 1.09, 1.07),
    *(1.02, 0.99, 0.96, 0.94, 0.91, 0.90, 0.79, 0.88),
]

REFERENCE = load_scan(PROTOTYPE)


def multipliers(config: RinConfig) -> dict[int, float]:
    return {entry.layer: entry.multiplier for entry in config.layers}


def ordered(config: RinConfig, layers: int) -> list[float]:
    actual = multipliers(config)
    return [actual.get(layer, 0.0) for layer in range(layers)]


class TestPublishedFigures:
    def test_ten_worst_by_relative_error_in_order(self) -> None:
        config = suggest(REFERENCE, "targeted")
        assert list(multipliers(config)) == [15, 14, 16, 17, 12, 13, 11, 18, 19, 10]
        assert set(multipliers(config).values()) == {1.0}

    def test_five_worst_by_sqnr_in_order(self) -> None:
        config = suggest(REFERENCE, "targeted", metric="sqnr_db", top_k=5)
        assert list(multipliers(config)) == [27, 26, 3, 2, 4]

    def test_distance_from_the_floor_ranks_as_sqnr_does(self) -> None:
        config = suggest(REFERENCE, "targeted", metric="vs_floor_db", top_k=5)
        assert list(multipliers(config)) == [27, 26, 3, 2, 4]

    def test_multipliers_of_the_guide_s_table(self) -> None:
        actual = ordered(suggest(REFERENCE, "variable"), 28)
        errors = [record.metrics.relative_error for record in REFERENCE.records]
        mean = math.fsum(e for e in errors if e is not None) / 28
        assert mean == pytest.approx(0.36409, abs=5e-6)
        assert actual == pytest.approx([e / mean for e in errors if e is not None], abs=5e-5)
        for ours, theirs in zip(actual, GUIDE_MULTIPLIERS, strict=True):
            assert ours == pytest.approx(theirs, abs=0.007)

    def test_zones_by_depth_are_the_guide_s_tiers_with_its_schedules(self) -> None:
        high, medium = suggest(REFERENCE, "zone").tiers
        assert [entry.layer for entry in high.layers] == [*range(10, 20)]
        assert [entry.layer for entry in medium.layers] == [*range(4, 10), *range(20, 26)]
        assert (high.schedule.sigma_start, high.schedule.sigma_end) == (0.05, 0.001)
        assert (medium.schedule.sigma_start, medium.schedule.sigma_end) == (0.03, 0.0005)
        assert high.schedule.num_stages == medium.schedule.num_stages == 10

    def test_zones_by_natural_breaks(self) -> None:
        high, medium = suggest(REFERENCE, "zone", zones="breaks").tiers
        assert [entry.layer for entry in high.layers] == [*range(10, 20)]
        assert [entry.layer for entry in medium.layers] == [*range(5, 10), 20, 21, 22]

    def test_zones_by_the_guide_s_ranges_are_those_by_depth(self) -> None:
        zones = "0-3,4-9,10-19,20-25,26-27"
        by_range, by_depth = suggest(REFERENCE, "zone", zones=zones), suggest(REFERENCE, "zone")
        assert by_range.tiers == by_depth.tiers

    def test_the_layers_hardly_differ_so_uniform_is_recommended(self) -> None:
        for strategy in ("uniform", "targeted", "variable", "zone"):
            advice = suggest(REFERENCE, strategy).recommendation
            assert advice.strategy == "uniform"
            assert "hardly differ" in advice.reasons[0]
            assert "10 %" in advice.reasons[0]

    def test_sigma_0_05_is_26_db_and_0_01_is_40(self) -> None:
        for sigma, expected in ((0.05, 26.0), (0.01, 40.0)):
            config = suggest(REFERENCE, "uniform", sigma_start=sigma, sigma_end=0.0005)
            actual = config.layers[0]
            assert actual.signal_to_noise_db == pytest.approx(expected, abs=0.05)
            assert actual.sqnr_db == pytest.approx(17, abs=1)


errors = st.lists(st.floats(0.01, 1.0), min_size=2, max_size=12)
distinct_errors = st.lists(st.integers(1, 1000), min_size=2, max_size=12, unique=True).map(
    lambda values: [v / 1000 for v in values]
)
SLOW = settings(max_examples=25, deadline=None)


class TestForAnyScan:
    @SLOW
    @given(errors, st.sampled_from(["proportional", "inverse"]))
    def test_variable_multipliers_average_1(self, errors: list[float], direction: str) -> None:
        config = suggest(made(errors), "variable", direction=direction)
        actual = ordered(config, len(errors))
        assert math.fsum(actual) / len(actual) == pytest.approx(1, abs=5e-5)

    @SLOW
    @given(errors, st.floats(0.1, 5))
    def test_cap_is_the_largest_multiplier_and_keeps_ratios(
        self, errors: list[float], cap: float
    ) -> None:
        plain = ordered(suggest(made(errors), "variable"), len(errors))
        capped = ordered(suggest(made(errors), "variable", cap=cap), len(errors))
        assert max(capped) == pytest.approx(cap, abs=5e-5)
        assert capped == pytest.approx([v * cap / max(plain) for v in plain], rel=2e-3)

    @SLOW
    @given(errors)
    def test_clip_keeps_multipliers_between_its_ends(self, errors: list[float]) -> None:
        plain = ordered(suggest(made(errors), "variable"), len(errors))
        clipped = ordered(suggest(made(errors), "variable", clip=(0.8, 1.2)), len(errors))
        assert clipped == [min(max(v, 0.8), 1.2) for v in plain]

    @SLOW
    @given(distinct_errors, st.sampled_from(["targeted", "variable", "zone"]), st.booleans())
    def test_equal_energy_is_equal(self, errors: list[float], strategy: str, breaks: bool) -> None:
        options: dict[str, Any] = {"zones": "breaks"} if strategy == "zone" and breaks else {}
        scan = made(errors)
        if strategy == "zone" and not breaks:
            options = {"zones": ",".join(map(str, range(len(errors))))}
        config = suggest(scan, strategy, equal_energy=True, **options)
        uniform = suggest(scan, "uniform")
        assert config.energy.mean == pytest.approx(uniform.energy.mean, rel=1e-9)
        assert config.energy.relative_to_uniform == pytest.approx(1, rel=1e-9)
        assert energy_by_hand(config) == pytest.approx(energy_by_hand(uniform), rel=1e-9)

    @SLOW
    @given(distinct_errors, st.sampled_from(["targeted", "variable"]))
    def test_with_one_shape_equal_energy_is_equal_in_every_stage(
        self, errors: list[float], strategy: str
    ) -> None:
        scan = made(errors)
        config = suggest(scan, strategy, equal_energy=True)
        uniform = suggest(scan, "uniform")
        for stage in range(10):
            actual, wanted = stage_energy(config, stage), stage_energy(uniform, stage)
            assert actual == pytest.approx(wanted, rel=1e-9)

    @SLOW
    @given(st.data(), distinct_errors, st.sampled_from(["targeted", "variable", "breaks"]))
    def test_a_permutation_of_layers_permutes_the_result(
        self, data: st.DataObject, errors: list[float], strategy: str
    ) -> None:
        order = data.draw(st.permutations(range(len(errors))))
        name = "zone" if strategy == "breaks" else strategy
        options: dict[str, Any] = {"zones": "breaks"} if strategy == "breaks" else {}
        before = suggest(made(errors), name, **options)
        after = suggest(made([errors[place] for place in order]), name, **options)
        assert sigma_by_layer(after) == pytest.approx(
            {order.index(layer): sigma for layer, sigma in sigma_by_layer(before).items()}
        )

    @SLOW
    @given(distinct_errors, st.integers(0, 5), st.sampled_from(["targeted", "variable", "zone"]))
    def test_controls_have_the_energy_of_their_strategy(
        self, errors: list[float], seed: int, strategy: str
    ) -> None:
        scan = made(errors)
        options: dict[str, Any] = {"zones": "breaks"} if strategy == "zone" else {}
        base = suggest(scan, strategy, **options)
        for control in ("inverse", "shuffled"):
            config = suggest(scan, strategy, control=control, seed=seed, **options)
            assert config.energy.mean == pytest.approx(base.energy.mean, rel=1e-9)
            assert sigma_by_layer(config) != sigma_by_layer(base)

    @SLOW
    @given(distinct_errors, st.integers(0, 5))
    def test_shuffled_deals_the_same_multipliers(self, errors: list[float], seed: int) -> None:
        scan = made(errors)
        base, dealt = suggest(scan, "variable"), suggest(scan, "shuffled", seed=seed)
        assert sorted(multipliers(dealt).values()) == sorted(multipliers(base).values())
        assert dealt == suggest(scan, "shuffled", seed=seed)

    @SLOW
    @given(
        st.lists(st.floats(0.0, 10.0, allow_subnormal=False), min_size=2, max_size=12).filter(any)
    )
    def test_the_mirror_image_averages_1_and_is_not_negative(self, values: list[float]) -> None:
        images = mirrored(values)
        assert math.fsum(images) / len(images) == pytest.approx(1, abs=1e-9)
        assert min(images) >= 0
        mean = sum(values) / len(values)
        if max(values) <= 2 * mean:
            expected = [2 - v / mean for v in values]
            assert images == pytest.approx(expected, abs=1e-9)


def stage_energy(config: RinConfig, stage: int) -> float:
    return math.fsum(
        (entry.multiplier * tier.sigmas[stage]) ** 2 * sum(m.size for m in entry.modules)
        for tier in config.tiers
        for entry in tier.layers
    )


def energy_by_hand(config: RinConfig) -> float:
    stages = config.tiers[0].schedule.num_stages
    return math.fsum(stage_energy(config, stage) for stage in range(stages)) / stages


def sigma_by_layer(config: RinConfig) -> dict[int, float]:
    return {entry.layer: entry.sigma for entry in config.layers}


class TestControls:
    def test_the_mirror_image_of_the_worst_layers_is_the_others(self) -> None:
        config = suggest(REFERENCE, "targeted", control="inverse")
        assert set(multipliers(config)) == set(range(28)) - set(range(10, 20))
        assert len(set(multipliers(config).values())) == 1

    def test_the_inverse_of_zones_reverses_their_schedules(self) -> None:
        base = suggest(REFERENCE, "zone")
        actual = {tier.name: tier for tier in suggest(REFERENCE, "zone", control="inverse").tiers}
        assert set(actual) == {"medium", "low"}
        low, high = actual["low"].schedule, base.tiers[0].schedule
        assert low.sigma_end / low.sigma_start == pytest.approx(high.sigma_end / high.sigma_start)
        assert [entry.layer for entry in actual["low"].layers] == [0, 1, 2, 3, 26, 27]

    def test_a_control_s_name_as_a_strategy_is_that_of_variable(self) -> None:
        for control in ("inverse", "shuffled"):
            config = suggest(REFERENCE, control)
            assert config == suggest(REFERENCE, "variable", control=control)
            assert (config.strategy, config.control) == ("variable", control)
            assert config.label == control

    def test_there_is_no_control_of_uniform_noise(self) -> None:
        with pytest.raises(UsageError, match="inverse would change nothing"):
            suggest(REFERENCE, "uniform", control="inverse")

    def test_another_seed_deals_otherwise(self) -> None:
        assert suggest(REFERENCE, "shuffled", seed=1) != suggest(REFERENCE, "shuffled", seed=2)


class TestWeights:
    """Of layers by a metric in decibels, or in something else."""

    def test_decibels_weigh_as_amplitudes(self) -> None:
        actual = ordered(suggest(REFERENCE, "variable", metric="sqnr_db"), 28)
        amplitudes = [10 ** (-(r.metrics.sqnr_db or 0) / 20) for r in REFERENCE.records]
        mean = sum(amplitudes) / 28
        assert actual == pytest.approx([a / mean for a in amplitudes], abs=5e-5)

    def test_the_floor_cancels_out(self) -> None:
        by_sqnr = ordered(suggest(REFERENCE, "variable", metric="sqnr_db"), 28)
        by_floor = ordered(suggest(REFERENCE, "variable", metric="vs_floor_db"), 28)
        assert by_floor == pytest.approx(by_sqnr, abs=1.1e-4)

    def test_a_layer_better_than_the_floor_is_no_trouble(self) -> None:
        scan = made([0.05, 0.4])
        assert any((record.vs_floor_db or 0) > 0 for record in scan.records)
        actual = ordered(suggest(scan, "variable", metric="vs_floor_db"), 2)
        assert 0 < actual[0] < 1 < actual[1]

    def test_a_layer_without_error_gets_no_noise(self) -> None:
        scan = made([0.0, 0.3])
        assert list(multipliers(suggest(scan, "variable"))) == [1]

    def test_of_equally_bad_layers_the_first_ranks_first(self) -> None:
        scan = made([0.1, 0.3, 0.3, 0.3])
        assert list(multipliers(suggest(scan, "targeted", top_k=2))) == [1, 2]

    def test_several_tensors_of_a_layer_are_pooled(self) -> None:
        plain = thorough(rising(4))
        double = thorough(rising(4), tensors=("up", "down"), site="input")
        first, second = suggest(plain, "variable"), suggest(double, "variable")
        assert sigma_by_layer(first) == pytest.approx(sigma_by_layer(second), rel=1e-3)
        assert second.source.site == "input"
        actual = figures_of(double, site=None, format=None, metric="relative_error")
        assert len(actual) == 4
        assert actual.intervals[0] is not None


class TestChoosing:
    def test_a_fraction_of_the_layers(self) -> None:
        assert len(suggest(REFERENCE, "targeted", top_fraction=0.25).layers) == 7
        assert len(suggest(REFERENCE, "targeted", top_fraction=1).layers) == 28
        assert len(suggest(REFERENCE, "targeted", top_fraction=1e-6).layers) == 1

    def test_ten_layers_or_half_of_a_small_model(self) -> None:
        assert len(suggest(made(rising(12)), "targeted").layers) == 10
        assert len(suggest(made(rising(10)), "targeted").layers) == 5
        assert len(suggest(made(rising(3)), "targeted").layers) == 1

    def test_tiers_can_have_schedules_of_their_own(self) -> None:
        config = suggest(
            REFERENCE, "zone", tiers={"high": (0.02, 0.002), "medium": None, "low": (0.01, 0.001)}
        )
        assert [(t.name, t.schedule.sigma_start) for t in config.tiers] == [
            ("high", 0.02),
            ("low", 0.01),
        ]

    def test_tiers_follow_the_schedule_asked_for(self) -> None:
        high, medium = suggest(REFERENCE, "zone", sigma_start=0.01, sigma_end=0.01).tiers
        assert (high.schedule.sigma_start, high.schedule.sigma_end) == (0.01, 0.01)
        assert (medium.schedule.sigma_start, medium.schedule.sigma_end) == (0.006, 0.006)

    def test_two_zones_are_a_high_and_a_low_tier(self) -> None:
        config = suggest(REFERENCE, "zone", zones="0-13,14-27")
        assert [(tier.name, len(tier.layers)) for tier in config.tiers] == [("high", 14)]


class TestModules:
    def test_norms_are_named_and_measured_from_the_scan(self) -> None:
        scan = made(rising(3), gain=2.0, size=32)
        entry = suggest(scan, "uniform").layers[1]
        assert [module.name for module in entry.modules] == [
            "model.layers.1.input_layernorm",
            "model.layers.1.post_attention_layernorm",
        ]
        assert entry.modules[0].size == 32
        assert entry.modules[0].signal_to_noise_db == pytest.approx(20 * math.log10(2 / 0.05))
        assert entry.signal_to_noise_db == pytest.approx(20 * math.log10(2 / 0.05))

    def test_energy_is_the_sum_of_sigma_squared_over_noisy_weights(self) -> None:
        energy = suggest(made(rising(3), size=32), "uniform").energy
        assert energy.weights == 3 * 2 * 32
        assert energy.first_stage == pytest.approx(192 * 0.05**2)
        assert energy.relative_to_uniform == 1

    def test_without_names_every_layer_counts_as_one_weight_and_that_is_said(self) -> None:
        config = suggest(REFERENCE, "uniform")
        assert config.energy.weights is None
        assert config.energy.first_stage == pytest.approx(28 * 0.05**2)
        assert all(entry.modules == [] for entry in config.layers)
        assert any("every layer counts as one weight" in text for text in config.warnings)

    def test_an_excluded_norm_gets_no_noise_and_is_named(self) -> None:
        config = suggest(made(rising(3)), "uniform", exclude=["post_attention"])
        assert [len(entry.modules) for entry in config.layers] == [1, 1, 1]
        assert config.excluded[0] == "model.layers.0.post_attention_layernorm"
        assert config.exclude_patterns == [*ALWAYS_EXCLUDED, "post_attention"]

    def test_norms_with_an_unknown_gain_count_as_1_and_that_is_said(self) -> None:
        config = suggest(made(rising(3), gain=None), "uniform")
        assert config.layers[0].signal_to_noise_db == pytest.approx(26.02, abs=0.01)
        assert "the gain of 6 norms is unknown and counts as 1" in config.warnings

    def test_linears_warn_above_0_001(self) -> None:
        scan = made(rising(3))
        loud = suggest(scan, "uniform", layer_type="linear")
        assert any("collapsed within 4 steps" in text for text in loud.warnings)
        quiet = suggest(scan, "uniform", layer_type="linear", sigma_start=0.001)
        assert not any("collapsed" in text for text in quiet.warnings)
        assert quiet.layers[0].modules[0].name == "model.layers.0.mlp.up_proj"
        assert quiet.layers[0].modules[0].size == 64 * 128
        assert quiet.layers[0].signal_to_noise_db is None

    @pytest.mark.parametrize(
        ("scan", "options", "message"),
        [
            (made(rising(3), kind="layernorm"), {}, "its norms are: layernorm"),
            (made(rising(3)), {"exclude": ["layernorm"]}, "the exclusions leave no rmsnorm"),
            (made(rising(3), norms=()), {}, "the scan names no rmsnorm in any layer"),
            (made(rising(3), size=0), {}, "the scan names no rmsnorm in any layer"),
            (made(rising(3)), {"exclude": ["layers.1."]}, "layer 1 is to get noise and has no"),
            (made(rising(3)), {"exclude": [""]}, "an empty pattern excludes every module"),
            (made(rising(3)), {"layer_type": "norm"}, "unknown layer type 'norm'"),
        ],
    )
    def test_noise_that_would_land_nowhere_is_refused(
        self, scan: Scan, options: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(UsageError) as caught:
            suggest(scan, "uniform", **options)
        assert message in caught.value.message
        assert caught.value.hint


class TestRecommendation:
    def test_a_wide_and_stable_ranking_is_followed(self) -> None:
        scan = thorough(rising(12), site="input")
        for strategy in ("targeted", "variable", "zone"):
            advice = suggest(scan, strategy).recommendation
            assert advice.reasons == []
            assert advice.strategy == strategy

    def test_an_unstable_ranking_is_a_reason_for_uniform_noise(self) -> None:
        rng_like = [0.3 + 0.25 * ((7 * i) % 12) / 12 for i in range(12)]
        scan = made(rng_like, prompts=8, jitter=0.8)
        advice = suggest(scan, "targeted", top_k=4).recommendation
        assert advice.strategy == "uniform"
        assert any("Kendall's tau" in reason for reason in advice.reasons)
        assert any("the worst 4 layers are unstable" in reason for reason in advice.reasons)

    def test_few_tokens_are_a_warning(self) -> None:
        config = suggest(made(rising(12), prompts=8, tokens=96), "variable")
        assert any("96 in 8 prompts, and to rank" in text for text in config.warnings)
        assert any("takes 4,000 in 16 prompts or more" in text for text in config.warnings)
        enough = suggest(made(rising(12), prompts=16, tokens=4000), "variable")
        assert not any("few tokens" in text for text in enough.warnings)

    def test_another_site_than_the_noise_acts_on_is_a_warning(self) -> None:
        here = suggest(made(rising(12)), "variable").warnings
        assert any("ranked at site output" in t and "scan site input" in t for t in here)
        there = suggest(made(rising(12), site="input"), "variable").warnings
        assert not any("ranked at site" in text for text in there)

    def test_validation_and_rollout_filters_are_always_warnings(self) -> None:
        for strategy in ("uniform", "targeted", "variable", "zone", "inverse", "shuffled"):
            texts = suggest(made(rising(12)), strategy).warnings
            assert sum("validation" in text for text in texts) == 1
            assert sum("rollout filters" in text for text in texts) == 1

    def test_warnings_of_the_scan_are_handed_on(self) -> None:
        texts = suggest(made(rising(12), warnings=["3 values were NaN"]), "variable").warnings
        assert "from the scan: 3 values were NaN" in texts

    def test_a_single_layer_has_no_ranking(self) -> None:
        config = suggest(made([0.3]), "variable")
        assert multipliers(config) == {0: 1.0}
        assert "single layer" in config.recommendation.reasons[0]


class TestFingerprint:
    def test_it_survives_writing_and_reading(self) -> None:
        scan = made(rising(3))
        again = Scan.model_validate_json(scan.to_json())
        assert fingerprint(again) == fingerprint(scan) == suggest(scan, "uniform").source.scan

    def test_time_and_machine_do_not_enter_it_and_figures_do(self) -> None:
        scan = made(rising(3))
        later = scan.model_copy(update={"run": scan.run.model_copy(update={"started": "later"})})
        assert fingerprint(later) == fingerprint(scan)
        assert fingerprint(with_metric(scan, 0, deadzone=0.5)) != fingerprint(scan)


def without_layer(scan: Scan, layer: int) -> Scan:
    kept = [record for record in scan.records if record.layer != layer]
    return scan.model_copy(update={"records": kept})


REFUSED: list[tuple[Callable[[], Scan], str, dict[str, Any], str, str]] = [
    (lambda: REFERENCE, "targted", {}, "unknown strategy 'targted'", "targeted"),
    (lambda: REFERENCE, "variable", {"metric": "sqnr"}, "unknown metric 'sqnr'", "sqnr_db"),
    (lambda: REFERENCE, "variable", {"control": "none"}, "unknown control 'none'", "inverse"),
    (lambda: REFERENCE, "variable", {"site": "weight"}, "no site 'weight'", "output"),
    (lambda: REFERENCE, "variable", {"format": "nvfp4"}, "no format for 'nvfp4'", "mxfp4:floor"),
    (lambda: REFERENCE, "targeted", {"top_k": 29}, "top_k is 29, and the scan has 28", "1 to 28"),
    (lambda: REFERENCE, "targeted", {"top_k": 0}, "top_k is 0", "1 to 28"),
    (lambda: REFERENCE, "targeted", {"top_fraction": 0.0}, "top_fraction is 0", "at most 1"),
    (lambda: REFERENCE, "targeted", {"top_fraction": 1.1}, "top_fraction is 1.1", "at most 1"),
    (lambda: REFERENCE, "targeted", {"top_k": 1, "top_fraction": 0.5}, "both given", "one"),
    (
        lambda: REFERENCE,
        "variable",
        {"top_k": 3},
        "`top_k` belongs to strategy targeted",
        "targeted",
    ),
    (lambda: REFERENCE, "uniform", {"cap": 1.0}, "`cap` belongs to strategy variable", "variable"),
    (lambda: REFERENCE, "targeted", {"zones": "depth"}, "`zones` belongs to strategy zone", "zone"),
    (lambda: REFERENCE, "variable", {"direction": "up"}, "unknown direction 'up'", "inverse"),
    (lambda: REFERENCE, "variable", {"cap": 0.0}, "cap is 0", "such as 1"),
    (lambda: REFERENCE, "variable", {"cap": float("nan")}, "cap is nan", "such as 1"),
    (lambda: REFERENCE, "variable", {"clip": (1.2, 0.8)}, "clip 1.2 0.8 is no", "LOW and HIGH"),
    (lambda: REFERENCE, "variable", {"clip": (0.0, 0.0)}, "clip leaves no noise", "above 0"),
    (lambda: REFERENCE, "variable", {"num_stages": 2}, "num_stages 2", "3 stages"),
    (lambda: REFERENCE, "variable", {"sigma_end": 0.0}, "sigma_end 0 gives one noisy", "above 0"),
    (lambda: REFERENCE, "variable", {"sigma_end": 0.5}, "sigma_end 0.5 is above", "swap"),
    (lambda: REFERENCE, "variable", {"sigma_end": 1e-200}, "sigma goes from 0.05", "1e-12"),
    (
        lambda: REFERENCE,
        "zone",
        {"zones": "0-9,5-27"},
        "zone 5-27 must start at layer 10",
        "0-3,4-9",
    ),
    (
        lambda: REFERENCE,
        "zone",
        {"zones": "0-9,11-27"},
        "zone 11-27 must start at layer 10",
        "0-3,4-9",
    ),
    (lambda: REFERENCE, "zone", {"zones": "0-27"}, "zones need at least two tiers", "uniform"),
    (lambda: REFERENCE, "zone", {"tiers": {"top": None}}, "unknown tier 'top'", "high"),
    (lambda: REFERENCE, "zone", {"tiers": {"low": (0.1, 0.0)}}, "sigma_end 0 gives", "above 0"),
    (
        lambda: REFERENCE,
        "zone",
        {"tiers": {"high": None, "medium": None}},
        "no tier has noise",
        "high=",
    ),
    (lambda: made([0.3] * 4), "targeted", {}, "all 4 layers are equally bad", "uniform"),
    (lambda: made([0.3] * 4), "zone", {}, "all 4 layers are equally bad", "uniform"),
    (lambda: made([0.3]), "targeted", {}, "there is only one layer", "uniform"),
    (lambda: made([0.3] * 4), "inverse", {}, "inverse would change nothing", "tells layers apart"),
    (
        lambda: without_layer(REFERENCE, 5),
        "uniform",
        {},
        "the scan has no relative_error of layer 5",
        "scan the whole model",
    ),
    (
        lambda: without_layer(without_layer(REFERENCE, 5), 9),
        "variable",
        {},
        "no relative_error of layers 5, 9",
        "scan the whole model",
    ),
    (
        lambda: REFERENCE,
        "variable",
        {"metric": "relative_l1"},
        "relative_l1 of layer 0 is undefined: the prototype does not measure it",
        "relative_error, sqnr_db, deadzone, vs_floor_db",
    ),
    (
        lambda: with_metric(REFERENCE, 3, sqnr_db=None),
        "variable",
        {"metric": "sqnr_db"},
        "sqnr_db of layer 3 is undefined",
        "rank by another metric: relative_error",
    ),
]


@pytest.mark.parametrize(("scan", "strategy", "options", "message", "hint"), REFUSED)
def test_refused_with_the_reason_and_the_way_out(
    scan: Callable[[], Scan], strategy: str, options: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises((UsageError, InputError)) as caught:
        suggest(scan(), strategy, **options)
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_equal_layers_have_multiplier_1() -> None:
    assert set(multipliers(suggest(made([0.3] * 4), "variable")).values()) == {1.0}


def test_one_of_several_formats_has_to_be_named() -> None:
    scan = made(rising(3))
    other = [record.model_copy(update={"scale_rule": "even"}) for record in scan.records]
    both = scan.model_copy(
        update={
            "records": [*scan.records, *other],
            "settings": scan.settings.model_copy(update={"formats": ["mxfp4:floor", "mxfp4:even"]}),
        }
    )
    with pytest.raises(UsageError, match="several formats") as caught:
        suggest(both, "variable")
    assert "mxfp4:floor, mxfp4:even" in caught.value.hint
    assert suggest(both, "variable", format="mxfp4:even").source.scale_rule == "even"


def test_figures_that_the_scan_did_not_rank_are_resampled() -> None:
    figures = figures_of(thorough(rising(6)), site=None, format=None, metric="deadzone")
    tau, change = figures.stability(3)
    assert tau == pytest.approx(1, abs=0.1)
    assert change == pytest.approx(0, abs=0.1)
    assert replace(figures, metric="relative_error").stability(6) == (
        figures.scan.rankings[0].tau_halves,
        figures.scan.rankings[0].top_k_change,
    )


def several_sites(*sites: str) -> Scan:
    scans = [made(rising(6), site=site) for site in sites]
    return scans[0].model_copy(
        update={
            "records": [record for scan in scans for record in scan.records],
            "settings": scans[0].settings.model_copy(update={"sites": list(sites)}),
        }
    )


@pytest.mark.parametrize(
    ("sites", "layer_type", "wanted"),
    [
        (("output", "input"), "rmsnorm", "input"),
        (("output", "weight", "input"), "linear", "weight"),
        (("output", "input"), "linear", "input"),
        (("output", "weight"), "rmsnorm", "output"),
        (("weight",), "rmsnorm", "weight"),
    ],
)
def test_the_default_site_is_the_one_that_noise_acts_on(
    sites: tuple[str, ...], layer_type: str, wanted: str
) -> None:
    config = suggest(several_sites(*sites), "uniform", layer_type=layer_type)
    assert config.source.site == wanted
    # Of its own choice it warns only where the scan holds nothing better.
    assert not any("use site" in text for text in config.warnings)


def test_another_site_by_name_is_a_warning_that_names_the_better_one() -> None:
    config = suggest(several_sites("output", "input"), "uniform", site="output")
    assert any("use site input" in text for text in config.warnings)


@pytest.mark.parametrize(
    ("multiplier", "written"),
    [(1.16999999, 1.17), (0.83124999, 0.8312), (12.345678, 12.3457), (0.01234567, 0.01235)],
)
def test_multipliers_are_rounded_to_four_decimals_and_four_digits(
    multiplier: float, written: float
) -> None:
    assert rounded(multiplier) == written


def test_energies_are_those_of_the_rounded_multipliers() -> None:
    config = suggest(REFERENCE, "variable")
    squares = math.fsum(entry.multiplier**2 for entry in config.layers)
    assert all(entry.multiplier == round(entry.multiplier, 4) for entry in config.layers)
    assert config.energy.first_stage == pytest.approx(0.05**2 * squares, rel=1e-12)
