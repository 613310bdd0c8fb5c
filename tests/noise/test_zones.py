"""Zones by depth, from ranges in words, and by natural breaks."""

from __future__ import annotations

import csv
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_scans import DATA

from srdd.errors import UsageError
from srdd.noise.zones import Zone, by_depth, natural_breaks, parse, zone_of

GUIDE = {
    "First": range(0, 4),
    "Early-Mid": range(4, 10),
    "Middle": range(10, 20),
    "Late-Mid": range(20, 26),
    "Last": range(26, 28),
}


def relative_errors() -> list[float]:
    with (DATA / "qwen2.5-1.5b-instruct_mxfp4_output.csv").open() as file:
        return [float(row["relative_error"]) for row in csv.DictReader(file)]


def test_28_layers_have_the_zones_of_the_guide() -> None:
    assert {zone.name: zone.layers for zone in by_depth(28)} == GUIDE


@given(st.integers(1, 1000))
def test_zones_by_depth_hold_every_layer_once_and_in_order(layers: int) -> None:
    indices = [layer for zone in by_depth(layers) for layer in zone.layers]
    assert indices == list(range(layers))


def test_the_zone_of_a_layer() -> None:
    assert [zone_of(by_depth(28), layer).name for layer in (3, 4, 27)] == [
        "First",
        "Early-Mid",
        "Last",
    ]


def test_ranges_are_read_as_they_are_written() -> None:
    zones = parse("0-3, 4-9,10 - 19,20-25,26-27", 28)
    assert [zone.layers for zone in zones] == list(GUIDE.values())
    assert parse("0,1-4", 5) == (Zone("0-0", 0, 0), Zone("1-4", 1, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0-3,3-27", "zone 3-27 must start at layer 4"),
        ("0-27,5-9", "zone 5-9 must start at layer 28"),
        ("0-3,5-27", "zone 5-27 must start at layer 4"),
        ("2-27", "zone 2-27 must start at layer 0"),
        ("5-9,0-4,10-27", "zone 5-9 must start at layer 0"),
        ("0-9", "no zone covers layers 10 to 27"),
        ("0-28", "zone 0-28 must end at a layer from 0 to 27"),
        ("0-3,4-2,5-27", "zone 4-2 must end at a layer from 4 to 27"),
        ("0-99999999999", "'0-99999999999' in zones '0-99999999999' is no range of layers"),
        ("0-3,,4-27", "'' in zones '0-3,,4-27' is no range of layers"),
        ("first", "'first' in zones 'first' is no range of layers"),
        ("-3-5", "'-3-5' in zones '-3-5' is no range of layers"),
    ],
)
def test_zones_that_cannot_be_are_refused_with_the_reason(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, 28)
    assert caught.value.message == message
    assert "0-3,4-9,10-19,20-25,26-27" in caught.value.hint


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_what_is_written_out_is_read_back(sizes: list[int]) -> None:
    ends = list(itertools.accumulate(sizes))
    text = ",".join(f"{end - size}-{end - 1}" for size, end in zip(sizes, ends, strict=True))
    assert [len(zone.layers) for zone in parse(text, ends[-1])] == sizes


def test_natural_breaks_of_the_reference_scan() -> None:
    classes = natural_breaks(relative_errors(), 3)
    by_class = [{i for i, c in enumerate(classes) if c == wanted} for wanted in range(3)]
    assert by_class[2] == {*range(10, 20)}
    assert by_class[1] == {*range(5, 10), 20, 21, 22}
    assert by_class[0] == {*range(0, 5), *range(23, 28)}


def deviations(values: list[float], classes: list[int]) -> float:
    total = 0.0
    for wanted in set(classes):
        group = [v for v, c in zip(values, classes, strict=True) if c == wanted]
        mean = sum(group) / len(group)
        total += sum((v - mean) ** 2 for v in group)
    return total


def every_partition(values: list[float], classes: int) -> list[list[int]]:
    """All ways to cut the sorted distinct values into that many runs."""
    distinct = sorted(set(values))
    partitions = []
    for cuts in itertools.combinations(range(1, len(distinct)), classes - 1):
        place = {v: sum(i >= cut for cut in cuts) for i, v in enumerate(distinct)}
        partitions.append([place[v] for v in values])
    return partitions


@settings(deadline=None)
@given(st.lists(st.integers(0, 30).map(float), min_size=1, max_size=8), st.integers(1, 4))
def test_no_other_partition_is_better(values: list[float], classes: int) -> None:
    if classes > len(set(values)):
        with pytest.raises(ValueError, match="cannot form"):
            natural_breaks(values, classes)
        return
    result = list(natural_breaks(values, classes))
    least = min(deviations(values, other) for other in every_partition(values, classes))
    assert deviations(values, result) == pytest.approx(least, abs=1e-9)
    assert set(result) == set(range(classes))


@given(st.permutations(relative_errors()))
def test_the_order_of_values_does_not_matter(values: list[float]) -> None:
    expected = dict(zip(relative_errors(), natural_breaks(relative_errors(), 3), strict=True))
    assert natural_breaks(values, 3) == tuple(expected[v] for v in values)


def test_equal_values_share_a_class() -> None:
    assert natural_breaks([1.0, 1.0, 1.0, 2.0], 2) == (0, 0, 0, 1)
