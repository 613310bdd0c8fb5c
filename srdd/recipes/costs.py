"""What a recipe is chosen from: the cost of every linear in every format, by group of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from srdd.documents.recipe import KEPT, bits_of
from srdd.documents.scan import Scan
from srdd.documents.sensitivity import Sensitivity
from srdd.errors import InputError, UsageError
from srdd.model.kinds import kind_of
from srdd.numerics.confidence import mean_interval
from srdd.numerics.formats import parse_spec

Figures = NDArray[np.float64]
Indices = NDArray[np.intp]
Operands = Literal["both", "weight"]

KEPT_NAMES = ("bf16", "bfloat16", "bf16:none")
"""What people call the format of a linear that is not quantized."""


class Linear(Protocol):
    """A linear of a model, as far as a recipe and its heuristics look at it."""

    @property
    def module(self) -> str: ...
    @property
    def layer(self) -> int: ...
    @property
    def kind(self) -> str: ...
    @property
    def parameters(self) -> int: ...


@dataclass(frozen=True)
class Weighed:
    """A linear with its name, layer, kind, number of weights, and the name it shares weights with.

    `tied_to` is None where its weight is its own.
    """

    module: str
    layer: int
    kind: str
    parameters: int
    tied_to: str | None


@dataclass(frozen=True)
class Costs:
    """What quantizing each linear costs.

    Attributes:
        linears: those with a cost in every candidate format, in the order of the model.
        formats: candidates by bits a weight, `bf16` last.
        nats: (groups of prompts, linears, formats), nats summed over the tokens of a group.
        tokens: (groups of prompts,), each above 0.
        left_out: linears of the decoder layers that have no cost in one of the formats.
    """

    linears: tuple[Weighed, ...]
    formats: tuple[str, ...]
    nats: Figures
    tokens: Figures
    left_out: tuple[str, ...]

    @cached_property
    def kl(self) -> Figures:
        """(linears, formats) nats a token."""
        return self.kl_in(np.arange(len(self.tokens)))

    def kl_in(self, groups: Indices) -> Figures:
        """(linears, formats) nats a token over some groups of prompts."""
        mean: Figures = self.nats[groups].sum(axis=0) / self.tokens[groups].sum()
        return mean

    @cached_property
    def bits(self) -> Figures:
        """(linears, formats) bits that a linear's weights take, scales included."""
        parameters = np.array([linear.parameters for linear in self.linears], dtype=np.float64)
        bits: Figures = np.outer(parameters, [bits_of(name) for name in self.formats])
        return bits

    @property
    def parameters(self) -> int:
        """Weights of all linears together."""
        return sum(linear.parameters for linear in self.linears)

    def average_bits(self, choice: Indices) -> float:
        """Bits a weight of a choice (linears,) of formats."""
        return float(self.bits[np.arange(len(choice)), choice].sum()) / self.parameters

    def nats_of(self, choice: Indices) -> Figures:
        """(groups of prompts,) what a choice of formats costs, as the sum over linears."""
        summed: Figures = self.nats[:, np.arange(len(choice)), choice].sum(axis=1)
        return summed

    def mean(self, nats: Figures) -> tuple[float, tuple[float, float] | None]:
        """Nats a token of sums by group (groups,), and the 95 % interval over prompts."""
        return float(nats.sum() / self.tokens.sum()), mean_interval(nats, self.tokens)


def candidates(scan: Scan, formats: Sequence[str], operands: Operands) -> tuple[str, ...]:
    """Formats to choose from, by bits a weight, with `bf16` last.

    Arguments:
        formats: names such as `mxfp4` or `mxfp4:floor`, or `bf16`; all that the scan has the cost
            of for none.

    Raises:
        UsageError: the scan has no sensitivity, or none in such a format.
    """
    sensitivity = _sensitivity(scan)
    known = list(dict.fromkeys(c.format for c in sensitivity.changes if c.operands == operands))
    if not known:
        raise UsageError(
            f"the scan has no costs with operands {operands!r}", "choose from: both, weight"
        )
    wanted = [name for name in formats if name not in KEPT_NAMES]
    chosen = [_known(name, known) for name in wanted] if formats else known
    if not chosen:
        raise UsageError("bf16 alone leaves nothing to choose", f"add one of: {', '.join(known)}")
    return (*sorted(dict.fromkeys(chosen), key=bits_of), KEPT)


def _known(name: str, known: Sequence[str]) -> str:
    """The format of the scan that a name means, with or without its scale rule."""
    spec = str(parse_spec(name))
    fitting = [spec] if spec in known else [one for one in known if one.split(":")[0] == name]
    if len(fitting) != 1:
        raise UsageError(
            f"the scan has no cost of {name}",
            f"choose from: {', '.join([*known, KEPT])}, "
            f"or scan with `kl=True` and {name} among `formats`",
        )
    return fitting[0]


def costs_of(scan: Scan, formats: Sequence[str] = (), operands: Operands = "both") -> Costs:
    """The costs that a scan has of its linears; see `candidates` for the arguments.

    Raises:
        UsageError: as `candidates`.
        InputError: no linear has a cost in all formats, or one has no size.
    """
    sensitivity = _sensitivity(scan)
    chosen = candidates(scan, formats, operands)
    places = {name: place for place, name in enumerate(chosen)}
    nats: dict[str, dict[int, list[float]]] = {}
    for change in sensitivity.changes:
        if change.operands == operands and change.format in places:
            nats.setdefault(change.tensor, {})[places[change.format]] = change.nats
    known = _linears(scan)
    for name in nats:
        if name not in known:
            raise InputError(
                f"the scan has a cost of {name} and does not say how large it is",
                "scan the model again with this srdd",
            )
    complete = [name for name in known if len(nats.get(name, ())) == len(chosen) - 1]
    if not complete:
        raise InputError(
            f"the scan has no linear with a cost in each of {', '.join(chosen[:-1])}",
            "scan again, all formats at once",
        )
    table = np.zeros((len(sensitivity.tokens), len(complete), len(chosen)))
    for row, name in enumerate(complete):
        for place, values in nats[name].items():
            table[:, row, place] = values
    tokens = np.array(sensitivity.tokens, dtype=np.float64)
    return Costs(
        linears=tuple(known[name] for name in complete),
        formats=chosen,
        nats=table[tokens > 0],
        tokens=tokens[tokens > 0],
        left_out=tuple(name for name in known if name not in complete),
    )


def _linears(scan: Scan) -> dict[str, Weighed]:
    """Linears and stacked experts of the decoder layers by name."""
    found: dict[str, Weighed] = {}
    for layer in scan.model.layers:
        for linear in layer.linears:
            size = linear.in_features * linear.out_features
            found[linear.name] = Weighed(
                linear.name, layer.index, kind_of(linear.name), size, linear.tied_to
            )
        for stack in layer.experts:
            found[stack.name] = Weighed(
                stack.name, layer.index, kind_of(stack.name), stack.size, None
            )
    return {name: one for name, one in found.items() if one.parameters}


def _sensitivity(scan: Scan) -> Sensitivity:
    if scan.sensitivity is None:
        raise UsageError(
            "the scan has no sensitivity, which a recipe is chosen by",
            "scan with `kl=True`, and all formats to choose from, such as mxfp4 and mxfp8_e4m3, "
            "in `formats`",
        )
    return scan.sensitivity
