"""Activations: prompts through a model with hooks on it, batch by batch.

prompts ──► batches ──► model with hooks ──► sums for each point and format
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from srdd.documents.records import Measured, replicate_of
from srdd.errors import counted
from srdd.measurement.capture import Capture, Point
from srdd.measurement.forward import run_halving
from srdd.measurement.listener import Listener
from srdd.measurement.plan import Plan
from srdd.measurement.products import products_of
from srdd.measurement.tallies import NOT_COUNTED
from srdd.model.linears import stacked_in, weight_of
from srdd.model.running import device_of, evaluating
from srdd.model.structure import Structure
from srdd.prompts.batches import Batch, TokenizedPrompts, make_batches


def _points(model: nn.Module, structure: Structure, plan: Plan) -> Iterator[Point]:
    for layer in structure.layers:
        if "output" in plan.sites:
            yield Point(layer.index, "output", layer.name, layer.module)
        for site in ("input", "linear"):
            if site not in plan.sites:
                continue
            for linear in layer.linears:
                if plan.selection.takes(linear.name):
                    module = model.get_submodule(linear.name)
                    yield Point(layer.index, site, linear.name, module)
            for stack in layer.stacked:
                module = model.get_submodule(stack)
                for key, _ in stacked_in(module):
                    if plan.selection.takes(name := f"{stack}.{key}"):
                        yield Point(layer.index, site, name, module, key)


def measure_activations(
    model: nn.Module,
    structure: Structure,
    tokenized: TokenizedPrompts,
    plan: Plan,
    *,
    pad: int,
    listener: Listener,
) -> tuple[list[Measured], dict[tuple[str, str], str]]:
    """Run all prompts through the model once and measure the activations at the plan's sites.

    Arguments:
        pad: a token id to pad with.

    Returns:
        What was measured, and the tensors and sites that were not, each with the reason.

    Raises:
        InputError: memory does not suffice for a single prompt.
    """
    points = list(_points(model, structure, plan))
    capture = Capture(points, plan.specs, rounding=plan.rounding, seed=plan.seed)
    device = device_of(model)
    feed = _Feed(tokenized, plan.skip_first_token)
    if "linear" in plan.sites:
        listener.inform(_cost(points, tokenized.tokens, len(plan.specs)))

    def run(batch: Batch) -> None:
        keys = feed.keys(batch) if plan.rounding == "stochastic" else None
        with capture.batch(feed.replicates(batch), keys):
            structure.body(
                input_ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                use_cache=False,
            )

    prompts = counted(len(tokenized.ids), "prompt")
    listener.started(f"measuring {prompts}", tokenized.tokens, "tokens")
    with evaluating(model), capture.hooked(), torch.no_grad():
        for batch in make_batches(tokenized, plan.batch_size, pad):
            run_halving(batch, run, device, listener)
    return capture.measured(), capture.not_measured()


def _cost(points: Sequence[Point], tokens: int, formats: int) -> str:
    """What site `linear` takes, in words; experts are left out, of which each token sees few."""
    linears = [point for point in points if point.site == "linear" and point.key is None]
    values = sum(weight_of(p.layer, p.tensor, p.module).data.numel() for p in linears)
    products = products_of(formats)
    return (
        f"site linear takes {products} products in float32 for each product of the model, "
        f"{2 * products * values * tokens / 1e9:,.1f} billion operations in all"
    )


class _Feed:
    """What the capture has to know of each token of a batch: its replicate and its key."""

    def __init__(self, tokenized: TokenizedPrompts, skip_first: bool) -> None:
        self._place = {number: place for place, number in enumerate(tokenized.index)}
        self._names = [int(name[:10], 16) for name in tokenized.fingerprints]
        self._replicates = [replicate_of(name) for name in tokenized.fingerprints]
        self._skip_first = skip_first

    def replicates(self, batch: Batch) -> torch.Tensor:
        """(prompts, tokens) int64; NOT_COUNTED for padding and tokens that are left out."""
        own = torch.tensor([self._replicates[self._place[number]] for number in batch.index])
        replicates = torch.where(batch.attention_mask.bool(), own[:, None], NOT_COUNTED)
        if self._skip_first:
            replicates[:, 0] = NOT_COUNTED
        return replicates

    def keys(self, batch: Batch) -> torch.Tensor:
        """(prompts, tokens) int64, from the prompt's tokens and the token's position.

        Not from the batch, so that stochastic rounding gives the same in any batching.
        """
        names = torch.tensor([self._names[self._place[number]] for number in batch.index])
        positions = torch.arange(batch.input_ids.shape[1])
        return (names[:, None] << 20) + positions
