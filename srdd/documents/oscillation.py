"""The Oscillation document: how many weights have another code in a second checkpoint.

Weights are those of the linears in decoder layers, quantized to one format in both. Counts are kept
for each weight tensor, so that layers and kinds are had by adding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from srdd.documents.document import Count, Document, Part, Positive
from srdd.errors import unknown_name

BY = ("layer", "kind", "tensor")


class Checkpoint(Part):
    """A model's folder, and the type that its weights are stored in."""

    folder: str
    dtype: str


class Flips(Part):
    """A weight tensor in both checkpoints.

    Of `values`, those that are finite in both, `flipped` have another element code and `changed`
    another dequantized value; `rescaled` of `blocks` have another scale. `expected` is how many
    codes would flip if values lay anywhere between the boundaries of their codes with equal
    probability: the sum over values of |new - old| over the distance of codes there, at most 1.
    `moved2` is the sum of (new - old)^2, `norm2` that of old^2.
    """

    tensor: str
    layer: Count
    kind: str
    values: Count
    flipped: Count
    changed: Count
    expected: Positive
    blocks: Count
    rescaled: Count
    moved2: Positive
    norm2: Positive


class LeftOut(Part):
    """A tensor that was not compared, and why."""

    tensor: str
    reason: str


class Oscillation(Document):
    """Two checkpoints of one model, weight tensor by weight tensor."""

    kind: Literal["srdd.oscillation"] = "srdd.oscillation"
    schema_version: Literal[1] = 1
    old: Checkpoint
    new: Checkpoint
    format: str
    weights: list[Flips]
    left_out: list[LeftOut]


def shares(weights: Iterable[Flips]) -> dict[str, float | None]:
    """Figures of some weights together.

    Returns:
        `flipped`, `expected` and `changed` as shares of the values, `rescaled` of the blocks;
        `ratio` of flipped to expected; `moved`, the norm of the change over that of the old values.
        None where a denominator is 0.
    """
    names = ("values", "flipped", "changed", "expected", "blocks", "rescaled", "moved2", "norm2")
    sums = dict.fromkeys(names, 0.0)
    for weight in weights:
        for name in names:
            sums[name] += getattr(weight, name)

    def over(first: str, second: str) -> float | None:
        return sums[first] / sums[second] if sums[second] else None

    moved = over("moved2", "norm2")
    return {
        "values": sums["values"],
        "flipped": over("flipped", "values"),
        "expected": over("expected", "values"),
        "ratio": over("flipped", "expected"),
        "changed": over("changed", "values"),
        "rescaled": over("rescaled", "blocks"),
        "moved": None if moved is None else moved**0.5,
    }


def rows_of(oscillation: Oscillation, by: str) -> list[Mapping[str, Any]]:
    """A row for each layer, kind or tensor: `layer`, `tensor`, and the figures of `shares`.

    Raises:
        UsageError: an unknown `by`.
    """
    if by not in BY:
        raise unknown_name("view", by, BY)
    groups: dict[object, list[Flips]] = {}
    for weight in oscillation.weights:
        groups.setdefault(getattr(weight, by), []).append(weight)
    rows: list[Mapping[str, Any]] = []
    for members in groups.values():
        first = members[0]
        layer = None if by == "kind" else first.layer
        tensor = {"layer": None, "kind": first.kind, "tensor": first.tensor}[by]
        rows.append({"layer": layer, "tensor": tensor, **shares(members)})
    return rows
