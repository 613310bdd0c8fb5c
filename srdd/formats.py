"""Number formats as data: the element's grid, the block that shares a scale, the rules for it.

A block of values x is stored as elements q on a small grid and one scale s, and read back as q * s.
MX formats store s as a power of two, 2^E (E8M0, OCP Microscaling v1.0, sections 5 and 6.3). E
follows from the block's largest magnitude amax by a scale rule. With m, e = frexp(amax), m in
[0.5, 1), and the element's largest magnitude L, whose exponent is emax = floor(log2(L)):

    floor   E = e - 1 - emax
    even    floor's E, plus 1 where m >= 1 - 2^-(mantissa_bits + 2)
    ceil    floor's E, plus 1 where m > 0.5
    rceil   floor's E, plus 1 where m > L / 2^(emax + 1)

For E2M1 (L = 6, one mantissa bit) the thresholds of `even` and `rceil` are 0.875 and 0.75. Floor
lets the largest values of a block clip; rceil is the smallest power of two with which none does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from srdd.errors import UsageError, unknown_name

SCALE_RULES = ("floor", "even", "ceil", "rceil")
"""How a power-of-two scale follows from a block's largest magnitude; the first is the default."""

ROUNDINGS = ("even", "half-away", "toward-zero", "stochastic")
"""How an element rounds to its grid; `even` (nearest, ties to the even code) is the default.

`half-away` takes ties away from zero, `toward-zero` truncates, and `stochastic` rounds up with the
probability that makes the result right on average.
"""

MIN_SCALE_EXPONENT, MAX_SCALE_EXPONENT = -127, 127
"""E8M0 holds 2^-127 to 2^127 (OCP Microscaling v1.0, section 5.4.1)."""


@dataclass(frozen=True)
class Element:
    """The grid of magnitudes that one element can take.

    Attributes:
        name: as the specification writes it.
        bits: storage of one element, sign included.
        mantissa_bits: the spacing in [2^k, 2^(k+1)) is 2^(k - mantissa_bits).
        min_exponent: below 2^min_exponent the spacing no longer shrinks (subnormals). An integer
            grid is the case in which every value lies there.
        largest: the largest magnitude; larger ones clamp to it.
    """

    name: str
    bits: int
    mantissa_bits: int
    min_exponent: int
    largest: float

    @property
    def max_exponent(self) -> int:
        """The exponent of the largest magnitude, floor(log2(largest))."""
        return math.frexp(self.largest)[1] - 1


@dataclass(frozen=True)
class Format:
    """A number format with its block.

    Attributes:
        name: the word for it in flags, code and JSON.
        element: the grid of its elements.
        block: how many values along the last axis share one scale.
        scale_rules: the rules it can be used with; the first is its default.
        source: where its constants come from.
    """

    name: str
    element: Element
    block: int
    scale_rules: tuple[str, ...]
    source: str

    @property
    def bits_per_value(self) -> float:
        """Storage of one value with its share of the scale, in bits."""
        return self.element.bits + 8 / self.block


@dataclass(frozen=True)
class FormatSpec:
    """A format together with the scale rule it is used with; written `mxfp4:floor`."""

    format: Format
    scale_rule: str

    def __str__(self) -> str:
        return f"{self.format.name}:{self.scale_rule}"

    @property
    def round_up_above(self) -> float:
        """The mantissa m of amax in [0.5, 1) from which on the scale exponent grows by one.

        The comparison is m >= this value. `ceil` and `rceil` ask for m > t, which is m >= the next
        float32 after t, since m has float32 precision. Floor never rounds up: 1.0.
        """
        element = self.format.element
        if self.scale_rule == "floor":
            return 1.0
        if self.scale_rule == "even":
            return 1.0 - 2.0 ** -(element.mantissa_bits + 2)
        last = (
            0.5 if self.scale_rule == "ceil" else element.largest / 2 ** (element.max_exponent + 1)
        )
        return last + 2.0**-24


E2M1 = Element("E2M1", bits=4, mantissa_bits=1, min_exponent=0, largest=6.0)

FORMATS: dict[str, Format] = {
    "mxfp4": Format(
        "mxfp4", E2M1, 32, SCALE_RULES, "OCP Microscaling v1.0, sections 5.3.3 and 6.3"
    ),
}


def parse_spec(text: str) -> FormatSpec:
    """`name` or `name:rule` -> the format and its scale rule.

    Raises:
        UsageError: no such format, or the format does not have that rule.
    """
    name, colon, rule = text.partition(":")
    if name not in FORMATS:
        raise unknown_name("format", name, FORMATS)
    found = FORMATS[name]
    if not colon:
        return FormatSpec(found, found.scale_rules[0])
    if rule not in found.scale_rules:
        raise unknown_name(f"scale rule for {name}", rule, found.scale_rules)
    return FormatSpec(found, rule)


def check_rounding(name: str) -> str:
    """Give `name` back if it is a rounding.

    Raises:
        UsageError: it is none.
    """
    if name not in ROUNDINGS:
        raise unknown_name("rounding", name, ROUNDINGS)
    return name


SEEDS = 2**31
"""Seeds lie in 0 ... SEEDS - 1."""


def check_seed(seed: int) -> int:
    """Give `seed` back if stochastic rounding can draw from it.

    Raises:
        UsageError: it cannot.
    """
    if not 0 <= seed < SEEDS:
        raise UsageError(f"seed {seed} is out of range", f"choose one from 0 to {SEEDS - 1}")
    return seed


def parse_specs(texts: list[str]) -> list[FormatSpec]:
    """Several formats, each once, in the order given.

    Raises:
        UsageError: one is unknown, or the list is empty.
    """
    if not texts:
        raise UsageError("no format was named", f"choose from: {', '.join(FORMATS)}")
    return list(dict.fromkeys(parse_spec(text) for text in texts))
