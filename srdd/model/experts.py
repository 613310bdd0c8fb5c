"""Experts whose weights are stacked in one parameter: what goes into their products.

Such a mixture runs no module for each expert that a hook could be put on. Its code chooses rows of
the hidden states, multiplies them with a slice of the stacked weights, and what comes out with a
slice of the next:

    rows = hidden_states[tokens]
    middle = linear(rows, gate_up_proj[expert])
    out = linear(act(middle), down_proj[expert])

While it runs, a mode of torch sees every such call. A slice is recognised by its memory.
Which tokens the rows belong to is known from the choice; the next product of the same expert has
the same tokens in the same order. Nothing is read from the device.

This needs the experts to run one after the other. transformers calls that its `eager`
implementation, and `one_by_one` asks for it.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from srdd.model.linears import stacked_in

_CHOICES = {"__getitem__"}
_OF_ROWS = {"linear"}
_OF_COLUMNS = {"matmul", "__matmul__", "mm"}


@dataclass(frozen=True)
class Product:
    """A product that an expert takes.

    Attributes:
        key: of the parameter that its weight is a slice of.
        expert: its index there.
        x: (rows, in), what goes in.
        weight: (out, in).
        y: (rows, out), what comes out.
        tokens: (rows,) int64, which row of the module's input each row follows from.
    """

    key: str
    expert: int
    x: Tensor
    weight: Tensor
    y: Tensor
    tokens: Tensor


class _Watch(TorchFunctionMode):
    """While it is entered, calls `on_product` for each product with an expert of `module`."""

    def __init__(self, module: nn.Module, on_product: Callable[[Product], None]) -> None:
        super().__init__()
        self._module = module
        self._on_product = on_product
        self._chosen: dict[int, tuple[weakref.ref[Tensor], Tensor]] = {}
        """id of rows that were chosen -> the rows and their tokens."""
        self._last: dict[int, Tensor] = {}
        """expert -> tokens of its last product."""

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        if name in _CHOICES:
            self._see_choice(args, result)
        elif name in _OF_ROWS | _OF_COLUMNS and len(args) > 1:
            x, weight = args[:2]
            if isinstance(x, Tensor) and isinstance(weight, Tensor) and weight.ndim == 2:
                self._see_product(x, weight if name in _OF_ROWS else weight.t(), result)
        return result

    def _see_choice(self, args: tuple[Any, ...], result: object) -> None:
        of, where = args
        chosen = isinstance(where, Tensor) and where.ndim == 1 and where.dtype == torch.int64
        if chosen and of.ndim == 2 and of.is_floating_point() and isinstance(result, Tensor):
            self._chosen[id(result)] = (weakref.ref(result), where)

    def _see_product(self, x: Tensor, weight: Tensor, y: Tensor) -> None:
        place = self._place_of(weight)
        if place is None:
            return
        key, expert = place
        known = self._chosen.get(id(x))
        if known is not None and known[0]() is x:
            tokens = known[1]
        elif expert in self._last and len(self._last[expert]) == len(x):
            tokens = self._last[expert]
        else:
            return
        self._last[expert] = tokens
        self._on_product(Product(key, expert, x, weight, y, tokens))

    def _place_of(self, weight: Tensor) -> tuple[str, int] | None:
        """The parameter and expert that a weight is the slice of."""
        if weight.is_meta:
            return None
        memory = weight.untyped_storage().data_ptr()
        for key, whole in stacked_in(self._module):
            if not whole.is_meta and whole.untyped_storage().data_ptr() == memory:
                offset = int(weight.storage_offset()) - int(whole.storage_offset())
                expert, inside = divmod(offset, whole.stride(0))
                if inside == 0 and weight.numel() == whole[0].numel():
                    return key, expert
        return None


@contextmanager
def watching(module: nn.Module, on_product: Callable[[Product], None]) -> Iterator[None]:
    """In here, `on_product` is called for each product of `module`'s experts as the module runs."""
    running: list[_Watch] = []

    def enter(module: nn.Module, given: object) -> None:
        running.append(_Watch(module, on_product))
        running[-1].__enter__()  # type: ignore[no-untyped-call]

    def leave(*_: object) -> None:
        if running:  # a failed batch may be left twice
            running.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    handles = [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        while running:  # after a KeyboardInterrupt torch calls no hook
            leave()
        for handle in handles:
            handle.remove()


@contextmanager
def one_by_one(modules: Iterable[nn.Module]) -> Iterator[None]:
    """In here, experts run one after the other, where the model can do that."""
    name = "_experts_implementation"
    configs = {id(c): c for c in (getattr(m, "config", None) for m in modules) if hasattr(c, name)}
    before = {key: getattr(config, name) for key, config in configs.items()}
    try:
        for config in configs.values():
            setattr(config, name, "eager")
        yield
    finally:
        for key, config in configs.items():
            setattr(config, name, before[key])
