"""Intervals and rankings: whether they cover what they claim; scipy as a second opinion."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from srdd.numerics import sums
from srdd.numerics.confidence import (
    AT_ONCE,
    Error,
    draws,
    few_carry_most,
    few_prompts,
    intervals,
    kendall_tau,
    kendall_tau_interval,
    leave_one_out,
    mean_interval,
    stability,
)
from srdd.numerics.metrics import derive


def replicates(errors: np.ndarray) -> sums.Sums:
    """Replicates of 100 tokens of 10 values each with mean relative errors (replicates, layers)."""
    found = sums.new(*errors.shape)
    for name, value in (("tokens", 100), ("elements", 1000), ("nonzero", 1000)):
        found[..., sums.INDEX[name]] = value
    found[..., sums.INDEX["x2"]] = 1000.0
    found[..., sums.INDEX["e2"]] = 1000.0 * errors**2
    found[..., sums.INDEX["relative"]] = 1000.0 * errors
    return found


def coverage(errors: np.ndarray, truth: float, metric: str) -> float:
    """Share of trials (trials, replicates) whose interval includes `truth`."""
    ends = intervals(replicates(errors.T))[metric]
    return float(np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])))


@pytest.mark.parametrize("count", [4, 8, 64])
def test_an_interval_covers_the_truth_about_as_often_as_it_says(count: int) -> None:
    errors = np.random.default_rng(5).normal(0.3, 0.03, (2000, count))
    assert 0.935 <= coverage(errors, 0.3, "relative_error") <= 0.97


@pytest.mark.parametrize("count", [32, 64])
def test_it_covers_heavy_tails_where_a_percentile_bootstrap_does_not(count: int) -> None:
    rng = np.random.default_rng(6)
    trials, scale = 400, 1.5
    energies = rng.lognormal(0, scale, (count, trials))
    some = replicates(np.ones((count, trials)))
    some[..., sums.INDEX["e2"]] = energies
    some[..., sums.INDEX["x2"]] = 100.0
    truth = 20 - 10 * np.log10(np.exp(scale**2 / 2))
    ends = intervals(some)["sqnr_db"]
    assert np.mean((ends[:, 0] <= truth) & (truth <= ends[:, 1])) >= 0.9
    drawn = derive(np.tensordot(draws(count, 500, 1), some, axes=1))["sqnr_db"]
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)
    assert np.mean((low <= truth) & (truth <= high)) < 0.9


def test_the_error_is_that_of_the_jackknife_by_hand() -> None:
    values = np.array([1.0, 2.0, 4.0, 9.0])
    without = [values[np.arange(4) != n].mean() for n in range(4)]
    error = Error.of(leave_one_out(values) / 3)
    assert error.size == pytest.approx(values.std(ddof=1) / 2)
    deviations = np.array(without) - np.mean(without)
    kurtosis = 4 * (deviations**4).sum() / (deviations**2).sum() ** 2
    assert error.degrees == pytest.approx(min(4 / (kurtosis - 2), 3) if kurtosis > 2 else 3)


def test_two_replicates_have_one_degree_of_freedom() -> None:
    error = Error.of(np.array([0.2, 0.4]))
    assert error.degrees == pytest.approx(1)
    low, high = error.around(np.array(0.3))
    assert (low, high) == pytest.approx((0.3 - 12.706 * 0.1, 0.3 + 12.706 * 0.1), rel=1e-3)


def test_one_replicate_that_carries_everything_leaves_one_degree_of_freedom() -> None:
    values = np.array([1000.0, *np.linspace(0.9, 1.1, 63)])
    assert 1 <= Error.of(leave_one_out(values) / 63).degrees < 1.1


@pytest.mark.parametrize("degrees", [1, 1.3, 2, 3.7, 8, 31, 63, 1e6])
def test_the_quantile_is_student_s(degrees: float) -> None:
    one = Error(np.array(1.0), np.array(float(degrees)))
    assert one.around(np.array(0.0))[1] == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-4)


def test_independent_errors_have_welch_s_degrees_of_freedom() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, 9), rng.normal(0, 3, 17)
    by_welch = stats.ttest_ind(a, b, equal_var=False)
    error = Error(np.array(a.std(ddof=1) / 3), np.array(8.0)).minus(
        Error(np.array(b.std(ddof=1) / np.sqrt(17)), np.array(16.0))
    )
    assert error.degrees == pytest.approx(by_welch.df)
    assert error.size == pytest.approx((a.mean() - b.mean()) / by_welch.statistic)


def test_leaving_out_what_carries_nearly_everything_keeps_the_rest_exact() -> None:
    values = np.array([1e300, 1.0, 2.0])
    np.testing.assert_array_equal(leave_one_out(values), [3.0, 1e300, 1e300])


def test_ends_stay_within_what_the_metric_can_be() -> None:
    some = replicates(np.full((8, 1), 0.3))
    some[:4, 0, sums.INDEX["flushed"]] = 1000
    low, high = intervals(some)["deadzone"][0]
    assert 0 <= low < 0.5 < high <= 1
    some[0, 0, sums.INDEX["saturated"]] = 10
    assert intervals(some)["saturation"][0, 0] == 0


@pytest.mark.parametrize("records", [1, 3, 1201])
def test_records_in_parts_get_the_same_as_alone(records: int) -> None:
    some = replicates(np.random.default_rng(8).uniform(0.2, 0.4, (6, records)))
    together, alone = intervals(some), intervals(some[:, -1:])
    for name, ends in alone.items():
        np.testing.assert_array_equal(together[name][-1:], ends)


def test_memory_does_not_grow_with_the_records() -> None:
    def peak(records: int) -> int:
        many = replicates(np.full((16, records), 0.3))
        tracemalloc.start()
        intervals(many)
        peaked = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peaked - many.nbytes

    assert peak(10 * AT_ONCE) < 2 * peak(2 * AT_ONCE)


def test_the_interval_of_a_mean_over_prompts() -> None:
    values = np.array([2.0, 3.0, 7.0, 4.0])
    low, high = mean_interval(values, np.ones(4)) or (0, 0)
    assert (low + high) / 2 == pytest.approx(4)
    assert mean_interval(values, np.ones(4), least=0.0) == (max(low, 0.0), high)
    assert mean_interval(values[:1], np.ones(1)) is None
    assert mean_interval(np.array([1.0, np.inf]), np.ones(2)) is None


@pytest.mark.parametrize(
    ("prompts", "replicates", "text"),
    [
        (1, 1, "only 1 prompt: there are no intervals"),
        (2, 1, "only 2 prompts: too few for intervals"),
        (2, 2, "only 2 prompts: intervals may be too narrow"),
        (9, 8, "only 9 prompts: intervals may be too narrow"),
    ],
)
def test_few_prompts_are_said_to_be_few(prompts: int, replicates: int, text: str) -> None:
    assert (few_prompts(prompts, replicates) or "").startswith(text)
    assert few_prompts(10, replicates) is None


def test_a_few_prompts_that_carry_most_of_the_energy_are_noticed() -> None:
    some = replicates(np.full((32, 3), 0.3))
    some[:2, 1, sums.INDEX["x2"]] *= 1e4
    some[:2, 2, sums.INDEX["e2"]] *= 1e4
    number = few_carry_most(some)
    assert np.isnan(number[0])
    assert number[1:] == pytest.approx([2, 2], rel=0.01)
    assert np.isnan(few_carry_most(some[:8])).all()  # few prompts have a warning of their own


def test_an_interval_holds_the_pooled_figure() -> None:
    drawn = replicates(np.random.default_rng(7).uniform(0.2, 0.4, (64, 5)))
    pooled = derive(drawn.sum(axis=0))
    for name in ("sqnr_db", "relative_error"):
        ends = intervals(drawn)[name]
        assert (ends[:, 0] <= pooled[name]).all()
        assert (pooled[name] <= ends[:, 1]).all()


def test_a_single_replicate_says_nothing_about_spread() -> None:
    assert np.isnan(intervals(replicates(np.full((1, 3), 0.3)))["sqnr_db"]).all()


def test_replicates_without_tokens_do_not_count() -> None:
    some = replicates(np.random.default_rng(8).uniform(0.2, 0.4, (8, 2)))
    padded = np.concatenate([some, sums.new(56, 2)])
    for name, ends in intervals(some).items():
        np.testing.assert_array_equal(ends, intervals(padded)[name])


@pytest.mark.parametrize("seed", range(5))
def test_kendalls_tau_agrees_with_scipy_also_with_ties(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 6, 20).astype(float), rng.integers(0, 6, 20).astype(float)
    assert kendall_tau(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)


def test_kendalls_tau_of_constant_scores_is_undefined() -> None:
    assert np.isnan(kendall_tau(np.ones(4), np.arange(4.0)))


def test_clearly_different_layers_have_a_stable_ranking() -> None:
    errors = np.linspace(0.2, 0.4, 28) + np.random.default_rng(1).normal(0, 0.0005, (64, 28))
    found = stability(replicates(errors), "relative_error", 10)
    assert found.tau_halves is not None
    assert found.tau_halves > 0.98
    assert found.top_k_change == 0.0


def test_layers_that_differ_by_less_than_the_noise_have_none() -> None:
    errors = np.random.default_rng(2).normal(0.3, 0.05, (64, 28))
    found = stability(replicates(errors), "relative_error", 10)
    assert found.tau_halves is not None
    assert abs(found.tau_halves) < 0.4
    assert found.top_k_change is not None
    assert found.top_k_change > 0.5


@pytest.mark.parametrize(("metric", "worst"), [("relative_error", 0), ("sqnr_db", 0)])
def test_the_worst_come_first_whichever_way_the_metric_points(metric: str, worst: int) -> None:
    # One bad layer among good ones: the set of the one worst layer never changes.
    errors = np.full((32, 6), 0.2) + np.random.default_rng(3).normal(0, 0.01, (32, 6))
    errors[:, worst] = 0.5
    assert stability(replicates(errors), metric, 1).top_k_change == 0.0


def test_the_spread_is_the_coefficient_of_variation() -> None:
    errors = np.tile([0.2, 0.3, 0.4], (4, 1))
    found = stability(replicates(errors), "relative_error", 2)
    assert found.spread == pytest.approx(0.1 / 0.3)


def test_the_spread_of_decibels_is_that_of_amplitudes() -> None:
    errors = np.tile([0.2, 0.3, 0.4], (4, 1))
    assert stability(replicates(errors), "sqnr_db", 2).spread == pytest.approx(0.1 / 0.3)


@pytest.mark.parametrize(("layers", "top_k"), [(2, 1), (3, 1), (12, 6), (28, 10)])
def test_the_set_of_the_worst_is_at_most_half_of_the_layers(layers: int, top_k: int) -> None:
    errors = np.random.default_rng(2).normal(0.3, 0.05, (64, layers))
    result = stability(replicates(errors), "relative_error", 10)
    assert result.top_k == top_k
    assert result.top_k_change is not None
    assert result.top_k_change > 0


@pytest.mark.parametrize("shape", [(1, 5), (8, 1)])
def test_one_replicate_or_one_layer_has_no_ranking_to_judge(shape: tuple[int, int]) -> None:
    errors = np.random.default_rng(4).uniform(0.2, 0.4, shape)
    found = stability(replicates(errors), "relative_error", 3)
    assert found.tau_halves is None
    assert found.top_k_change is None


def test_tau_of_many_is_that_of_scipy_ties_included() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 200, 700).astype(float), rng.normal(size=700)
    b[:400] = a[:400]
    assert kendall_tau(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)


def test_an_interval_of_tau_is_the_jackknife_s_by_hand() -> None:
    rng = np.random.default_rng(1)
    signal = np.arange(12.0)
    groups = [signal + rng.normal(0, 6, (40, 12)) for _ in range(2)]
    whole = [each.mean(axis=0) for each in groups]
    without = [np.stack([np.delete(e, n, axis=0).mean(axis=0) for n in range(40)]) for e in groups]
    interval = kendall_tau_interval(*whole, *without)
    assert interval is not None
    taus = [stats.kendalltau(a, b).statistic for a, b in zip(*without, strict=True)]
    error = np.sqrt(39 / 40 * np.square(taus - np.mean(taus)).sum())
    tau = stats.kendalltau(*whole).statistic
    assert interval[0] <= tau <= interval[1]
    if interval[1] < 1:
        assert interval[1] - tau >= 1.9 * error
    assert interval[1] <= 1
    assert kendall_tau_interval(*whole, without[0][:1], without[1][:1]) is None
    assert kendall_tau_interval(whole[0], np.ones(12), *without) is None
