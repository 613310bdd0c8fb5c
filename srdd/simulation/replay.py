"""Running a model from one of its decoder layers on, with what goes into that layer kept.

Layers before it are not computed: their forward is replaced by one that returns the kept hidden
states. Everything else runs as it is, the masks before the layers and the head after them. This
needs layers that run once each, one after the other, and pass each other nothing but hidden states;
`Replay.works` compares with a run of the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from srdd.measurement.calls import first_float
from srdd.measurement.forward import logits_of
from srdd.prompts.batches import Batch


class _Stop(Exception):  # noqa: N818
    """Ends a forward pass whose result is known."""


class Replay:
    """Runs `model` from a layer on.

    Arguments:
        layers: the decoder layers' modules, in order.
    """

    def __init__(self, model: nn.Module, layers: Sequence[nn.Module], device: torch.device) -> None:
        self._model = model
        self._layers = layers
        self._device = device
        self._in_tuple = [False] * len(layers)

    def logits(self, batch: Batch, hidden: Tensor | None = None, first: int = 0) -> Tensor:
        """(prompts, tokens, vocabulary), from what goes into layer `first`; None runs all layers.

        With `first` the number of layers, `hidden` is what comes out of the last one.
        """
        with ExitStack() as stack:
            for number in range(0 if hidden is None else first):
                stack.enter_context(self._returning(number, hidden))
            return logits_of(self._model, batch, self._device)

    def output_of(
        self, batch: Batch, number: int, hidden: Tensor | None = None, first: int = 0
    ) -> Tensor:
        """What comes out of layer `number`, from what goes into layer `first`."""
        found: list[Tensor] = []

        def after(module: nn.Module, args: object, output: object) -> None:
            tensor = first_float(output)
            self._in_tuple[number] = isinstance(output, tuple)
            if tensor is not None:
                found.append(tensor.detach())
            raise _Stop

        handle = self._layers[number].register_forward_hook(after)
        try:
            self.logits(batch, hidden, first)
        except _Stop:
            pass
        finally:
            handle.remove()
        return found[0]

    @torch.no_grad()
    def works(self, batch: Batch) -> bool:
        """Whether runs from the middle and from the end give the logits of the whole model.

        To be called first: it also learns what the layers return.
        """
        count = len(self._layers)
        try:
            whole = self.logits(batch).float()
            hidden = [self.output_of(batch, number) for number in range(count)]
            for first in {max(1, count // 2), count}:
                moved = (self.logits(batch, hidden[first - 1], first).float() - whole).abs().max()
                if not bool(moved <= 1e-3 * whole.abs().max()):
                    return False
        except (IndexError, TypeError, AttributeError, ValueError):
            return False
        return True

    @contextmanager
    def _returning(self, number: int, hidden: Tensor | None) -> Iterator[None]:
        """In here a layer returns `hidden`."""
        layer = self._layers[number]
        own = layer.__dict__.get("forward")
        result = (hidden,) if self._in_tuple[number] else hidden

        def forward(*args: Any, **kwargs: Any) -> Any:
            return result

        layer.forward = forward
        try:
            yield
        finally:
            if own is None:
                del layer.forward
            else:
                layer.forward = own
