"""One forward and K backward passes of a batch, a decoder layer at a time.

    forward     without a graph; what goes into each layer is kept
    head        from the last layer's output to the logits: K gradients at the layer's output
    layers      from the last to the first: the layer runs once more, with a graph, and K gradients
                go back through it

So a batch takes two forward and K backward passes, and the memory of one layer's graph, of the
hidden states between layers, and of the logits. It needs a model whose layers pass each other
nothing but hidden states. A probe on a few tokens compares the gradients with those of one graph
over the whole model; where they differ, or the layers cannot be run alone, one graph is used.

No parameter gets a gradient: their `requires_grad` is off meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from srdd.errors import InputError, UsageError
from srdd.measurement.calls import Call, Target, first_float, recording, replaced
from srdd.measurement.forward import logits_of
from srdd.measurement.labels import Loss, Positions
from srdd.model.experts import one_by_one
from srdd.model.running import is_out_of_memory
from srdd.prompts.batches import Batch

Gradients = Sequence[Sequence[Tensor | None]]
"""Of each call, with respect to its output, for each sample."""

Consume = Callable[[Sequence[Call], Gradients], None]

PROBE_TOKENS = 8


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no gradients of parameters, a graph for the rest; all restored afterwards.

    Raises:
        UsageError: gradients cannot be taken in this model.
    """
    _check(model)
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        model.eval()
        for parameter in trainable:
            parameter.requires_grad_(False)
        with one_by_one(modules), torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for module in training:
            module.training = True


def _check(model: nn.Module) -> None:
    if hasattr(model, "_orig_mod") or any(
        getattr(module, "_compiled_call_impl", None) is not None for module in model.modules()
    ):
        raise UsageError(
            "the sensitivity of a compiled model cannot be measured: its graph has no hooks",
            "give the model that torch.compile was given",
        )
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise UsageError(
            "the model was loaded in inference mode, in which no gradients can be taken",
            "load it outside of torch.inference_mode()",
        )


class NotAChainError(Exception):
    """The layers do not run once each, one after the other."""


@dataclass
class _Cut:
    """Where a forward pass is cut: before the first layer and after the last."""

    entries: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    start: Tensor | None = None
    end: Tensor | None = None


class Passes:
    """Runs batches and hands calls with their gradients over, a segment of the model at a time.

    Arguments:
        layers: the decoder layers' modules, in order.
        targets: what is recorded in each.
        others: what is recorded outside of them.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[nn.Module],
        targets: Sequence[Sequence[Target]],
        others: Sequence[Target],
        device: torch.device,
    ) -> None:
        self._model = model
        self._layers = layers
        self._targets = targets
        self._others = others
        self._device = device
        self.by_layer: bool | None = None
        self.unusable: dict[Target, str] = {}

    def run(self, batch: Batch, positions: Positions, labels: Tensor, consume: Consume) -> None:
        """Forward and backward passes of a batch.

        Arguments:
            labels: as srdd.measurement.labels.Loss takes them, (samples, positions).
            consume: called with the calls of a segment and the gradients at their outputs; what it
                was given is freed afterwards.
        """
        if self.by_layer is None:
            self.by_layer = self._probe(batch)
        run = self._by_layer if self.by_layer else self._whole
        run(batch, positions, labels, consume)

    def _probe(self, batch: Batch) -> bool:
        """Whether running layer by layer gives the gradients of one graph, on a few tokens."""
        tokens = min(PROBE_TOKENS, int(batch.attention_mask[0].sum()))
        small = Batch(
            batch.index[:1], batch.input_ids[:1, :tokens], batch.attention_mask[:1, :tokens]
        )
        rows = torch.zeros(tokens, dtype=torch.int64)
        positions = Positions(rows, torch.arange(tokens), torch.tensor([tokens]))
        labels = torch.full((1, tokens), 0.5, dtype=torch.float64)
        try:
            parts = self._by_layer(small, positions, labels, lambda calls, gradients: None)
            whole = self._whole(small, positions, labels, lambda calls, gradients: None)
        except InputError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return False
        tolerance = 1e-3 if whole.dtype in (torch.float32, torch.float64) else 0.1
        a, b = parts.double(), whole.double()
        return bool((a - b).norm() <= tolerance * b.norm())

    def _by_layer(
        self, batch: Batch, positions: Positions, labels: Tensor, consume: Consume
    ) -> Tensor:
        cut = _Cut()
        with ExitStack() as stack:
            others = stack.enter_context(recording(self._others))
            stack.enter_context(self._cutting(cut))
            logits = logits_of(self._model, batch, self._device)
        if cut.end is None or cut.start is None or len(cut.entries) != len(self._layers):
            raise NotAChainError
        loss = Loss(logits, positions, labels)
        samples = len(labels)
        upstream = _backward(logits, loss.gradients(), samples, cut.end, others.calls, consume)
        del logits, loss
        for layer in reversed(range(len(self._layers))):
            hidden, args, kwargs = cut.entries.pop()
            leaf = hidden.detach().requires_grad_()
            with recording(self._targets[layer]) as record:
                output = self._layers[layer](
                    *(leaf if value is hidden else value for value in args),
                    **{key: leaf if v is hidden else v for key, v in kwargs.items()},
                )
            end = first_float(output)
            if end is None:
                raise NotAChainError
            self.unusable |= record.unusable
            upstream = _backward(end, upstream, samples, leaf, record.calls, consume)
            del output, end, record
        if cut.start.requires_grad:  # norms before the first layer
            _backward(cut.start, upstream, samples, None, others.calls, consume)
        self.unusable |= others.unusable
        return upstream[0]

    @contextmanager
    def _cutting(self, cut: _Cut) -> Iterator[None]:
        """Hooks that keep what goes into each layer, and cut the graph before and after them."""

        def before(number: int) -> Any:
            def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
                hidden = first_float((*args, *kwargs.values()))
                if hidden is None or len(cut.entries) != number:
                    raise NotAChainError
                if number == 0:
                    cut.start = hidden
                    kept = hidden.detach()
                    args = tuple(kept if value is hidden else value for value in args)
                    kwargs = {k: kept if v is hidden else v for k, v in kwargs.items()}
                    hidden = kept
                cut.entries.append((hidden, args, kwargs))
                return args, kwargs

            return hook

        def after(module: nn.Module, args: object, output: Any) -> Any:
            hidden = first_float(output)
            if hidden is None:
                raise NotAChainError
            cut.end = hidden.detach().requires_grad_()
            return replaced(output, hidden, cut.end)

        with ExitStack() as stack:
            for number, layer in enumerate(self._layers):
                handle = layer.register_forward_pre_hook(before(number), with_kwargs=True)
                stack.callback(handle.remove)
            stack.callback(self._layers[-1].register_forward_hook(after).remove)
            yield

    def _whole(
        self, batch: Batch, positions: Positions, labels: Tensor, consume: Consume
    ) -> Tensor:
        starts: list[Tensor] = []

        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            hidden = first_float((*args, *kwargs.values()))
            if hidden is None or starts:
                return None
            leaf = hidden if hidden.requires_grad else hidden.detach().requires_grad_()
            starts.append(leaf)
            return (
                tuple(leaf if value is hidden else value for value in args),
                {key: leaf if v is hidden else v for key, v in kwargs.items()},
            )

        targets = [target for layer in self._targets for target in layer]
        with ExitStack() as stack:
            record = stack.enter_context(recording([*targets, *self._others]))
            handle = self._layers[0].register_forward_pre_hook(before, with_kwargs=True)
            stack.callback(handle.remove)
            logits = logits_of(self._model, batch, self._device)
        self.unusable |= record.unusable
        loss = Loss(logits, positions, labels)
        start = starts[0] if starts else None
        found = _backward(logits, loss.gradients(), len(labels), start, record.calls, consume)
        return found[0]


def _backward(
    output: Tensor,
    cotangents: Iterable[Tensor],
    samples: int,
    leaf: Tensor | None,
    calls: Sequence[Call],
    consume: Consume,
) -> list[Tensor]:
    """Gradients of each sample back through one segment; returns those at its `leaf`."""
    edges = [call.edge for call in calls]
    upstream: list[Tensor] = []
    gradients: list[list[Tensor | None]] = [[] for _ in calls]
    wanted: list[Any] = [*edges, *([] if leaf is None else [leaf])]
    for sample, cotangent in enumerate(cotangents):
        found = torch.autograd.grad(
            output, wanted, cotangent, retain_graph=sample + 1 < samples, allow_unused=True
        )
        for kept, gradient in zip(gradients, found, strict=False):
            kept.append(gradient)
        if leaf is not None:
            last = found[-1]
            upstream.append(torch.zeros_like(leaf) if last is None else last)
    consume(calls, gradients)
    return upstream
