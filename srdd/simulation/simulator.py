"""Simulation: a model whose linears compute with quantized operands (W4A4, W4A16, W16A4).

Inside `with simulate(...):` each selected linear computes Q(x) Q(W)^T + b in place of x W^T + b,
where Q rounds to a format and back (srdd.fake_quantize) in blocks along the input dimension. The
product itself runs in the model's own type: what is simulated is the rounding of the operands, not
the order in which some hardware adds up. Of a format with a rotation, the values that come back are
rounded to the model's type in the unrotated basis, which in bfloat16 adds an error of its own, some
50 dB below the data.

Gradients pass straight through each Q (straight-through estimator, Bengio et al. 2013): the input's
is that of a product with the quantized weight, the weight's that of a product with the quantized
input, and the full-precision weight receives it.

    dx = g Q(W)        dW = g^T Q(x)        db = sum of g over tokens

    operand     an operand in quantized form, kept while it does not change; its gradient
    replaced    modules whose forward is replaced: linears, and experts stacked in one parameter
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from torch import nn

from srdd.errors import UsageError, counted
from srdd.model.kinds import kind_of
from srdd.model.linears import Weight, find_weights
from srdd.model.precision import check_full_precision
from srdd.model.selection import Selection
from srdd.model.structure import find_structure
from srdd.numerics.formats import FormatSpec, parse_spec
from srdd.numerics.kernels import rotation
from srdd.simulation.operand import Operand
from srdd.simulation.replaced import SIMULATED, Linear, Replaced, StackedExperts, State

__all__ = ["Simulation", "simulate"]

SHARDED = "its weight is sharded over several processes"
UNSEEN = "what goes into it is not quantized: no product with it was recognised"
ROUTER = "routers are quantized only where --include names them"
"""Deployments spare them: a changed choice of experts costs more than these few weights save."""


Formats = tuple[FormatSpec | None, FormatSpec | None]
"""Of a linear's weight and of what goes into it; None is full precision."""

PLAIN: Formats = (None, None)


@dataclass(frozen=True)
class _Wanted:
    """Which formats each linear gets.

    Attributes:
        others: of the selected linears that `modules` does not name.
        modules: of single linears, by name.
        selection: of the other linears.
    """

    others: Formats
    modules: Mapping[str, Formats]
    selection: Selection

    def formats(self, name: str) -> Formats:
        """The formats of the linear of this name."""
        return self.modules.get(name, self.others if self.selection.takes(name) else PLAIN)

    def check(self, names: Sequence[str]) -> None:
        """Make sure that every pattern and every name fits one of `names`.

        Raises:
            UsageError: one does not.
        """
        self.selection.check(names)
        unknown = [name for name in self.modules if name not in set(names)]
        if unknown:
            near = difflib.get_close_matches(unknown[0], names, n=3, cutoff=0.0)
            raise UsageError(
                f"{counted(len(unknown), 'name')} of no linear of this model, {unknown[0]!r} first",
                f"the nearest are: {', '.join(near)}",
            )


def _parsed(formats: tuple[str | None, str | None]) -> Formats:
    weights, activations = (None if spec is None else parse_spec(spec) for spec in formats)
    return weights, activations


@dataclass(frozen=True)
class Simulation:
    """What `simulate` gives: which linears run with quantized operands, and which do not.

    Attributes:
        weights, activations: the format of each operand as `mxfp4:floor`, of linears that have no
            formats of their own; None is full precision.
    """

    weights: str | None = None
    activations: str | None = None
    _state: State = field(default_factory=State)
    _replaced: Sequence[Replaced] = ()
    _refused: Mapping[str, str] = field(default_factory=dict)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the linears that are simulated; of stacked experts, of their parameters."""
        return tuple(name for each in self._replaced for name in each.names)

    @property
    def not_simulated(self) -> dict[str, str]:
        """Names of selected linears that compute in full precision, each with the reason.

        Once the model has run, those that it did not call are among them: some architectures read
        a linear's weight without calling the linear.
        """
        reasons = dict(self._refused)
        has_run = any(each.called for each in self._replaced)
        for each in self._replaced if has_run else ():
            if not each.called:
                reasons |= dict.fromkeys(each.names, "it was not called")
            else:
                reasons |= dict.fromkeys(each.unseen, UNSEEN)
        return reasons

    @property
    def called(self) -> list[str]:
        """Names of the simulated linears that the model has called."""
        return [name for each in self._replaced if each.called for name in each.names]

    def mark_called(self, names: Iterable[str]) -> None:
        """Take these as called: in another process, or before a restart, they were."""
        known = set(names)
        for each in self._replaced:
            each.called = each.called or not known.isdisjoint(each.names)

    def refresh(self) -> None:
        """Quantize all weights anew at their next use; srdd.simulation.operand says when to."""
        for each in self._replaced:
            each.forget()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Meanwhile the model computes in full precision; the quantized weights are kept."""
        before, self._state.paused = self._state.paused, True
        try:
            yield
        finally:
            self._state.paused = before


@contextmanager
def simulate(
    model: nn.Module,
    weights: str | None = None,
    activations: str | None = None,
    *,
    modules: Mapping[str, tuple[str | None, str | None]] | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Iterator[Simulation]:
    """Run the linears of a model's decoder layers with quantized operands, inside a `with`.

    The head, the embeddings and a mixture's routers stay as they are. Where activations are
    checkpointed, run the backward pass inside the `with`, too: it computes them a second time, and
    after the end it raises a UsageError.

    Arguments:
        model: a causal language model; its parameters and its mode are not touched. Do not run it
            in several threads at once meanwhile.
        weights: format of the weights, such as `mxfp4`; None leaves them as they are (W16A4).
        activations: format of what goes into each linear; None leaves it as it is (W4A16). A
            rule `tensor` takes a whole batch with its padding as the tensor.
        modules: formats of (weights, activations) of single linears by name, in place of those
            above; (None, None) leaves a linear as it is, and a router that is named gets its
            formats. Names are as in `Simulation.modules`: those of modules, and of stacked experts
            those of their parameters.
        include, exclude: patterns on the names of linears that `modules` does not name, see
            srdd.model.selection. Routers are simulated where `include` fits them.

    Yields:
        A Simulation, which names what is simulated and what is not. The quantized weights take the
        memory of one more copy of the linears.

    Raises:
        UsageError: there is no format; an unknown one; a rotation that does not fit; a pattern that
            fits nothing; a name that is no linear's; no linear can be simulated; the model is
            compiled; one of these linears is being simulated already.
        InputError: the model has no decoder layers, or is quantized already.
    """
    wanted = _Wanted(
        _parsed((weights, activations)),
        {name: _parsed(formats) for name, formats in (modules or {}).items()},
        Selection(tuple(include), tuple(exclude)),
    )
    if all(formats == PLAIN for formats in (wanted.others, *wanted.modules.values())):
        raise UsageError(
            "there is nothing to quantize: weights and activations are both None",
            'name a format for one of them, for example weights="mxfp4"',
        )
    check_full_precision(model)
    _check_eager(model)
    state = State()
    replaced, refused = _find(model, state, wanted)
    with ExitStack() as stack:
        stack.callback(setattr, state, "ended", True)
        for each in replaced:
            stack.enter_context(each.attached())
        formats = [None if spec is None else str(spec) for spec in wanted.others]
        yield Simulation(formats[0], formats[1], state, replaced, refused)


def _check_eager(model: nn.Module) -> None:
    compiled = hasattr(model, "_orig_mod") or any(
        getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()
    )
    if compiled:
        raise UsageError(
            "a compiled model cannot be simulated: its graph would not see the quantization",
            "simulate the model that torch.compile was given",
        )


def _find(model: nn.Module, state: State, wanted: _Wanted) -> tuple[list[Replaced], dict[str, str]]:
    """What can be simulated, and the names of what cannot, each with the reason."""
    all_weights = list(find_weights(model, find_structure(model)))
    wanted.check([weight.name for weight in all_weights])
    replaced: dict[str, Replaced] = {}
    refused: dict[str, str] = {}
    kept: dict[object, Operand] = {}  # modules that share a weight share what is kept
    for weight in all_weights:
        formats = wanted.formats(weight.name)
        if formats == PLAIN:
            continue
        name, key = weight.place
        module = model.get_submodule(name)
        parameter = module._parameters[key]
        if reason := _refusal_reason(weight, parameter, wanted):
            refused[weight.name] = reason
            continue
        if module in SIMULATED:
            raise UsageError(
                f"{weight.name} is being simulated already",
                "end the other `with srdd.simulate(...)` first, or name both formats in one",
            )
        for spec in formats:
            if spec is not None:
                rotation.check_channels(weight.sides[1], spec.format)
        weights, activations = formats
        transposed = bool(weight.transposed)
        same = (id(parameter), transposed, weights)
        operand = kept.setdefault(same, Operand(weights, transposed))
        kind = StackedExperts if weight.data.ndim == 3 else Linear
        each = replaced.setdefault(name, kind(module, state))
        each.add(weight.name, key, operand, activations)
    if not replaced:
        name, reason = next(iter(refused.items()), ("the model", "it has no linears"))
        raise UsageError(
            f"no linear can be simulated ({name}: {reason})",
            "load the model in bfloat16, float16 or float32, into memory",
        )
    return list(replaced.values()), refused


def _refusal_reason(weight: Weight, parameter: object, wanted: _Wanted) -> str | None:
    named = weight.name in wanted.modules or wanted.selection.include
    if kind_of(weight.name) == "router" and not named:
        return ROUTER
    return SHARDED if hasattr(parameter, "placements") else weight.unusable_reason()
