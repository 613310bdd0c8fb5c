"""Modules that run with quantized operands while their forward is replaced.

While such a module runs, its parameters are quantized ones, so that its own code multiplies with
them, whatever else it does, such as adding a bias or taking a router's softmax. The input of a
linear is its first argument. Experts that are stacked in one parameter take several products; a
mode of torch sees them and quantizes the operand that is not a slice of the parameter. This needs
them to run as transformers' `eager` implementation does, which multiplies with slices and not with
copies.
"""

from __future__ import annotations

import sys
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import checkpoint

from srdd.errors import UsageError
from srdd.model.experts import one_by_one
from srdd.numerics.formats import FormatSpec
from srdd.simulation.operand import Check, Operand, quantized_input

SIMULATED: weakref.WeakSet[nn.Module] = weakref.WeakSet()
"""Modules that are being simulated just now."""

PRODUCTS = {"linear", "matmul", "__matmul__", "mm", "bmm"}
"""Functions of torch that multiply the first argument with the second, by name."""


@dataclass
class State:
    """What all modules of a simulation share.

    Attributes:
        paused: whether they compute in full precision for now.
        ended: whether the `with` of the simulation is over.
    """

    paused: bool = False
    ended: bool = False

    def check(self) -> None:
        """Refuse a backward pass that computes activations again without the simulation.

        Raises:
            UsageError: the simulation has ended.
        """
        if self.ended:
            raise UsageError(
                "the simulation has ended, and the backward pass would compute checkpointed "
                "activations again without it",
                "call backward() inside the `with srdd.simulate(...)`",
            )


def checked_recomputation(check: Callable[[], None]) -> Callable[[], None] | None:
    """`check` where the caller runs inside torch.utils.checkpoint, else None.

    With `use_reentrant=True` no graph is recorded now; the function that the backward pass will
    call again is then wrapped, so that it starts with the check.
    """
    frame = sys._getframe(1)
    while frame.f_code.co_filename != checkpoint.__file__:
        if frame.f_back is None:
            return None
        frame = frame.f_back
    ctx = frame.f_locals.get("ctx")
    run = getattr(ctx, "run_function", None)
    if ctx is not None and run is not None and not hasattr(run, "_srdd_checked"):

        def checked(*given: Any) -> Any:
            check()
            return run(*given)

        checked._srdd_checked = True  # type: ignore[attr-defined]
        ctx.run_function = checked
    return check


class Replaced(ABC):
    """A module whose forward is replaced, with the operands that take its parameters' place."""

    def __init__(self, module: nn.Module, state: State) -> None:
        self.called = False
        self._names: dict[str, str] = {}
        self._operands: dict[str, Operand] = {}
        self._activations: dict[str, FormatSpec | None] = {}
        self._module = module
        self._state = state
        self._check: Check = None
        self._forward: Callable[..., Any] = module.forward

    @property
    def names(self) -> Iterable[str]:
        """Of its linears."""
        return self._names.values()

    @property
    def unseen(self) -> Iterable[str]:
        """The names of those whose input should be rounded and was not recognised in any call."""
        return ()

    def add(self, name: str, key: str, operand: Operand, activations: FormatSpec | None) -> None:
        """Let an operand stand in for the parameter of this key, and round what it multiplies."""
        self._names[key] = name
        self._operands[key] = operand
        self._activations[key] = activations

    def forget(self) -> None:
        for operand in self._operands.values():
            operand.forget()

    @contextmanager
    def attached(self) -> Iterator[None]:
        """In here the module's forward is replaced."""
        owned = "forward" in self._module.__dict__  # another tool has replaced it, too
        self._module.forward = self._call
        SIMULATED.add(self._module)
        try:
            yield
        finally:
            if owned:
                self._module.forward = self._forward
            else:
                del self._module.forward
            SIMULATED.discard(self._module)
            self.forget()

    def _call(self, *given: Any, **named: Any) -> Any:
        if self._state.paused:
            return self._forward(*given, **named)
        self.called = True
        self._check = checked_recomputation(self._state.check)
        parameters: dict[str, Any] = self._module._parameters
        before = {key: parameters[key] for key in self._operands}
        try:
            for key, operand in self._operands.items():
                parameters[key] = operand.quantized(before[key], self._check)
            return self._run(given, named)
        finally:
            parameters.update(before)

    @abstractmethod
    def _run(self, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """The module's own computation, with its inputs rounded."""

    def _input(self, x: Any, key: str) -> Any:
        """`x` as the parameter of this key takes it."""
        if not isinstance(x, Tensor) or not x.is_floating_point():
            return x
        return quantized_input(x, self._activations[key], self._check)


class Linear(Replaced):
    """A linear: its input is its first argument."""

    def _run(self, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            return self._forward(self._input(given[0], "weight"), *given[1:], **named)
        first = next(iter(named))
        return self._forward(**{**named, first: self._input(named[first], "weight")})


class StackedExperts(Replaced):
    """Experts in one parameter: an input is what is multiplied with a slice of it."""

    def __init__(self, module: nn.Module, state: State) -> None:
        super().__init__(module, state)
        self._seen: set[str] = set()

    @property
    def unseen(self) -> Iterable[str]:
        wanted = [key for key, spec in self._activations.items() if spec is not None]
        return [self._names[key] for key in wanted if key not in self._seen]

    def _run(self, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        with one_by_one([self._module]), _Products(self):
            return self._forward(*given, **named)

    def operand(self, x: Tensor, weight: Tensor) -> Tensor:
        """What takes the place of `x` in a product with `weight`."""
        if not weight.is_meta:
            memory = weight.untyped_storage().data_ptr()
            for key in self._operands:
                parameter: Any = self._module._parameters[key]
                if parameter.untyped_storage().data_ptr() == memory:
                    self._seen.add(key)
                    quantized: Tensor = self._input(x, key)
                    return quantized
        return x


class _Products(TorchFunctionMode):
    """While it is entered, products with the experts' weights take a quantized first operand."""

    def __init__(self, experts: StackedExperts) -> None:
        super().__init__()
        self._experts = experts

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        multiplies = getattr(func, "__name__", "") in PRODUCTS and len(args) > 1
        if multiplies and all(isinstance(each, Tensor) for each in args[:2]):
            with torch._C.DisableTorchFunction():
                args = (self._experts.operand(args[0], args[1]), *args[1:])
        return func(*args, **(kwargs or {}))
