"""The experiment plan: what it lists, which differences could count, and what it never says."""

from __future__ import annotations

import math
import re

import pytest
from made_scans import PROTOTYPE, costed, made, rising, thorough, with_costs

from srdd.documents.rin import RinConfig
from srdd.documents.scan import load_scan
from srdd.errors import UsageError
from srdd.noise import suggest
from srdd.noise.experiment import (
    difference,
    most_moved,
    questions_for,
    smallest_difference,
    spans,
    standard_error,
)
from srdd.reports.plan import plan

REFERENCE = load_scan(PROTOTYPE)
NAMES = ("uniform", "targeted", "variable", "zone", "inverse", "shuffled")


def configs(**options: object) -> dict[str, RinConfig]:
    return {f"{name}.yaml": suggest(REFERENCE, name, **options) for name in NAMES}  # type: ignore[arg-type]


PLAN = plan(configs())


def test_standard_error_by_hand() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert standard_error(0.5641, 1319) == pytest.approx(0.01365, abs=5e-6)


def test_smallest_difference_by_hand() -> None:
    assert smallest_difference(0.5, 100, 1) == pytest.approx(1.959964 * 2**0.5 * 0.05)
    assert smallest_difference(0.5, 100, 4) == pytest.approx(smallest_difference(0.5, 100, 1) / 2)


def test_a_run_on_1319_questions_carries_about_two_and_a_half_points() -> None:
    assert 1.96 * standard_error(0.6, 1319) == pytest.approx(0.025, abs=0.002)


def test_every_configuration_has_an_id_a_schedule_and_a_place_for_its_accuracy() -> None:
    for number, name in enumerate(NAMES, 1):
        assert f"| R{number} | {name} | `{name}.yaml` |" in PLAN
        assert f"## R{number}: " in PLAN
    assert PLAN.count("_to fill in_") == 2 * len(NAMES) + 1
    assert "- **Layers** (worst): 10-19" in PLAN
    assert "- **Noise schedule** (high): sigma 0.05 to 0.001 in 10 stages" in PLAN
    assert "| R0 | no noise (baseline) |" in PLAN


def test_the_baseline_is_filled_in_where_it_is_known() -> None:
    text = plan(configs(), baseline=0.5641, questions=1319)
    assert "| R0 | no noise (baseline) | | 0 of 28 | 0 | 56.41 % |" in text
    assert "standard error of 1.4 points at 56.41 %" in text
    assert "| 1 | 3.8 points |" in text


def test_only_unequal_energies_are_mentioned() -> None:
    assert "The noise energies differ" in PLAN
    assert "The noise energies differ" not in plan(configs(equal_energy=True))


def test_it_says_what_the_scan_supports() -> None:
    assert "**Recommended: uniform noise first.**" in PLAN
    assert "hardly differ" in PLAN
    trusted = {"variable.yaml": suggest(made(rising(12)), "variable")}
    assert "Recommended" not in plan(trusted)


def test_what_was_left_out_is_listed() -> None:
    assert "Left out: zone, because of a \\_reason\\_." in plan(
        configs(), left_out=["zone, because of a _reason_"]
    )


def test_no_gain_is_promised() -> None:
    assert "no gain is promised" in " ".join(PLAN.split())
    assert not re.search(r"\+\d|expected (gain|impact|improvement)|will improve", PLAN)


@pytest.mark.parametrize(
    ("accuracy", "questions", "message"),
    [
        (56.41, 1319, "accuracy 56.41 is no fraction"),
        (-0.1, 1319, "accuracy -0.1 is no fraction"),
        (float("nan"), 1319, "accuracy nan is no fraction"),
        (0.5, 0, "0 questions"),
    ],
)
def test_evaluations_that_cannot_be_are_refused(
    accuracy: float, questions: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        plan(configs(), baseline=accuracy, questions=questions)
    assert caught.value.hint


def test_a_hostile_model_name_changes_no_line() -> None:
    name = "x`\n## R9: <script>\n| a | b |"
    text = plan({"variable.yaml": suggest(made(rising(12), name=name), "variable")})
    assert "\n## R9" not in text
    assert "\n| a | b |" not in text


def test_runs_of_layers_are_drawn_together() -> None:
    assert spans([0, 1, 2, 3, 7, 26, 27]) == "0-3, 7, 26-27"
    assert spans([]) == ""


COSTED = costed()


def arms(*names: str, **options: object) -> dict[str, RinConfig]:
    return {f"{name}.yaml": suggest(COSTED, name, **options) for name in names}  # type: ignore[arg-type]


def test_runs_differ_in_amount_and_in_place() -> None:
    """Uniform noise costs 8, 2, 0.5 and 32 parts of 42.5 in the layers, balanced a quarter each."""
    uniform, balanced = suggest(COSTED, "uniform"), suggest(COSTED, "balanced", equal_kl=True)
    found = difference(COSTED, balanced, uniform)
    assert found.kl == pytest.approx(0, abs=1e-6)
    assert found.relative == pytest.approx(0, abs=1e-3)
    shares = [8 / 42.5, 2 / 42.5, 0.5 / 42.5, 32 / 42.5]
    assert found.elsewhere == pytest.approx(sum(abs(0.25 - s) for s in shares) / 2, rel=1e-3)
    assert found.told_apart
    double = suggest(COSTED, "uniform", sigma_start=0.1, sigma_end=0.001)
    found = difference(COSTED, double, uniform)
    mean = 42.5 * sum((0.05 * 10 ** (-2 * k / 8)) ** 2 for k in range(9)) / 10
    assert found.kl == pytest.approx(3 * mean)
    assert found.relative == pytest.approx(3)
    assert found.elsewhere == pytest.approx(0, abs=1e-9)
    near = suggest(COSTED, "uniform", sigma_start=0.051, sigma_end=0.00051)
    assert not difference(COSTED, near, uniform).told_apart


def test_prompts_to_see_a_difference_by_hand() -> None:
    uniform, double = (suggest(COSTED, "uniform", sigma_start=s, sigma_end=s) for s in (0.01, 0.02))
    found = difference(COSTED, double, uniform)
    assert found.interval is not None
    error = (found.interval[1] - found.interval[0]) / 2 / 1.959964
    expected = 64 * ((1.959964 + 0.841621) * error / found.kl) ** 2
    assert found.prompts == math.ceil(expected)
    alike = suggest(COSTED, "uniform", sigma_start=0.01, sigma_end=0.01)
    assert difference(COSTED, alike, uniform).prompts is None


def test_the_plan_counts_in_kl_and_names_runs_that_are_alike() -> None:
    scan = with_costs(thorough(rising(4)), [0.03] * 4, [4.0, 4.1, 3.9, 4.0])
    configs = {
        name: suggest(scan, name, equal_kl=True, metric="relative_error")
        for name in ("uniform", "balanced", "targeted")
    }
    text = plan(configs, scan=scan)
    assert "## Effect on the policy" in text
    assert "**R2 and R1 cannot be told apart**" in text
    assert "**R3 and R1" not in text
    assert "does not cost the predictions the same" not in text
    different = plan(arms("uniform", "balanced", "matched"), scan=COSTED)
    assert "does not cost the predictions the same" in different
    assert "`--equal-kl` makes the costs equal" in " ".join(different.split())
    assert "beats uniform noise and its own controls at equal cost" in different
    assert "Effect on the policy" not in plan(arms("uniform", "balanced"))
    assert "Effect on the policy" not in PLAN


def test_controls_are_compared_with_their_strategy() -> None:
    configs = arms("uniform", "variable", "inverse", "shuffled")
    text = plan(configs, scan=COSTED)
    for pair in ("R2 against R1", "R3 against R1", "R3 against R2", "R4 against R2"):
        assert f"| {pair} |" in text
    assert "R4 against R3" not in text


def test_noise_that_can_move_no_answer_is_said_to_be_too_weak() -> None:
    assert most_moved(0.02, 100) == pytest.approx(1)
    assert most_moved(2e-6, 100) == pytest.approx(0.01)
    weak = plan(arms("uniform", sigma_start=0.0001, sigma_end=0.00001), scan=COSTED)
    # 42.5 * 0.0001^2 = 4.25e-7 nats a token: sqrt(100 * 4.25e-7 / 2) = 0.46 points.
    assert "**R1 is too weak to be seen**: its noise can move" in weak
    assert "by 0.5 points at most, and less than 1.7 points" in weak
    assert "too weak" not in plan(arms("uniform"), scan=COSTED)


def test_questions_for_a_difference_are_the_inverse_of_what_can_be_seen() -> None:
    for seeds in (1, 3, 5):
        count = questions_for(0.02, 0.6, seeds)
        assert smallest_difference(0.6, count, seeds) <= 0.02
        assert smallest_difference(0.6, count - 1, seeds) > 0.02
    assert "| 2 points | 4,802 | 1,601 | 961 |" in PLAN


def test_a_warning_names_the_runs_that_it_is_of() -> None:
    configs = arms("uniform") | {"strong.yaml": suggest(COSTED, "uniform", sigma_start=0.4)}
    text = plan(configs, scan=COSTED)
    assert "- R2: the noise costs 6.8 nats" in text
    assert "- keep noise out of validation" in text
