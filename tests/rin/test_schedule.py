"""Sigma by stage and by step, as trainers do it, and what is refused."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from srdd.errors import UsageError
from srdd.rin.schedule import schedule, sigma_at, stage_of

PUBLISHED = [0, 0.05, 0.0281, 0.0158, 0.0089, 0.005, 0.0028, 0.0016, 0.00089, 0.0005]
"""0.05 to 0.0005 in ten stages, as published: two to three significant digits."""


def test_the_published_stages() -> None:
    sigmas = schedule(0.05, 0.0005, 10).sigmas
    assert len(sigmas) == 10
    assert sigmas == pytest.approx(PUBLISHED, rel=0.015)
    assert sigmas[1] == 0.05
    assert sigmas[-1] == 0.0005


def test_the_published_run_of_29_steps() -> None:
    made = schedule(0.05, 0.0005, 10)
    found = [sigma_at(made, step, 29) for step in range(30)]
    assert found == pytest.approx([sigma for sigma in PUBLISHED for _ in range(3)], rel=0.015)


def test_constant_noise_is_three_stages_with_equal_ends() -> None:
    assert schedule(0.01, 0.01, 3).sigmas == (0.0, 0.01, 0.01)


@pytest.mark.parametrize(
    ("start", "end", "stages", "message", "hint"),
    [
        (0.05, 0.0005, 1, "num_stages 1 gives no noise at all", "at least 3 stages"),
        (0.05, 0.0005, 2, "num_stages 2 makes trainers divide by zero", "at least 3 stages"),
        (0.05, 0.0005, 0, "num_stages is 0", "use 3 to 10000 stages"),
        (0.05, 0.0005, -4, "num_stages is -4", "use 3 to 10000 stages"),
        (0.05, 0.0005, 10**9, "num_stages is 1000000000", "use 3 to 10000 stages"),
        (0.05, 0.0, 10, "sigma_end 0 gives one noisy stage and then silence", "above 0"),
        (0.0005, 0.05, 10, "sigma_end 0.05 is above sigma_start 0.0005", "swap the two"),
        (0.0, 0.0005, 10, "both must be above 0", "0.05 to 0.0005"),
        (-0.05, 0.0005, 10, "sigma goes from -0.05", "0.05 to 0.0005"),
        (0.05, -1.0, 10, "both must be above 0", "0.05 to 0.0005"),
        (float("nan"), 0.0005, 10, "sigma_start is nan", "finite number"),
        (0.05, float("inf"), 10, "sigma_end is inf", "finite number"),
    ],
)
def test_refused_with_the_reason(
    start: float, end: float, stages: int, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        schedule(start, end, stages)
    assert message in caught.value.message
    assert hint in caught.value.hint


sigmas = st.floats(1e-6, 1.0)


@given(sigmas, sigmas, st.integers(3, 50))
def test_sigma_falls_by_the_same_factor_from_stage_to_stage(
    a: float, b: float, stages: int
) -> None:
    start, end = max(a, b), min(a, b)
    found = schedule(start, end, stages).sigmas
    assert found[0] == 0
    assert found[1] == start
    assert found[-1] == end
    ratios = [after / before for before, after in itertools.pairwise(found[1:])]
    assert ratios == pytest.approx([ratios[0]] * len(ratios), rel=1e-9)


@given(st.integers(1, 5000), st.integers(3, 40))
def test_stages_only_go_up_and_reach_the_last(total: int, stages: int) -> None:
    found = [stage_of(step, total, stages) for step in range(total + 2)]
    assert found[0] == 0
    assert found[-1] == stages - 1
    assert found == sorted(found)


def test_steps_beyond_the_run_keep_the_last_stage() -> None:
    assert stage_of(10_000, 29, 10) == 9


def test_a_run_without_steps_and_a_negative_step_are_refused() -> None:
    with pytest.raises(UsageError, match="the run has 0 steps"):
        stage_of(0, 0, 10)
    with pytest.raises(UsageError, match="step is -1"):
        stage_of(-1, 10, 10)
