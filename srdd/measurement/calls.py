"""Calls of linears and norms in a forward pass, with the place of their outputs in its graph.

A call keeps what went in and where in the autograd graph its output lies, so that gradients with
respect to the output can be taken afterwards (torch.autograd.grad takes such edges). The output
itself is not kept. An edge is noted as the module returns, so what later code does to the output in
place does not matter.

Linears are known by their modules; experts that are stacked in one parameter by their products, see
srdd.model.experts. A module whose output is not x W^T + b is detected by
comparing one row of its first call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from srdd.model.experts import Product, watching
from srdd.model.linears import Weight, stacked_in, weight_of
from srdd.model.selection import Selection
from srdd.model.structure import NormModule, Structure

NOT_PLAIN = "its first output is not the product of its input with its weight"
OVERWRITTEN = "its input is overwritten in place by later code"


@dataclass(frozen=True)
class Target:
    """A module whose calls are recorded.

    Attributes:
        layer: index of the decoder layer; None for a norm outside all layers.
        tensor: the module's name; of stacked experts, the parameter's.
        key: of the parameter in which experts are stacked; None for other modules.
    """

    kind: Literal["linear", "norm"]
    layer: int | None
    tensor: str
    module: nn.Module
    key: str | None = None


@dataclass(frozen=True)
class LinearCall:
    """One product of a pass.

    Attributes:
        x: (rows, in), detached.
        weight: of a single linear or expert.
        edge: of the output, (rows, out) in any shape.
        tokens: (rows,) which of the batch's tokens each row belongs to; None for all, in order.
    """

    target: Target
    x: Tensor
    version: int
    weight: Weight
    edge: GradientEdge
    tokens: Tensor | None

    @property
    def is_intact(self) -> bool:
        """Whether x still holds what went in."""
        return self.x._version == self.version


@dataclass(frozen=True)
class NormCall:
    """One run of a norm: `normalized` has the output's shape and is what the gain multiplies."""

    target: Target
    normalized: Tensor
    edge: GradientEdge


Call = LinearCall | NormCall


@dataclass
class Record:
    """What was called while `recording`, and which targets cannot be used, with the reason."""

    calls: list[Call] = field(default_factory=list)
    unusable: dict[Target, str] = field(default_factory=dict)


def targets_of(
    model: nn.Module, structure: Structure, selection: Selection
) -> tuple[list[list[Target]], list[Target]]:
    """The selected linears and all norms of each layer, and the norms outside the layers."""
    layers = []
    for layer in structure.layers:
        here = [
            Target("linear", layer.index, linear.name, model.get_submodule(linear.name))
            for linear in layer.linears
            if selection.takes(linear.name)
        ]
        for stack in layer.stacked:
            module = model.get_submodule(stack)
            here += [
                Target("linear", layer.index, f"{stack}.{key}", module, key)
                for key, _ in stacked_in(module)
                if selection.takes(f"{stack}.{key}")
            ]
        layers.append(here + _norms(model, layer.index, layer.norms))
    return layers, _norms(model, None, structure.other_norms)


def _norms(model: nn.Module, layer: int | None, norms: Sequence[NormModule]) -> list[Target]:
    return [Target("norm", layer, norm.name, model.get_submodule(norm.name)) for norm in norms]


def first_float(value: object) -> Tensor | None:
    """The first floating-point tensor in what a module takes or returns."""
    if isinstance(value, Tensor):
        return value if value.is_floating_point() else None
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, Sequence) and not isinstance(value, str):
        for part in value:
            found = first_float(part)
            if found is not None:
                return found
    return None


def replaced(value: Any, old: Tensor, new: Tensor) -> Any:
    """`value` with one tensor in it replaced by another, by identity."""
    if value is old:
        return new
    if isinstance(value, Mapping):
        changed = {key: replaced(each, old, new) for key, each in value.items()}
        return type(value)(**changed) if not isinstance(value, dict) else type(value)(changed)
    if isinstance(value, tuple | list):
        return type(value)(replaced(each, old, new) for each in value)
    return value


@contextmanager
def recording(targets: Sequence[Target]) -> Iterator[Record]:
    """While this runs, calls of the targets are recorded; afterwards no hook is left."""
    record = Record()
    stacks: dict[nn.Module, list[Target]] = {}
    with ExitStack() as stack:
        for target in targets:
            if target.key is not None:
                stacks.setdefault(target.module, []).append(target)
                continue
            hook = _norm_hook if target.kind == "norm" else _linear_hook
            handle = target.module.register_forward_hook(hook(target, record), with_kwargs=True)
            stack.callback(handle.remove)
        for module, within in stacks.items():
            stack.enter_context(watching(module, _product_hook(within, record)))
        yield record


Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Any]


def _linear_hook(target: Target, record: Record) -> Hook:
    plain: bool | None = True if type(target.module) is nn.Linear else None

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        nonlocal plain
        x, y = first_float((*args, *kwargs.values())), first_float(output)
        weight = weight_of(target.layer or 0, target.tensor, module)
        reason = weight.unusable_reason()
        if reason is None and plain is None and x is not None and x.numel():
            plain = _is_product(x, weight, module, y)
        if reason is not None or x is None or y is None or not plain:
            record.unusable[target] = reason or NOT_PLAIN
            return None
        output, y = _connected(output, y)
        rows = x.detach().reshape(-1, x.shape[-1])
        edge = get_gradient_edge(y)
        record.calls.append(LinearCall(target, rows, rows._version, weight, edge, None))
        return output

    return after


def _product_hook(targets: Sequence[Target], record: Record) -> Callable[[Product], None]:
    by_key = {target.key: target for target in targets}

    def met(product: Product) -> None:
        target = by_key.get(product.key)
        if target is None or not product.y.requires_grad:
            return
        name = f"{target.tensor}[{product.expert}]"
        weight = Weight(target.layer or 0, name, product.weight.detach(), False)
        reason = weight.unusable_reason()
        if reason is not None:
            record.unusable[target] = reason
            return
        x, edge = product.x.detach(), get_gradient_edge(product.y)
        record.calls.append(LinearCall(target, x, x._version, weight, edge, product.tokens))

    return met


def _norm_hook(target: Target, record: Record) -> Hook:
    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        y = first_float(output)
        normalized = None if y is None else _normalized(module, args, kwargs)
        if y is None or normalized is None or normalized.shape != y.shape:
            record.unusable[target] = "what its gain multiplies could not be observed"
            return None
        output, y = _connected(output, y)
        record.calls.append(NormCall(target, normalized, get_gradient_edge(y)))
        return output

    return after


def _connected(output: Any, y: Tensor) -> tuple[Any, Tensor]:
    """The output as part of a graph: one begins here where nothing before it has a gradient."""
    if y.requires_grad:
        return output, y
    leaf = y.detach().requires_grad_()
    return replaced(output, y, leaf), leaf


@torch.no_grad()
def _is_product(x: Tensor, weight: Weight, module: nn.Module, y: Tensor | None) -> bool:
    """Whether the first row of y is that of x W^T + b, up to rounding."""
    outs, ins = weight.sides
    if y is None or x.shape[-1] != ins or y.shape[-1] != outs:
        return False
    if x.numel() // ins != y.numel() // outs:
        return False
    w = weight.data.t() if weight.transposed else weight.data
    expected = w.double() @ x.reshape(-1, ins)[0].double()
    bias = module._parameters.get("bias")
    if bias is not None:
        expected = expected + bias.double()
    scale = float(expected.abs().max()) + 1e-30
    return bool((y.reshape(-1, outs)[0].double() - expected).abs().max() <= 0.05 * scale)


@torch.no_grad()
def _normalized(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What a norm's gain multiplies, in float32: its output at a gain of 1 less that at 0.

    That holds whether the stored weight is the gain or the gain minus one, and with a bias.
    """
    weight = module._parameters["weight"]
    assert weight is not None
    wide = torch.float64 if weight.dtype == torch.float64 else torch.float32

    def widened(value: Any) -> Any:
        return value.to(wide) if isinstance(value, Tensor) and value.is_floating_point() else value

    parameters: dict[str, Any] = module._parameters
    before = dict(parameters)
    given = tuple(widened(value) for value in args)
    named = {key: widened(value) for key, value in kwargs.items()}
    try:
        for key, value in before.items():
            parameters[key] = widened(value)
        outputs = []
        for gain in (1.0, 0.0):
            parameters["weight"] = torch.full_like(weight, gain, dtype=wide)
            outputs.append(first_float(module.forward(*given, **named)))
    except Exception:  # a norm that cannot be run in another type cannot be observed like this
        return None
    finally:
        parameters.update(before)
    one, zero = outputs
    return None if one is None or zero is None else one - zero
