"""The floors that ship as data, against the oracle that they were computed with."""

from __future__ import annotations

import gaussian
import pytest

from srdd.numerics.floors import floor_of
from srdd.numerics.formats import FORMATS, parse_spec

SPECS = [f"{name}:{rule}" for name, each in FORMATS.items() for rule in each.scale_rules]


def _check(spec: str, values: int, seed: int, decibels: float, share: float) -> None:
    for rounding, wanted in gaussian.floors(spec, values, seed).items():
        floor = floor_of(parse_spec(spec), rounding)
        assert floor.sqnr_db == pytest.approx(wanted["sqnr_db"], abs=decibels), rounding
        for name in gaussian.METRICS[1:]:
            found = getattr(floor, name)
            # Where clipping is rare, few values carry all of its energy.
            rel = 5 * share if name == "clipping_share" else share
            assert found == pytest.approx(wanted[name], rel=rel, abs=share / 20), (name, rounding)


@pytest.mark.parametrize("spec", SPECS)
def test_floors_are_what_normal_values_get(spec: str) -> None:
    _check(spec, 500_000, seed=2, decibels=0.08, share=0.05)


@pytest.mark.parametrize("spec", gaussian.BY_ROW)
@pytest.mark.parametrize("width", [64, 128, 512, 896, 2048])
def test_floors_of_formats_scaled_by_row_follow_the_width(spec: str, width: int) -> None:
    for rounding, wanted in gaussian.floors(spec, 500_000, seed=4, width=width).items():
        floor = floor_of(parse_spec(spec), rounding, width)
        assert floor.sqnr_db == pytest.approx(wanted["sqnr_db"], abs=0.1), rounding
        assert floor.relative_l1 == pytest.approx(wanted["relative_l1"], rel=0.02), rounding


@pytest.mark.parametrize("spec", ["mxfp4:floor", "nvfp4:token", "int4_g32:absmax"])
def test_floors_of_formats_scaled_by_block_do_not(spec: str) -> None:
    assert floor_of(parse_spec(spec), "even", 64) == floor_of(parse_spec(spec))
    assert gaussian.floors(spec, 500_000, 4, width=64)["even"]["sqnr_db"] == pytest.approx(
        floor_of(parse_spec(spec)).sqnr_db, abs=0.08
    )


@pytest.mark.parametrize("spec", ["int8_token:absmax", "fp8_e4m3_token:absmax"])
def test_beyond_the_table_the_floor_is_that_of_its_end(spec: str) -> None:
    of = parse_spec(spec)
    assert floor_of(of, "even", 8) == floor_of(of, "even", 64)
    assert floor_of(of, "even", 1e6) == floor_of(of, "even", 16384)
    assert floor_of(of, "even", 4096) == floor_of(of)


@pytest.mark.parametrize("spec", ["mxfp4:floor", "mxfp8_e4m3:ceil", "nvfp4:token"])
def test_the_swing_over_an_octave_is_as_stated(spec: str) -> None:
    stated = floor_of(parse_spec(spec)).swing_db
    assert gaussian.swing_db(spec, 100_000) == pytest.approx(stated, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_floors_are_what_many_normal_values_get(spec: str) -> None:
    _check(spec, gaussian.VALUES, seed=3, decibels=0.015, share=0.006)


def test_the_oracle_lists_the_rules_that_the_formats_have() -> None:
    assert {name: each.scale_rules for name, each in FORMATS.items()} == {
        name: gaussian.rules_of(name) for name in FORMATS
    }
