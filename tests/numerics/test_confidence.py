"""Intervals and rankings: whether they cover what they claim; scipy as a second opinion."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy import stats

from srdd.numerics import sums
from srdd.numerics.confidence import CHUNK, intervals, kendall_tau, stability
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


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    truth, hits, trials = 0.3, 0, 300
    for trial in range(trials):
        errors = rng.normal(truth, 0.03, (64, 1))
        low, high = intervals(replicates(errors), resamples=300, seed=trial)["relative_error"][0]
        hits += low <= truth <= high
    assert 0.90 <= hits / trials <= 0.985


def test_with_four_prompts_intervals_are_too_narrow_as_documented() -> None:
    rng = np.random.default_rng(6)
    truth, hits, trials = 0.3, 0, 300
    for trial in range(trials):
        errors = rng.normal(truth, 0.03, (4, 1))
        low, high = intervals(replicates(errors), resamples=300, seed=trial)["relative_error"][0]
        hits += low <= truth <= high
    assert hits / trials < 0.90


def test_an_interval_holds_the_pooled_figure() -> None:
    drawn = replicates(np.random.default_rng(7).uniform(0.2, 0.4, (64, 5)))
    pooled = derive(drawn.sum(axis=0))
    for name in ("sqnr_db", "relative_error"):
        ends = intervals(drawn)[name]
        assert (ends[:, 0] <= pooled[name]).all()
        assert (pooled[name] <= ends[:, 1]).all()


def test_many_records_get_what_each_gets_alone() -> None:
    many = replicates(np.random.default_rng(9).uniform(0.2, 0.4, (8, CHUNK + 3)))
    together = intervals(many, resamples=50)
    for place in (0, CHUNK - 1, CHUNK, CHUNK + 2):
        alone = intervals(many[:, place : place + 1], resamples=50)
        for name, ends in together.items():
            np.testing.assert_allclose(ends[place], alone[name][0], rtol=1e-12)


def test_memory_does_not_grow_with_the_records() -> None:
    def peak(records: int) -> int:
        many = replicates(np.full((4, records), 0.3))
        tracemalloc.start()
        intervals(many, resamples=200)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    assert peak(20 * CHUNK) < 2 * peak(2 * CHUNK)


def test_a_single_replicate_says_nothing_about_spread() -> None:
    assert np.isnan(intervals(replicates(np.full((1, 3), 0.3)))["sqnr_db"]).all()


def test_replicates_without_tokens_do_not_count() -> None:
    some = replicates(np.random.default_rng(8).uniform(0.2, 0.4, (8, 2)))
    padded = np.concatenate([some, sums.new(56, 2)])
    for name, ends in intervals(some).items():
        np.testing.assert_array_equal(ends, intervals(padded)[name])


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    some = replicates(np.random.default_rng(9).uniform(0.2, 0.4, (16, 2)))
    first, again, other = (intervals(some, seed=s)["sqnr_db"] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


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


@pytest.mark.parametrize("shape", [(1, 5), (8, 1)])
def test_one_replicate_or_one_layer_has_no_ranking_to_judge(shape: tuple[int, int]) -> None:
    errors = np.random.default_rng(4).uniform(0.2, 0.4, shape)
    found = stability(replicates(errors), "relative_error", 3)
    assert found.tau_halves is None
    assert found.top_k_change is None
