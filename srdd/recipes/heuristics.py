"""What people do without measuring costs: rules that keep some linears in more bits.

They follow from names, layers and sizes alone, so that one can say of each what it costs and
compare a recipe with it at the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from srdd.documents.recipe import bits_of
from srdd.errors import counted
from srdd.recipes.costs import Linear
from srdd.recipes.groups import ROUTER

ATTENTION = ("q", "k", "v", "qkv", "kv", "o")
DOWN = ("down",)

MORE_BITS = 6.0
"""A format with fewer bits than this is none that people keep something in."""

FIRST_MLPS, LAST_MLPS = 2, 4
"""Layers whose MLPs are kept beside all attention: a rule of published training recipes."""


@dataclass(frozen=True)
class Heuristic:
    """A rule, and the format that it gives each linear, (linears,)."""

    name: str
    formats: tuple[str, ...]


def heuristics(
    linears: Sequence[Linear],
    formats: Sequence[str],
    most_bits: float | None = None,
    pinned: Mapping[str, str] | None = None,
) -> list[Heuristic]:
    """Rules for these linears; each set of formats once.

    Routers stay in 16 bits. The other linears are in the format of fewest bits, unless a rule keeps
    them in a format of 6 bits or more:

        all in FORMAT     every linear in one format
        down_proj, attention
        MLPs at both ends those of the first 2 and last 4 layers, beside all attention
        first and last N, first N, last N layers; down_proj or attention of the N outer layers:
                          with as many layers as fit into `most_bits`

    Arguments:
        formats: by bits, `bf16` last.
        most_bits: average bits a weight at most for rules with a number N; None leaves these out.
        pinned: module -> its format, whatever the rule.
    """
    fixed = {one.module: formats[-1] for one in linears if one.kind == ROUTER} | dict(pinned or {})
    seen: dict[tuple[str, ...], Heuristic] = {}
    for each in _rules(linears, formats, most_bits, fixed):
        seen.setdefault(each.formats, each)
    return list(seen.values())


def _rules(
    linears: Sequence[Linear],
    formats: Sequence[str],
    most_bits: float | None,
    fixed: Mapping[str, str],
) -> Iterator[Heuristic]:
    low = formats[0]
    bases = [each.partition(":")[0] for each in formats]
    # The scale rule only where it tells formats apart.
    name_of = {
        each: base if bases.count(base) == 1 else each
        for each, base in zip(formats, bases, strict=True)
    }
    layers = list(dict.fromkeys(linear.layer for linear in linears))

    def keeping(name: str, high: str, keeps: Callable[[Linear], bool]) -> Heuristic:
        return Heuristic(
            name,
            tuple(fixed.get(one.module) or (high if keeps(one) else low) for one in linears),
        )

    for each in formats[:-1]:
        yield keeping(f"all in {name_of[each]}", each, lambda linear: True)
    outer = [layer for pair in zip(layers, layers[::-1], strict=True) for layer in pair]
    outer = list(dict.fromkeys(outer))
    for high in [each for each in formats[1:] if bits_of(each) >= MORE_BITS]:
        yield keeping(f"down_proj in {name_of[high]}", high, lambda linear: linear.kind in DOWN)
        yield keeping(
            f"attention in {name_of[high]}", high, lambda linear: linear.kind in ATTENTION
        )
        if len(layers) > FIRST_MLPS + LAST_MLPS:
            ends = {*layers[:FIRST_MLPS], *layers[-LAST_MLPS:]}
            yield keeping(
                f"attention, MLPs at both ends in {name_of[high]}",
                high,
                lambda linear, ends=ends: linear.kind in ATTENTION or linear.layer in ends,  # type: ignore[misc]
            )
        if most_bits is None:
            continue
        for name, noun, order, step, kinds in (
            ("first and last", "layer", outer, 2, None),
            ("first", "layer", layers, 1, None),
            ("last", "layer", layers[::-1], 1, None),
            ("down_proj of", "outer layer", outer, 1, DOWN),
            ("attention of", "outer layer", outer, 1, ATTENTION),
        ):
            found = None
            for count in range(step, len(order) + 1, step):
                chosen = set(order[:count])
                number = count // step
                which = noun if (number, noun) == (1, "layer") else counted(number, noun)
                rule = keeping(
                    f"{name} {which} in {name_of[high]}",
                    high,
                    lambda linear, chosen=chosen, kinds=kinds: (  # type: ignore[misc]
                        linear.layer in chosen and (kinds is None or linear.kind in kinds)
                    ),
                )
                if average_bits(linears, rule.formats) > most_bits * (1 + 1e-9):
                    break
                found = rule
            if found is not None:
                yield found


def average_bits(linears: Sequence[Linear], formats: Sequence[str]) -> float:
    """Bits a weight, scales included, of linears in these formats."""
    total = sum(linear.parameters for linear in linears)
    used = sum(
        linear.parameters * bits_of(name) for linear, name in zip(linears, formats, strict=True)
    )
    return used / total
