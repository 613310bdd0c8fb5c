"""The formats that srdd measures in: what they cost, what they hold, what ideal data gets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from srdd.numerics.floors import floor_of
from srdd.numerics.formats import FORMATS, GROUPS, ROTATIONS, ROW, USED_BY, Format, FormatSpec
from srdd.reports.view import Block, Column, Field, Measure, Text, tabulate


def describe_formats() -> dict[str, Any]:
    """Everything about the formats as plain data, for JSON.

    `block` is null where a row shares one scale, whose bits are not in `bits_per_value`;
    `gaussian_sqnr_db` is what ideal Gaussian data gets under each scale rule, nearest-even.
    """
    return {
        "formats": [
            {
                "name": each.name,
                "element": each.element.name,
                "element_bits": each.element.bits,
                "block": each.block or None,
                "scale": each.scale,
                "bits_per_value": each.bits_per_value,
                "largest_element": each.element.largest,
                "gaussian_sqnr_db": _floors(each),
                "source": each.source,
            }
            for each in FORMATS.values()
        ],
        "scale_rules": {rule: list(names) for rule, names in USED_BY.items()},
        "groups": {name: list(members) for name, members in GROUPS.items()},
        "rotations": [f"+hadamard{size}" for size in ROTATIONS],
    }


def formats_blocks() -> list[Block]:
    """A row for each format with its floor under each scale rule, and who uses which rule."""

    def rule(name: str) -> Field[Format]:
        return Field(Column(name, _DECIBELS, priority=1), lambda each: _floors(each).get(name))

    fields = [
        Field[Format](Column("format", align="left"), lambda each: each.name),
        Field[Format](Column("size", Measure("bits")), lambda each: each.bits_per_value),
        *map(rule, USED_BY),
        Field[Format](Column("element", align="left", priority=2), lambda each: each.element.name),
        Field[Format](
            Column("block", priority=3), lambda each: "row" if each.block == ROW else each.block
        ),
        Field[Format](Column("largest", priority=4), lambda each: each.element.largest),
        Field[Format](Column("scale", align="left", priority=5), lambda each: each.scale),
    ]
    title = "SQNR of ideal Gaussian data in each format, by scale rule"
    return [
        tabulate(title, fields, list(FORMATS.values())),
        *(Text(line, "note") for line in _notes()),
    ]


_DECIBELS = Measure("dB", digits=1)


def _floors(each: Format) -> dict[str, float]:
    return {rule: floor_of(FormatSpec(each, rule)).sqnr_db for rule in each.scale_rules}


def _notes() -> Iterator[str]:
    yield "size: bits of a value with its share of the block's scale."
    for rule, names in USED_BY.items():
        if names:
            yield f"scale rule {rule} is used by {', '.join(names)}."
    for name, members in GROUPS.items():
        yield f"{name} stands for {', '.join(members)}."
    yield (
        "NAME+hadamardN, such as mxfp4+hadamard32, rotates groups of N channels before quantizing."
    )
