"""The weights of a model's linears, and reading them a slice at a time.

A slice is some output rows of one weight, seen as (rows, in): blocks of a format run along the
input dimension, as in a matrix product. So the memory that reading takes does not grow with the
model. The experts of a mixture are often stacked in one parameter, (experts, out, in), or
(experts, in, out) if `transposed`; each of them is a weight of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from srdd.model.selection import Selection
from srdd.model.structure import Structure, is_transposed
from srdd.numerics.formats import FormatSpec
from srdd.numerics.kernels import DTYPES

SLICE = 1 << 22
"""Values read at a time: 8 MiB in bfloat16, enough to keep both cores busy."""

UNKNOWN = "which of its axes is the input's is unknown"

TRANSPOSED = {
    "GptOssExperts": True,
    "GraniteMoeParallelExperts": False,
    "InklingSharedExperts": False,
    "JetMoeParallelExperts": False,
    "Llama4TextExperts": True,
    "LongcatFlashExperts": False,
    "Step3p7Experts": False,
}
"""Class of transformers without `is_transposed` -> whether it stacks experts as (in, out)."""


@dataclass(frozen=True)
class Weight:
    """A linear's weight: output rows by input columns, for each of its experts.

    Attributes:
        layer: index of its decoder layer.
        name: the module's name; of stacked experts, the parameter's.
        data: (out, in), (in, out) if `transposed`; stacked experts are a first axis.
        transposed: None where that is unknown.
    """

    layer: int
    name: str
    data: torch.Tensor
    transposed: bool | None

    @property
    def sides(self) -> tuple[int, int]:
        """Output and input features."""
        rows, columns = self.data.shape[-2:]
        return (columns, rows) if self.transposed else (rows, columns)

    @property
    def place(self) -> tuple[str, str]:
        """The module's name and the key of the parameter in it."""
        if self.data.ndim == 2:
            return self.name, "weight"
        module, _, key = self.name.rpartition(".")
        return module, key

    def unusable_reason(self) -> str | None:
        """Why it cannot be measured; None where it can."""
        if self.data.is_meta:
            return "its weight is offloaded or on the meta device"
        if self.data.numel() == 0:
            return "its weight has no elements"
        if self.data.dtype not in (*DTYPES, torch.float64):
            return f"its weight is stored as {self.data.dtype}, which is quantized already"
        return UNKNOWN if self.transposed is None else None

    def slices(self, whole: bool = False) -> Iterator[tuple[int, torch.Tensor]]:
        """Output rows, those of each expert in turn.

        Arguments:
            whole: give each expert in one piece, however large it is.

        Yields:
            The number of rows that came before, and (rows, in) of them, at most about SLICE values
            unless a single row has more; float64 as float32, other dtypes as they are.
        """
        done = 0
        for expert in self.data if self.data.ndim == 3 else self.data.unsqueeze(0):
            rows = expert.t() if self.transposed else expert
            step = len(rows) if whole else max(1, SLICE // rows.shape[1])
            for part in rows.split(step):
                yield done, part.float() if part.dtype == torch.float64 else part
                done += len(part)

    def keys(self, first: int, count: int, seed: int) -> torch.Tensor:
        """What stochastic rounding draws from for `count` rows from row `first` on, int64."""
        rows = torch.arange(first, first + count, device=self.data.device)
        return rows + stream_of(self.name, seed)

    def parts(
        self, specs: Sequence[FormatSpec], seed: int
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, list[FormatSpec]]]:
        """`slices` for each format, whole ones for those whose scale is over the whole tensor.

        Yields:
            (rows, in); (rows,) int64, what stochastic rounding of them draws from; and the formats
            that are due for them.
        """
        for whole in (False, True):
            due = [spec for spec in specs if (spec.scale_rule == "tensor") == whole]
            for done, part in self.slices(whole) if due else ():
                yield part, self.keys(done, len(part), seed), due


def stream_of(name: str, seed: int) -> int:
    """Where the keys of a tensor's rows begin for stochastic rounding, in 0 ... 2^62 - 1."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8], "big") >> 2


def find_weights(
    model: nn.Module, structure: Structure, selection: Selection | None = None
) -> list[Weight]:
    """The selected weights of linears in the decoder layers, and the stacked ones of experts."""
    weights = []
    for layer in structure.layers:
        for linear in layer.linears:
            weights.append(weight_of(layer.index, linear.name, model.get_submodule(linear.name)))
        for name in layer.stacked:
            module = model.get_submodule(name)
            transposed = getattr(module, "is_transposed", TRANSPOSED.get(type(module).__name__))
            for key, parameter in stacked_in(module):
                data = parameter.detach()
                weights.append(Weight(layer.index, f"{name}.{key}", data, transposed))
    return [weight for weight in weights if selection is None or selection.takes(weight.name)]


def weight_of(layer: int, name: str, module: nn.Module) -> Weight:
    """The weight of a linear module."""
    weight = module._parameters["weight"]
    assert weight is not None
    return Weight(layer, name, weight.detach(), is_transposed(module))


def stacked_in(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of a module in which the weights of several experts are stacked, by their keys."""
    for key, parameter in module._parameters.items():
        if parameter is not None and parameter.ndim == 3 and parameter.shape[0] > 1:
            yield key, parameter
