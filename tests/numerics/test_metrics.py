"""Metrics, thresholds and floors, against figures worked out by hand or by another package."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from srdd.numerics import sums
from srdd.numerics.floors import floor_of
from srdd.numerics.formats import FORMATS, parse_spec
from srdd.numerics.metrics import METRICS, Thresholds, derive, why_undefined


def of(**values: float) -> sums.Sums:
    found = sums.new()
    for name, value in values.items():
        found[sums.INDEX[name]] = value
    return found


WORKED = of(
    tokens=1,
    elements=8,
    nonzero=5,
    flushed=2,
    saturated=1,
    x2=100.0,
    e2=1.0,
    clipped_e2=0.25,
    abs_x=20.0,
    abs_e=2.0,
    relative=2.5,
)


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("sqnr_db", 20.0),
        ("deadzone", 0.25),
        ("saturation", 0.125),
        ("clipping_share", 0.25),
        ("relative_error", 0.5),
        ("relative_l1", 0.1),
    ],
)
def test_each_metric_is_its_formula(metric: str, value: float) -> None:
    assert derive(WORKED)[metric] == pytest.approx(value)


def test_metrics_of_a_union_come_from_added_sums_not_from_the_mean_of_metrics() -> None:
    loud = of(tokens=1, elements=1, nonzero=1, x2=1e6, e2=1.0, abs_x=1e3, abs_e=1.0, relative=0.001)
    quiet = of(tokens=1, elements=1, nonzero=1, x2=1.0, e2=1.0, abs_x=1.0, abs_e=1.0, relative=1.0)
    both = derive(loud + quiet)["sqnr_db"]
    assert both == pytest.approx(10 * math.log10((1e6 + 1) / 2))
    assert both != pytest.approx((derive(loud)["sqnr_db"] + derive(quiet)["sqnr_db"]) / 2, abs=10)


def test_every_metric_is_derived_for_whole_arrays_at_once() -> None:
    stacked = np.stack([WORKED, WORKED * 2])
    for name, values in derive(stacked).items():
        assert name in METRICS
        assert values.shape == (2,)
        assert values[0] == pytest.approx(values[1])


@pytest.mark.parametrize(
    ("given", "reason", "undefined"),
    [
        (of(), "no finite value was measured", set(METRICS)),
        (
            of(tokens=1, elements=4),
            "every value is zero",
            {"sqnr_db", "clipping_share", "relative_error", "relative_l1"},
        ),
        (
            of(tokens=1, elements=4, nonzero=4, x2=1.0, abs_x=2.0),
            "reconstruction is exact",
            {"sqnr_db", "clipping_share"},
        ),
    ],
)
def test_an_undefined_metric_is_nan_and_has_a_reason(
    given: sums.Sums, reason: str, undefined: set[str]
) -> None:
    found = derive(given)
    assert {name for name in METRICS if math.isnan(found[name])} == undefined
    assert why_undefined(given) == dict.fromkeys(undefined, reason)


def test_thresholds_of_the_guide_flag_beyond_and_not_at_the_limit() -> None:
    limits = Thresholds()
    at = {"sqnr_db": 20.0, "deadzone": 0.05, "saturation": 0.01, "relative_error": 0.10}
    assert limits.breaches(at) == ()
    beyond = {"sqnr_db": 19.9, "deadzone": 0.051, "saturation": 0.011, "relative_error": 0.101}
    assert limits.breaches(beyond) == tuple(beyond)


def test_an_undefined_metric_breaches_nothing() -> None:
    assert Thresholds().breaches({"sqnr_db": None, "deadzone": math.nan}) == ()


def _oracle_floor(spec_name: str, rounding: str) -> dict[str, float]:
    """Standard normal values through ml_dtypes' cast and the scale table of the specification."""
    rule = spec_name.partition(":")[2]
    rng = np.random.default_rng(20)
    x = rng.standard_normal((60_000, 32)).astype(np.float32)
    m, e = np.frexp(np.abs(x).max(axis=1, keepdims=True))
    up = {"floor": m > 2, "even": m >= 0.875, "ceil": m > 0.5, "rceil": m > 0.75}[rule]
    v = np.ldexp(np.abs(x), -(e - 3 + up))
    clamped = np.minimum(v, np.float32(6))
    if rounding == "even":
        q = clamped.astype(ml_dtypes.float4_e2m1fn).astype(np.float32)
    else:
        step = np.select([clamped < 2, clamped < 4], [0.5, 1.0], 2.0).astype(np.float32)
        draw = rng.random(x.shape, dtype=np.float32) if rounding == "stochastic" else 0.0
        whole = np.floor(clamped / step)
        up_by_chance = (draw < clamped / step - whole) if rounding == "stochastic" else 0
        q = np.minimum((whole + up_by_chance) * step, 6)
    error = np.ldexp((q - v).astype(np.float64), e - 3 + up)
    x64 = np.abs(x).astype(np.float64)
    e2 = np.square(error).sum()
    return {
        "sqnr_db": 10 * np.log10(np.square(x64).sum() / e2),
        "deadzone": float((q == 0).mean()),
        "saturation": float((v > 6).mean()),
        "clipping_share": float(np.square(error)[v > 6].sum() / e2),
        "relative_error": float((np.abs(error) / x64).mean()),
        "relative_l1": float(np.abs(error).sum() / x64.sum()),
    }


@pytest.mark.parametrize("rounding", ["even", "toward-zero", "stochastic"])
@pytest.mark.parametrize("rule", FORMATS["mxfp4"].scale_rules)
def test_floors_are_what_normal_values_get(rule: str, rounding: str) -> None:
    spec = parse_spec(f"mxfp4:{rule}")
    wanted = _oracle_floor(str(spec), rounding)
    floor = floor_of(spec, rounding)
    assert floor.sqnr_db == pytest.approx(wanted["sqnr_db"], abs=0.03)
    for name in list(METRICS)[1:]:
        assert getattr(floor, name) == pytest.approx(wanted[name], abs=0.002), name


def test_half_away_has_the_floor_of_nearest_even() -> None:
    spec = parse_spec("mxfp4")
    assert floor_of(spec, "half-away") == floor_of(spec, "even")


def test_ideal_data_in_mxfp4_fails_all_four_thresholds() -> None:
    floor = floor_of(parse_spec("mxfp4:floor"))
    assert Thresholds().breaches(floor.__dict__) == (
        "sqnr_db",
        "deadzone",
        "saturation",
        "relative_error",
    )
