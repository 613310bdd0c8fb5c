"""Formats as data: their constants, their names, and what is said about wrong ones."""

from __future__ import annotations

import math

import pytest

from srdd.errors import UsageError
from srdd.formats import (
    E2M1,
    FORMATS,
    ROUNDINGS,
    SCALE_RULES,
    Element,
    Format,
    FormatSpec,
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
    assert FORMATS[name].scale_rules[0] in SCALE_RULES
    assert FORMATS[name].source


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
    ("element", "threshold"),
    [
        (Element("E2M3", 6, 3, 0, 7.5), 0.9375),
        (Element("E3M2", 6, 2, -2, 28.0), 0.875),
        (Element("E4M3", 8, 3, -6, 448.0), 0.875),
        (Element("E5M2", 8, 2, -14, 57344.0), 0.875),
        (Element("INT8", 8, 6, 0, 127 / 64), 127 / 128),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_rceil_raises_the_scale_only_where_the_maximum_would_clip(
    element: Element, threshold: float
) -> None:
    spec = FormatSpec(Format("ad hoc", element, 32, SCALE_RULES, "this test"), "rceil")
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
