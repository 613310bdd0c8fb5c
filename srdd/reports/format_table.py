"""The formats that srdd measures in: what they cost, what they hold, what ideal data gets."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from srdd.numerics.floors import floor_of
from srdd.numerics.formats import FORMATS, GROUPS, ROTATIONS, ROW, USED_BY, Format, FormatSpec
from srdd.reports.fitted import NARROW, WIDE, Column, Fitted


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


def format_tables() -> list[RenderableType]:
    """The formats as a table, and below it the scale rules and suffixes in words."""
    formats = list(FORMATS.values())
    table = Fitted(
        "Formats",
        [
            Column("format", [each.name for each in formats], justify="left"),
            Column("bits", [f"{each.bits_per_value:g}" for each in formats]),
            Column("element", [each.element.name for each in formats], NARROW, "left"),
            Column(
                "block", ["row" if each.block == ROW else str(each.block) for each in formats], WIDE
            ),
            Column("largest", [f"{each.element.largest:g}" for each in formats], WIDE + 12),
            Column("scale", [each.scale for each in formats], WIDE + 12, "left"),
            Column("rules", [" ".join(each.scale_rules) for each in formats], NARROW, "left"),
            Column(
                "Gaussian SQNR dB",
                [" ".join(f"{sqnr:.1f}" for sqnr in _floors(each).values()) for each in formats],
                justify="left",
            ),
        ],
    )
    return [table, Text(""), *(Text(line) for line in _notes())]


def _floors(each: Format) -> dict[str, float]:
    return {rule: floor_of(FormatSpec(each, rule)).sqnr_db for rule in each.scale_rules}


def _notes() -> list[str]:
    lines = [
        "bits: a value with its share of the block's scale. SQNR: one figure for each rule, in "
        "their order (floor even ceil rceil; token tensor; absmax).",
        "Who uses which rule:",
    ]
    lines += [f"  {rule}: {', '.join(names)}" for rule, names in USED_BY.items() if names]
    lines += [f"{name} stands for {', '.join(members)}." for name, members in GROUPS.items()]
    lines.append(
        "NAME+hadamardN, such as mxfp4+hadamard32, rotates groups of N channels before quantizing."
    )
    return lines
