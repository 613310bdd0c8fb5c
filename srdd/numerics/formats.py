"""Number formats as data: the element's grid, what shares a scale, the rules for the scale.

A block of values x is stored as elements q on a small grid and one scale s, and read back as q * s.
Formats differ in how they store s, which follows from the block's largest magnitude amax and the
element's largest magnitude L:

`e8m0`: a power of two 2^E (OCP Microscaling v1.0, sections 5 and 6.3), by one of four rules. With
m, e = frexp(amax), m in [0.5, 1), and emax = floor(log2(L)):

    floor   E = e - 1 - emax
    even    floor's E, plus 1 where m >= 1 - 2^-(mantissa_bits + 2)
    ceil    floor's E, plus 1 where m > 0.5
    rceil   floor's E, plus 1 where m > L / 2^(emax + 1)

For E2M1 (L = 6, one mantissa bit) the thresholds of `even` and `rceil` are 0.875 and 0.75. Floor
lets the largest values of a block clip; rceil is the smallest power of two with which none does.

`e4m3`: an FP8 number over a global float32 g, s = g * e4m3(amax / L / g), with
g = largest / (448 * L) so that the largest block gets the largest FP8 number (NVFP4). The rule says
over what `largest` is taken: each `token` (row) or the whole `tensor`: all rows measured at once, a
batch of prompts or the slice of a weight. An FP8 number below 2^-6, its smallest normal, is raised
to that, as torchao does: a block under 1/28672 of the largest value loses precision, but its scale
is never 0. FP8 rounds to nearest, so s may round down and up to 6 % of a block's largest value
clips.

`nvfp4_46` fits two such scales to each block, s6 as above and s4 = g * e4m3(amax / 4 / g), and
takes s4 where it gives the block the smaller sum of squared errors, elements rounded to nearest,
ties to even, whatever the rounding that is measured ("Four Over Six", arXiv:2512.02010). Its g is
largest / (256 * L), so that s4 of the largest block, 1.5 times as large, still has an FP8 number;
blocks under 1/16384 of the largest value lose precision.

`fp32`: s = amax / L, the rule `absmax`. Nothing clips. Integers use the symmetric range -L ... L.

For `e4m3` and `fp32` the division |x| / s is inexact, and may exceed L by a last place; a value
counts as clipped from L * (1 + 2^-16) on. Their smallest g and s are normal numbers well inside
float32 (MIN_GLOBAL_SCALE, MIN_SCALE), so that no division meets a zero or overflows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from srdd.errors import UsageError, unknown_name

SCALE_RULES = ("floor", "even", "ceil", "rceil")
"""How a power-of-two scale follows from a block's largest magnitude; the first is the default."""

USED_BY = {
    "floor": ("OCP v1.0", "torchao", "microxcaling", "auto-round"),
    "even": ("compressed-tensors", "llm-compressor", "Quark", "vLLM's reference"),
    "ceil": (),
    "rceil": ("NVIDIA Model Optimizer", "cuBLAS", "aiter"),
    "token": (),
    "tensor": ("torchao", "compressed-tensors"),
    "absmax": (),
}
"""Scale rule -> who uses it by default. What one measures should be what one deploys."""

ROUNDINGS = ("even", "half-away", "toward-zero", "stochastic")
"""How an element rounds to its grid; `even` (nearest, ties to the even code) is the default.

`half-away` takes ties away from zero, `toward-zero` truncates, and `stochastic` rounds up with the
probability that makes the result right on average.
"""

MIN_SCALE_EXPONENT, MAX_SCALE_EXPONENT = -127, 127
"""E8M0 holds 2^-127 to 2^127 (OCP Microscaling v1.0, section 5.4.1)."""

MIN_SCALE = 2.0**-126
"""Of `fp32` scales: the smallest normal float32."""

MIN_GLOBAL_SCALE = 2.0**-120
"""Of `e4m3` formats: with it, 1 / (g * 2^-6) still is a float32."""

MIN_BLOCK_SCALE, MAX_BLOCK_SCALE = 2.0**-6, 448.0
"""The smallest normal and the largest E4M3 number (OCP 8-bit Floating Point v1.0, section 5.1)."""

LOWERED_BLOCK_SCALE = 256.0
"""Of the largest block where `Format.lowered` is set: the largest E4M3 number whose 1.5-fold is
another."""

SCALE_BITS = {"e8m0": 8, "e4m3": 8, "fp32": 32}
"""How scales are stored -> bits of one."""

ROW = 0
"""As a block's length: the whole row, however long."""

TILE = 32
"""Values whose sums are taken together in float32 where the block is a whole row."""


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
        block: how many values along the last axis share one scale; ROW for all of a row.
        scale_rules: the rules it can be used with; the first is its default.
        source: where its constants come from.
        scale: how its scales are stored, of SCALE_BITS.
        rotation: the channels that are rotated together before quantizing (kernels.rotation);
            0 is none.
        lowered: what a block's largest value may become in place of the element's largest: where
            the squared error of the block is smaller that way. Only with `e4m3`; 0 is none.
    """

    name: str
    element: Element
    block: int
    scale_rules: tuple[str, ...]
    source: str
    scale: str = "e8m0"
    rotation: int = 0
    lowered: float = 0.0

    @property
    def unrotated(self) -> str:
        """The name without its rotation."""
        return self.name.partition("+")[0]

    @property
    def bits_per_value(self) -> float:
        """Storage of one value with its share of the block's scale, in bits.

        A scale of a whole row or tensor is left out: in a row of 4096 values it adds 0.01 bits.
        """
        return self.element.bits + (SCALE_BITS[self.scale] / self.block if self.block else 0.0)

    @property
    def tile(self) -> int:
        """How many values of a row, all of one block, are summed together in float32."""
        return self.block or TILE

    @property
    def largest_block_scale(self) -> float:
        """Of `e4m3`: the FP8 number of a block with the largest value of all."""
        return LOWERED_BLOCK_SCALE if self.lowered else MAX_BLOCK_SCALE

    @property
    def clips_above(self) -> float:
        """The |x| / scale above which a value counts as clipped."""
        return self.element.largest * (1.0 if self.scale == "e8m0" else 1.0 + 2.0**-16)


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
        float32 after t, since m has float32 precision. Where it never grows: 1.0.
        """
        element = self.format.element
        if self.scale_rule == "even":
            return 1.0 - 2.0 ** -(element.mantissa_bits + 2)
        if self.scale_rule in ("ceil", "rceil"):
            full = element.largest / 2 ** (element.max_exponent + 1)
            return (0.5 if self.scale_rule == "ceil" else full) + 2.0**-24
        return 1.0


E2M1 = Element("E2M1", bits=4, mantissa_bits=1, min_exponent=0, largest=6.0)
E2M3 = Element("E2M3", bits=6, mantissa_bits=3, min_exponent=0, largest=7.5)
E3M2 = Element("E3M2", bits=6, mantissa_bits=2, min_exponent=-2, largest=28.0)
E4M3 = Element("E4M3", bits=8, mantissa_bits=3, min_exponent=-6, largest=448.0)
E5M2 = Element("E5M2", bits=8, mantissa_bits=2, min_exponent=-14, largest=57344.0)
# Symmetric: the code for -2 stays unused, which section 5.3.4 leaves to the implementation.
MXINT8 = Element("INT8", bits=8, mantissa_bits=6, min_exponent=0, largest=127 / 64)

INT4 = Element("INT4", bits=4, mantissa_bits=2, min_exponent=2, largest=7.0)
INT8 = Element("INT8", bits=8, mantissa_bits=6, min_exponent=6, largest=127.0)

_MX = "OCP Microscaling v1.0, sections {} and 6.3"
_NVFP4 = "NVIDIA, Pretraining Large Language Models with NVFP4 (2025)"
_FOUR_OVER_SIX = "Cook et al., Four Over Six: NVFP4 with Adaptive Block Scaling (arXiv:2512.02010)"
_INTEGERS = "symmetric integers without the code for -L - 1"

FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("mxfp4", E2M1, 32, SCALE_RULES, _MX.format("5.3.3")),
        Format("mxfp6_e2m3", E2M3, 32, SCALE_RULES, _MX.format("5.3.2")),
        Format("mxfp6_e3m2", E3M2, 32, SCALE_RULES, _MX.format("5.3.2")),
        Format("mxfp8_e4m3", E4M3, 32, SCALE_RULES, _MX.format("5.3.1")),
        Format("mxfp8_e5m2", E5M2, 32, SCALE_RULES, _MX.format("5.3.1")),
        Format("mxint8", MXINT8, 32, SCALE_RULES, _MX.format("5.3.4")),
        Format("nvfp4", E2M1, 16, ("token", "tensor"), _NVFP4, "e4m3"),
        Format(*("nvfp4_46", E2M1, 16, ("token", "tensor"), _FOUR_OVER_SIX, "e4m3"), lowered=4.0),
        Format("int4_g32", INT4, 32, ("absmax",), _INTEGERS, "fp32"),
        Format("int4_g128", INT4, 128, ("absmax",), _INTEGERS, "fp32"),
        Format("int8_token", INT8, ROW, ("absmax",), _INTEGERS, "fp32"),
        Format("fp8_e4m3_token", E4M3, ROW, ("absmax",), "OCP 8-bit FP v1.0", "fp32"),
    )
}


ROTATIONS = tuple(2**power for power in range(1, 11))
"""Group sizes of the suffix `+hadamardN`."""

GROUPS = {
    "4bit": tuple(name for name, each in FORMATS.items() if each.element.bits == 4),
    "all": tuple(FORMATS),
}
"""Words for several formats, each with its first scale rule."""


def parse_spec(text: str) -> FormatSpec:
    """`name`, `name:rule`, or either with a rotation, `name+hadamard32:rule` -> what it means.

    Raises:
        UsageError: no such format or rotation, or the format does not have that rule.
    """
    name, colon, rule = text.partition(":")
    found = _parse_format(name)
    if not colon:
        return FormatSpec(found, found.scale_rules[0])
    rule, plus, rotation = rule.partition("+")
    if plus:
        raise UsageError(
            f"the rotation of {text!r} comes after its scale rule",
            f"write {name}+{rotation}:{rule}",
        )
    if rule not in found.scale_rules:
        raise unknown_name(f"scale rule for {name}", rule, found.scale_rules)
    return FormatSpec(found, rule)


def _parse_format(name: str) -> Format:
    base, plus, suffix = name.partition("+")
    if base not in FORMATS:
        raise unknown_name("format", base, FORMATS)
    if not plus:
        return FORMATS[base]
    for size in ROTATIONS:
        if suffix == f"hadamard{size}":
            return replace(FORMATS[base], name=name, rotation=size)
    sizes = f"{ROTATIONS[0]}, {ROTATIONS[1]}, {ROTATIONS[2]} ... {ROTATIONS[-1]}"
    raise UsageError(
        f"unknown rotation {suffix!r} of {base}",
        f"write {base}+hadamard32; sizes are powers of two: {sizes}",
    )


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


def parse_specs(texts: Sequence[str]) -> list[FormatSpec]:
    """Several formats, each once, in the order given; a word of GROUPS stands for its formats.

    Raises:
        UsageError: one is unknown, or the list is empty.
    """
    if not texts:
        raise UsageError("no format was named", f"choose from: {', '.join((*FORMATS, *GROUPS))}")
    found = []
    for text in texts:
        group, colon, _ = text.partition(":")
        if group in GROUPS and colon:
            raise UsageError(
                f"{group} is a group of formats and takes no scale rule",
                f"name them one by one: {', '.join(GROUPS[group])}",
            )
        if group.partition("+")[0] not in FORMATS and group not in GROUPS:
            raise unknown_name("format", group, (*FORMATS, *GROUPS))
        found += [parse_spec(name) for name in GROUPS.get(text, (text,))]
    return list(dict.fromkeys(found))
