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


@pytest.mark.slow
@pytest.mark.parametrize("spec", SPECS)
def test_floors_are_what_many_normal_values_get(spec: str) -> None:
    _check(spec, gaussian.VALUES, seed=3, decibels=0.015, share=0.006)


def test_the_oracle_lists_the_rules_that_the_formats_have() -> None:
    assert {name: each.scale_rules for name, each in FORMATS.items()} == {
        name: gaussian.rules_of(name) for name in FORMATS
    }
