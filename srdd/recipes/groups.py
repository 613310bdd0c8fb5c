"""Which linears get one format together, from the names that the scan gives them.

Serving engines read some linears in one matrix product, with one format for all: the query, key and
value projections, gate and up, and all experts of a layer. Linears with one weight between them
cannot differ at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from srdd.documents.recipe import GRANULARITIES
from srdd.errors import unknown_name
from srdd.model.kinds import ORDER
from srdd.recipes.costs import Weighed

FUSED = (("q", "k", "v"), ("gate", "up"), ("q_a_proj", "kv_a_proj_with_mqa"))
"""Kinds, or last parts of names, that one kernel takes together where a module has one of each."""

EXPERTS = "experts"
"""The part of a name below which all linears are experts of a layer."""

ROUTER = "router"
"""The kind that belongs to no group: it stays in 16 bits unless a pattern says otherwise."""


@dataclass(frozen=True)
class Group:
    """Linears with one format: a name, and their places in the order of the model."""

    name: str
    members: tuple[int, ...]


def groups_of(
    linears: Sequence[Weighed],
    granularity: str = "linear-group",
    fused: Sequence[Sequence[str]] = FUSED,
) -> list[Group]:
    """The groups in the order of their first members; each linear is in one of them.

    Arguments:
        granularity: of GRANULARITIES: fused linears together, each `tensor` on its own, or a
            `layer` together.
        fused: for `linear-group`, the kinds or names that are fused inside one module; where it is
            empty, neither these nor experts are.

    Raises:
        UsageError: no such granularity, or a name in `fused`, other than the usual ones, that is of
            no linear.
    """
    if granularity not in GRANULARITIES:
        raise unknown_name("granularity", granularity, GRANULARITIES)
    keys = [linear.module for linear in linears]
    if granularity == "layer":
        keys = [
            linear.module if linear.kind == ROUTER else f"layer {linear.layer}"
            for linear in linears
        ]
    elif granularity == "linear-group" and fused:
        _refuse_unknown(linears, fused)
        keys = _fused(linears, fused)
    keys = _tied(linears, keys)
    members: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        members.setdefault(key, []).append(place)
    return [Group(name, tuple(places)) for name, places in members.items()]


def _fused(linears: Sequence[Weighed], fused: Sequence[Sequence[str]]) -> list[str]:
    """The name of each linear's group."""
    keys = [linear.module for linear in linears]
    by_parent: dict[str, list[int]] = {}
    for place, linear in enumerate(linears):
        parts = linear.module.split(".")
        if linear.kind == ROUTER:
            continue
        if EXPERTS in parts[:-1]:
            keys[place] = ".".join(parts[: parts.index(EXPERTS) + 1])
        else:
            by_parent.setdefault(".".join(parts[:-1]), []).append(place)
    for parent, places in by_parent.items():
        for names in fused:
            fitting = [[p for p in places if _is(linears[p], name)] for name in names]
            found = [each[0] for each in fitting if len(each) == 1]
            # Two query projections, as with low-rank attention, are not what is fused.
            if len(found) < 2 or any(len(each) > 1 for each in fitting):
                continue
            joined = "+".join(linears[p].module.rpartition(".")[2] for p in found)
            for place in found:
                keys[place] = f"{parent}.{joined}" if parent else joined
    return keys


def _refuse_unknown(linears: Sequence[Weighed], fused: Sequence[Sequence[str]]) -> None:
    """The usual names need not be in every model; those that a user gives have to be."""
    for name in (name for names in fused if tuple(names) not in FUSED for name in names):
        if not any(_is(linear, name) for linear in linears):
            known = dict.fromkeys(linear.kind for linear in linears if linear.kind != ROUTER)
            raise unknown_name("kind or name of linears", name, list(known))


def _is(linear: Weighed, name: str) -> bool:
    if name in ORDER:
        return linear.kind == name
    return linear.module.rpartition(".")[2] == name


def _tied(linears: Sequence[Weighed], keys: Sequence[str]) -> list[str]:
    """The groups once linears that share a weight are in one."""
    place = {linear.module: n for n, linear in enumerate(linears)}
    renamed: dict[str, str] = {}

    def final(key: str) -> str:
        while key in renamed:
            key = renamed[key]
        return key

    for n, linear in enumerate(linears):
        if linear.tied_to in place:
            own, other = final(keys[n]), final(keys[place[linear.tied_to]])
            if own != other:
                renamed[own] = other
    return [final(key) for key in keys]
