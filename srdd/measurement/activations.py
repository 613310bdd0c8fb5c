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
from srdd.measurement.tallies import NOT_COUNTED
from srdd.measurement.work import current
from srdd.model.linears import find_weights, weight_of
from srdd.model.running import device_of, evaluating
from srdd.model.structure import Structure
from srdd.prompts.batches import Batch, TokenizedPrompts, make_batches


def _points(model: nn.Module, structure: Structure, plan: Plan) -> Iterator[Point]:
    for layer in structure.layers:
        if "output" in plan.sites:
            yield Point(layer.index, "output", layer.name, layer.module)
    for weight in find_weights(model, structure, plan.selection):
        name, key = weight.place
        module, stacked = model.get_submodule(name), weight.data.ndim == 3
        for site in ("input", "linear"):
            if site in plan.sites:
                yield Point(weight.layer, site, weight.name, module, key if stacked else None)


def measure_activations(
    model: nn.Module,
    structure: Structure,
    tokenized: TokenizedPrompts,
    plan: Plan,
    listener: Listener,
) -> tuple[list[Measured], dict[tuple[str, str], str]]:
    """Run all prompts through the model once and measure the activations at the plan's sites.

    Returns:
        What was measured, and the tensors and sites that were not, each with the reason.

    Raises:
        InputError: a single prompt does not fit into memory.
    """
    points = list(_points(model, structure, plan))
    capture = Capture(points, plan)
    device = device_of(model)
    if "linear" in plan.sites:
        listener.inform(_cost(points, tokenized.tokens, len(plan.specs)))

    def run(batch: Batch) -> None:
        keys = _keys(batch) if plan.rounding == "stochastic" else None
        with capture.batch(_replicates(batch, plan.skip_first_token), keys):
            structure.body(
                input_ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                use_cache=False,
            )

    amount = counted(len(tokenized.ids), "prompt" if tokenized.rollouts is None else "rollout")
    listener.started(f"measuring {amount}", tokenized.tokens, "tokens")
    work = current()
    batches = make_batches(tokenized, plan.batch_size)
    own = work.share(batches, [batch.tokens for batch in batches])
    with evaluating(model), capture.hooked(), torch.no_grad():
        for batch in work.through(
            "activations", own, capture, lambda batch: listener.advanced(batch.tokens)
        ):
            run_halving(batch, run, device, listener)
    work.unite(capture)
    return capture.measured(), capture.not_measured()


def _cost(points: Sequence[Point], tokens: int, formats: int) -> str:
    """What site `linear` costs, without stacked experts, few of which see each token."""
    linears = [point for point in points if point.site == "linear" and point.key is None]
    values = sum(weight_of(p.layer, p.tensor, p.module).data.numel() for p in linears)
    products = 1 + 3 * formats  # the plain one, and one for each choice of operands
    return (
        f"site linear takes {products} products in float32 for each product of the model, "
        f"{2 * products * values * tokens / 1e9:,.1f} billion operations in all"
    )


def _replicates(batch: Batch, skip_first_token: bool) -> torch.Tensor:
    """(prompts, tokens) int64; NOT_COUNTED for padding, context and tokens that are left out."""
    own = torch.tensor([replicate_of(name) for name in batch.fingerprints])
    replicates = torch.where(batch.scored_mask.bool(), own[:, None], NOT_COUNTED)
    if skip_first_token:
        replicates[:, 0] = NOT_COUNTED
    return replicates


def _keys(batch: Batch) -> torch.Tensor:
    """What a token's random numbers follow from, (prompts, tokens) int64.

    The prompt's tokens and the token's position, but not the batch: stochastic rounding gives the
    same in any batching.
    """
    names = torch.tensor([int(name[:10], 16) for name in batch.fingerprints])
    return (names[:, None] << 20) + torch.arange(batch.input_ids.shape[1])
