"""A model's decoder layers, linears and norms, found by what its modules are, not by their names.

The decoder stack is a list of modules that each hold linear weights. A language model may have
several such lists (experts inside layers, the tower of another modality): lists inside lists are
left to the outer one, and of the rest the stack is the one whose length the model's configuration
gives as its number of layers, or else the one with the most parameters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from srdd.errors import InputError
from srdd.model.running import text_config

NormKind = Literal["rmsnorm", "layernorm"]


@dataclass(frozen=True)
class NormModule:
    """A normalisation module with one weight per channel.

    `gain_rms` is the root mean square of the factors it really multiplies with, observed on a
    probe: some architectures store the factor minus one. None where it cannot be observed.
    """

    name: str
    kind: NormKind
    type: str
    size: int
    gain_rms: float | None


@dataclass(frozen=True)
class LinearModule:
    """A module with a two-dimensional weight, seen as (out_features, in_features)."""

    name: str
    type: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class DecoderLayer:
    """A decoder layer by its index in the model's own list.

    `stacked` names modules that hold the weights of several experts in one tensor.
    """

    index: int
    name: str
    module: nn.Module
    norms: tuple[NormModule, ...]
    linears: tuple[LinearModule, ...]
    stacked: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """What a scan needs to know of a model.

    Attributes:
        decoder: name of the list of layers, such as `model.layers`.
        layers: in the model's order.
        other_norms: norms outside the layers, such as the final one.
        body: the smallest part of the model that runs all layers from token ids; it has no
            language-model head, where the model allows that.
    """

    decoder: str
    layers: tuple[DecoderLayer, ...]
    other_norms: tuple[NormModule, ...]
    body: nn.Module


def _own_weight(module: nn.Module) -> torch.Tensor | None:
    weight = module._parameters.get("weight")
    return weight if isinstance(weight, torch.Tensor) else None


def _is_linear(module: nn.Module) -> bool:
    weight = _own_weight(module)
    return weight is not None and weight.ndim == 2 and not isinstance(module, nn.Embedding)


def _is_norm(module: nn.Module) -> bool:
    weight = _own_weight(module)
    if weight is None or weight.ndim != 1 or any(True for _ in module.children()):
        return False
    return all(p is None or p.ndim == 1 for p in module._parameters.values())


def _is_stacked(module: nn.Module) -> bool:
    """Whether it has three-dimensional weights and is not a convolution."""
    stacked = any(p is not None and p.ndim == 3 for p in module._parameters.values())
    return stacked and not type(module).__name__.startswith("Conv")


def _holds_linear(module: nn.Module) -> bool:
    return any(_is_linear(inner) for inner in module.modules() if inner is not module)


def _stacks(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Outermost lists whose members all hold linears."""
    inside: list[str] = []
    for name, module in model.named_modules():
        if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(module) == 0:
            continue
        if any(name.startswith(f"{outer}.") for outer in inside):
            continue
        if all(_holds_linear(member) for member in module.children()):
            inside.append(name)
            yield name, module


def _find_stack(model: nn.Module) -> tuple[str, nn.Module]:
    stacks = list(_stacks(model))
    if not stacks:
        linears = sum(_is_linear(m) for m in model.modules())
        lists = [n for n, m in model.named_modules() if isinstance(m, nn.ModuleList)]
        raise InputError(
            f"{type(model).__name__} has no decoder stack: no list of modules that each hold "
            f"linears (found: {linears} linears, lists: {', '.join(lists) or 'none'})",
            "name a decoder-only language model",
        )
    configured = getattr(text_config(model), "num_hidden_layers", None)

    def rank(entry: tuple[str, nn.Module]) -> tuple[bool, int]:
        _, stack = entry
        parameters = sum(p.numel() for p in stack.parameters())
        return len(list(stack.children())) == configured, parameters

    return max(stacks, key=rank)


@torch.no_grad()
def _observe(module: nn.Module, weight: torch.Tensor) -> tuple[NormKind | None, float | None]:
    """What kind of norm this is and its gain, from what it does to a probe.

    A layer norm ignores a constant added to its input, and an RMS norm does not.
    """
    if weight.is_meta or weight.numel() == 0:
        return None, None
    # Plus and minus one: no channel's factor hides behind a small value, and no slice is constant.
    signs = 1.0 - 2.0 * (torch.arange(weight.numel()) % 2)
    x = signs.to(weight.device, weight.dtype).unsqueeze(0)
    try:
        y, moved = module(x).float().cpu()[0], module(x + 3).float().cpu()[0]
    except Exception:  # a norm that takes more than its input cannot be probed
        return None, None
    bias = module._parameters.get("bias")
    if bias is not None:
        y, moved = y - bias.float().cpu(), moved - bias.float().cpu()
    if not torch.isfinite(y).all() or not torch.isfinite(moved).all():
        return None, None
    largest = float(y.abs().max())
    if largest == 0:
        return None, 0.0
    centred = bool(torch.allclose(y, moved, rtol=0.05, atol=0.05 * largest))
    normal = signs - signs.mean() if centred else signs
    normal = normal / normal.square().mean().sqrt()
    gain = float((y / normal).square().mean().sqrt()) if (normal != 0).all() else None
    return ("layernorm" if centred else "rmsnorm"), gain


def _norm(name: str, module: nn.Module) -> NormModule:
    weight = _own_weight(module)
    assert weight is not None
    kind, gain = _observe(module, weight)
    if kind is None:
        kind = "rmsnorm" if "rmsnorm" in type(module).__name__.lower() else "layernorm"
    return NormModule(name, kind, type(module).__name__, weight.numel(), gain)


def is_transposed(module: nn.Module) -> bool:
    """Whether a linear stores its weight as (in, out), as GPT-2's Conv1D with `nf` outputs does."""
    weight = _own_weight(module)
    assert weight is not None
    return type(module).__name__ == "Conv1D" and getattr(module, "nf", None) == weight.shape[1]


def _linear(name: str, module: nn.Module) -> LinearModule:
    weight = _own_weight(module)
    assert weight is not None
    rows, columns = weight.shape
    outs, ins = (columns, rows) if is_transposed(module) else (rows, columns)
    return LinearModule(name, type(module).__name__, ins, outs)


def _body(model: nn.Module, stack: nn.Module) -> nn.Module:
    inner = getattr(model, "base_model", model)
    if isinstance(inner, nn.Module) and any(m is stack for m in inner.modules()):
        return inner
    return model


def find_structure(model: nn.Module) -> Structure:
    """Decoder layers, linears and norms of `model`.

    Raises:
        InputError: it has no decoder stack; the message says what it has.
    """
    decoder, stack = _find_stack(model)
    layers = []
    for index, (key, layer) in enumerate(stack.named_children()):
        prefix = f"{decoder}.{key}" if decoder else key
        inner = [(f"{prefix}.{name}", m) for name, m in layer.named_modules() if name]
        layers.append(
            DecoderLayer(
                index=index,
                name=prefix,
                module=layer,
                norms=tuple(_norm(name, m) for name, m in inner if _is_norm(m)),
                linears=tuple(_linear(name, m) for name, m in inner if _is_linear(m)),
                stacked=tuple(name for name, m in inner if _is_stacked(m)),
            )
        )
    own = {norm.name for layer in layers for norm in layer.norms}
    other = tuple(
        _norm(name, m) for name, m in model.named_modules() if _is_norm(m) and name not in own
    )
    return Structure(decoder, tuple(layers), other, _body(model, stack))
