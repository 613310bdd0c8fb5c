"""Formats as data: their constants, their names, and what is said about wrong ones."""

from __future__ import annotations

import math

import pytest

from srdd.errors import UsageError
from srdd.numerics.formats import (
    E2M1,
    FORMATS,
    ROUNDINGS,
    SCALE_RULES,
    check_rounding,
    parse_spec,
    parse_specs,
)


def test_mxfp4_has_the_specifications_constants() -> None:
    mxfp4 = FORMATS["mxfp4"]
    assert (mxfp4.block, mxfp4.element, mxfp4.bits_per_value) == (32, E2M1, 4.25)
    assert (E2M1.bits, E2M1.largest, E2M1.max_exponent) == (4, 6.0, 2)
    assert mxfp4.scale_rules == SCALE_RULES


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_format_goes_by_its_name_and_has_a_default_rule_and_a_source(name: str) -> None:
    assert FORMATS[name].name == name
    assert str(parse_spec(name)) == f"{name}:{FORMATS[name].scale_rules[0]}"
    assert FORMATS[name].source


@pytest.mark.parametrize(
    ("name", "bits"),
    [
        ("mxfp6_e2m3", 6.25),
        ("mxfp8_e5m2", 8.25),
        ("mxint8", 8.25),
        ("nvfp4", 4.5),
        ("nvfp4_46", 4.5),
        ("int4_g32", 5.0),
        ("int4_g128", 4.25),
        ("int8_token", 8.0),
    ],
)
def test_a_values_bits_hold_its_share_of_the_blocks_scale(name: str, bits: float) -> None:
    assert FORMATS[name].bits_per_value == bits


@pytest.mark.parametrize("name", list(FORMATS))
def test_the_grid_needs_no_more_codes_than_its_bits_give(name: str) -> None:
    element = FORMATS[name].element
    binades = max(0, element.max_exponent - element.min_exponent + 1)
    top = element.largest / 2.0 ** (element.max_exponent - element.mantissa_bits)
    assert top == int(top), "the largest magnitude lies on the grid"
    assert (binades + 1) * 2**element.mantissa_bits <= 2 ** (element.bits - 1)


def test_a_group_stands_for_its_formats_each_with_its_first_rule() -> None:
    four = [str(spec) for spec in parse_specs(["mxfp4:even", "4bit"])]
    assert four == [
        "mxfp4:even",
        "mxfp4:floor",
        "nvfp4:token",
        "nvfp4_46:token",
        "int4_g32:absmax",
        "int4_g128:absmax",
    ]
    assert [spec.format.name for spec in parse_specs(["all"])] == list(FORMATS)


def test_a_group_takes_no_rule() -> None:
    with pytest.raises(UsageError) as caught:
        parse_specs(["4bit:even"])
    assert caught.value.message == "4bit is a group of formats and takes no scale rule"
    assert "nvfp4" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("nvfp4:tokn", "choose from: token, tensor"),
        ("nvfp4:floor", "choose from: "),
        ("int4_g32:even", "choose from: absmax"),
        ("int4_g64", "choose from: int4_g32"),
        ("mxfp6_e3m3", "choose from: mxfp6_e"),
        ("al", "choose from: all"),
        ("4bits", "choose from: 4bit"),
    ],
)
def test_a_wrong_name_or_rule_of_any_format_lists_the_right_ones(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_specs([text])
    assert caught.value.hint.startswith(hint)


@pytest.mark.parametrize(
    ("rule", "stays", "grows"),
    [
        ("floor", math.nextafter(1, 0), None),
        ("even", math.nextafter(0.875, 0), 0.875),
        ("ceil", 0.5, 0.5 + 2**-24),
        ("rceil", 0.75, 0.75 + 2**-24),
    ],
)
def test_each_rule_raises_the_scale_from_its_mantissa_on(
    rule: str, stays: float, grows: float | None
) -> None:
    above = parse_spec(f"mxfp4:{rule}").round_up_above
    assert stays < above
    assert grows is None or grows >= above


@pytest.mark.parametrize(
    ("name", "threshold"),
    [
        ("mxfp6_e2m3", 0.9375),
        ("mxfp6_e3m2", 0.875),
        ("mxfp8_e4m3", 0.875),
        ("mxfp8_e5m2", 0.875),
        ("mxint8", 127 / 128),
    ],
)
def test_rceil_raises_the_scale_only_where_the_maximum_would_clip(
    name: str, threshold: float
) -> None:
    spec = parse_spec(f"{name}:rceil")
    element = spec.format.element
    assert spec.round_up_above == threshold + 2**-24
    assert threshold * 2 ** (element.max_exponent + 1) == element.largest


@pytest.mark.parametrize("rule", SCALE_RULES)
def test_a_name_with_its_rule_reads_back_as_it_was_written(rule: str) -> None:
    assert str(parse_spec(f"mxfp4:{rule}")) == f"mxfp4:{rule}"


def test_the_rule_may_be_left_out() -> None:
    assert parse_spec("mxfp4") == parse_spec("mxfp4:floor")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("mxfp5", "unknown format 'mxfp5'", "choose from: mxfp4"),
        ("", "unknown format ''", "choose from: mxfp4"),
        (":floor", "unknown format ''", "choose from: mxfp4"),
        ("mxfp4:", "unknown scale rule for mxfp4 ''", "choose from: floor, even, ceil, rceil"),
        ("mxfp4:rcel", "unknown scale rule for mxfp4 'rcel'", "choose from: rceil"),
        ("mxfp4:floor:even", "unknown scale rule for mxfp4 'floor:even'", "choose from: floor"),
        ("MXFP4", "unknown format 'MXFP4'", "choose from: mxfp4"),
    ],
)
def test_a_wrong_name_lists_the_right_ones_closest_first(
    text: str, message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        parse_spec(text)
    assert caught.value.message == message
    assert caught.value.hint.startswith(hint)


def test_several_formats_come_each_once_in_the_order_given() -> None:
    found = parse_specs(["mxfp4:ceil", "mxfp4", "mxfp4:floor", "mxfp4:ceil"])
    assert [str(spec) for spec in found] == ["mxfp4:ceil", "mxfp4:floor"]


def test_no_format_at_all_is_refused() -> None:
    with pytest.raises(UsageError, match="no format was named"):
        parse_specs([])


def test_roundings_are_checked_by_name() -> None:
    assert [check_rounding(name) for name in ROUNDINGS] == list(ROUNDINGS)
    with pytest.raises(UsageError, match="unknown rounding 'nearest'"):
        check_rounding("nearest")
