"""The plan: arguments of a scan are checked in one place, before a model is loaded."""

from __future__ import annotations

import inspect
import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from torch import nn

from srdd.cli.scan import scan
from srdd.errors import UsageError
from srdd.measurement.plan import (
    DEFAULT_FORMATS,
    DEFAULT_SITES,
    Options,
    Plan,
    check_batch_size,
    check_max_length,
)
from srdd.measurement.scanner import scan_model
from srdd.numerics.metrics import Thresholds


def test_the_defaults_are_those_of_the_command() -> None:
    plan = Plan.of()
    assert (plan.formats, plan.sites) == (["mxfp4:floor"], ("output", "input"))
    assert plan.needs_prompts
    command = inspect.signature(scan).parameters
    assert tuple(command["format"].default) == DEFAULT_FORMATS
    assert tuple(command["site"].default) == DEFAULT_SITES
    defaults = {n: p.default for n, p in command.items() if n in Options.__annotations__}
    assert len(defaults) > 8
    assert Plan.of(**{name: value for name, value in defaults.items() if value != []}) == plan


def test_an_unknown_option_is_refused_before_anything_is_measured() -> None:
    with pytest.raises(UsageError) as caught:
        scan_model(nn.Linear(1, 1), None, format="mxfp4")  # type: ignore[call-arg]
    assert caught.value.message == "unknown option 'format'"
    assert caught.value.hint.startswith("choose from: formats, ")


def test_names_become_what_they_mean() -> None:
    plan = Plan.of(formats="mxfp4:even", sites="weight", include=["down"], exclude=["layers.0."])
    assert plan.formats == ["mxfp4:even"]
    assert plan.sites == ("weight",)
    assert not plan.needs_prompts
    assert plan.selection.takes("model.layers.1.mlp.down_proj")
    assert not plan.selection.takes("model.layers.0.mlp.down_proj")


def test_a_plan_does_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        Plan.of().seed = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["mxfp5"]}, "unknown format 'mxfp5'"),
        ({"formats": []}, "no format was named"),
        ({"sites": ["outputs"]}, "unknown site 'outputs'"),
        ({"rounding": "up"}, "unknown rounding 'up'"),
        ({"seed": -1}, "seed -1 is out of range"),
        ({"max_length": 0}, "`max_length` is 0"),
        ({"batch_size": 0}, "`batch_size` is 0"),
        ({"thresholds": {"sqnr": 3}}, "unknown threshold 'sqnr'"),
        ({"thresholds": Thresholds(deadzone=5)}, "`thresholds` deadzone=5 is not a fraction"),
    ],
)
def test_what_is_wrong_is_reported_without_a_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Plan.of(**options)
    assert caught.value.message == message
    assert caught.value.hint


def test_thresholds_override_the_defaults() -> None:
    assert Plan.of().thresholds == Thresholds()
    given = {"sqnr_db": -3, "relative_error": 2, "deadzone": 1}
    assert Plan.of(thresholds=given).thresholds == Thresholds(**given)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_threshold_is_finite(value: float) -> None:
    with pytest.raises(UsageError, match="has no number"):
        Plan.of(thresholds={"sqnr_db": value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("deadzone", 1.01), ("saturation", -0.1), ("relative_error", -0.1), ("deadzone", 5)],
)
def test_a_share_is_a_fraction(name: str, value: float) -> None:
    with pytest.raises(UsageError, match="is not a fraction"):
        Plan.of(thresholds={name: value})


@pytest.mark.parametrize(("given", "size"), [("auto", "auto"), ("1", 1), ("64", 64), (8, 8)])
def test_a_batch_size_is_auto_or_a_number(given: Any, size: object) -> None:
    assert check_batch_size(given) == size


@pytest.mark.parametrize("given", ["0", "-1", "1.5", "", "Auto", "²", 0, -1, True, 1.5])
def test_any_other_batch_size_is_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="`batch_size` is"):
        check_batch_size(given)


def test_the_least_length_depends_on_what_it_is_for() -> None:
    assert check_max_length(1) == 1
    with pytest.raises(UsageError, match="`max_length` is 1"):
        check_max_length(1, least=2)


def test_options_of_an_estimate_need_one() -> None:
    for options in ({"kl_samples": 4}, {"kl_check": 2}, {"kl": "direct", "kl_check": 2}):
        with pytest.raises(UsageError, match="has no effect without `kl=True`"):
            Plan.of(**options)
    assert Plan.of(kl="direct", kl_samples=2).kl_samples == 2
