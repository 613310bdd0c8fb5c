"""The experiment plan: what it lists, which differences could count, and what it never says."""

from __future__ import annotations

import re

import pytest
from made_scans import PROTOTYPE, made, rising

from srdd.documents.rin import RinConfig
from srdd.documents.scan import load_scan
from srdd.errors import UsageError
from srdd.noise import suggest
from srdd.noise.experiment import smallest_difference, spans, standard_error
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
