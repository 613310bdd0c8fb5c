"""Activations: prompts through a model with hooks on it, batch by batch.

prompts ──► batches ──► model with hooks ──► sums for each point and format
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import nn

from srdd.documents.records import REPLICATES, Measured
from srdd.errors import InputError, counted
from srdd.measurement.capture import Capture, Point
from srdd.measurement.listener import Listener
from srdd.measurement.products import products_of
from srdd.measurement.tallies import NOT_COUNTED
from srdd.model.linears import stacked_in, weight_of
from srdd.model.load import is_out_of_memory
from srdd.model.selection import Selection
from srdd.model.structure import Structure
from srdd.numerics.formats import FormatSpec
from srdd.prompts.batches import Batch, TokenizedPrompts, make_batches, split, tokenize
from srdd.prompts.reading import PromptSet, builtin, from_strings


def _points(
    model: nn.Module, structure: Structure, sites: Sequence[str], selection: Selection
) -> Iterator[Point]:
    for layer in structure.layers:
        if "output" in sites:
            yield Point(layer.index, "output", layer.name, layer.module)
        for site in ("input", "linear"):
            if site not in sites:
                continue
            for linear in layer.linears:
                if selection.takes(linear.name):
                    module = model.get_submodule(linear.name)
                    yield Point(layer.index, site, linear.name, module)
            for stack in layer.stacked:
                module = model.get_submodule(stack)
                for key, _ in stacked_in(module):
                    if selection.takes(name := f"{stack}.{key}"):
                        yield Point(layer.index, site, name, module, key)


def measure_activations(
    model: nn.Module,
    structure: Structure,
    tokenized: TokenizedPrompts,
    sites: Sequence[str],
    specs: Sequence[FormatSpec],
    *,
    selection: Selection,
    pad: int,
    rounding: str,
    batch_size: int | Literal["auto"],
    skip_first_token: bool,
    seed: int,
    listener: Listener,
) -> tuple[list[Measured], dict[tuple[str, str], str]]:
    """Run all prompts through the model once and measure the activations at `sites`.

    Arguments:
        selection: which linears count at sites `input` and `linear`.
        pad: a token id to pad with.

    Returns:
        What was measured, and the tensors and sites that were not, each with the reason.

    Raises:
        InputError: memory does not suffice for a single prompt.
    """
    points = list(_points(model, structure, sites, selection))
    capture = Capture(points, specs, rounding=rounding, seed=seed)
    feed = _Feed(tokenized, skip_first_token, seed, device_of(model))
    prompts = counted(len(tokenized.ids), "prompt")
    if "linear" in sites:
        listener.tell(_cost(points, tokenized.tokens, len(specs)))
    listener.started(f"measuring {prompts}", tokenized.tokens, "tokens")
    with _evaluating(model), capture.hooked(), torch.no_grad():
        for batch in make_batches(tokenized, batch_size, pad):
            _run(structure.body, capture, feed, batch, listener)
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


def tokenize_for(
    model: nn.Module,
    tokenizer: Any,
    prompts: PromptSet | Sequence[Any] | None,
    max_length: int | None,
    apply_chat_template: bool,
) -> TokenizedPrompts:
    """The prompts, the built-in ones for None, as tokens that this model can take.

    Raises:
        UsageError, InputError: as `srdd.prompts.batches.tokenize`.
    """
    if prompts is None:
        prompts = builtin()
    elif isinstance(prompts, str):
        prompts = from_strings([prompts])
    elif not isinstance(prompts, PromptSet):
        prompts = from_strings(list(prompts))
    config = getattr(model, "config", None)
    if config is not None and hasattr(config, "get_text_config"):
        config = config.get_text_config()
    context = getattr(config, "max_position_embeddings", None)
    return tokenize(
        prompts,
        tokenizer,
        max_length=max_length,
        context=context if isinstance(context, int) and context > 0 else None,
        vocab_size=vocabulary_of(model),
        apply_chat_template=apply_chat_template,
    )


class _Feed:
    """What the capture has to know of each token of a batch: its replicate and its key."""

    def __init__(
        self, tokenized: TokenizedPrompts, skip_first: bool, seed: int, device: torch.device
    ) -> None:
        # Replicates follow the order of the prompts that are measured, which is what lets two
        # scans of parts be merged into the scan of the whole.
        self._place = {number: place for place, number in enumerate(tokenized.index)}
        self._names = [int(name[:10], 16) for name in tokenized.fingerprints]
        self._skip_first = skip_first
        self._seed = seed
        self.device = device

    def replicates(self, batch: Batch) -> torch.Tensor:
        """(prompts, tokens) int64; NOT_COUNTED for padding and tokens that are left out."""
        places = torch.tensor([self._place[number] % REPLICATES for number in batch.index])
        found = torch.where(batch.attention_mask.bool(), places[:, None], NOT_COUNTED)
        if self._skip_first:
            found[:, 0] = NOT_COUNTED
        return found

    def keys(self, batch: Batch) -> torch.Tensor:
        """(prompts, tokens) int64, from the seed, the prompt's text and the token's position.

        Not from the batch, so that stochastic rounding gives the same in any batching.
        """
        names = torch.tensor([self._names[self._place[number]] for number in batch.index])
        positions = torch.arange(batch.input_ids.shape[1])
        return (names[:, None] << 20) + positions + self._seed * 0x9E3779B97F4A7C15 % (1 << 62)


def _run(body: nn.Module, capture: Capture, feed: _Feed, batch: Batch, listener: Listener) -> None:
    """One batch, or both halves of it where memory does not suffice for the whole."""
    try:
        with capture.batch(feed.replicates(batch), feed.keys(batch)):
            body(
                input_ids=batch.input_ids.to(feed.device),
                attention_mask=batch.attention_mask.to(feed.device),
                use_cache=False,
            )
    except Exception as error:  # torch says that memory ran out in several ways
        if not is_out_of_memory(error):
            raise
        failed = True
    else:
        failed = False
        listener.advanced(batch.tokens)
    if failed:
        # Outside the handler, whose traceback would keep the failed pass's tensors alive.
        if feed.device.type == "cuda":
            torch.cuda.empty_cache()
        halves = split(batch)
        listener.note(
            f"memory did not suffice for {len(batch.index)} prompts at once; "
            f"went on with {len(halves[0].index)}"
        )
        for half in halves:
            _run(body, capture, feed, half, listener)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout and the like are off meanwhile; every module's mode is restored."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def device_of(model: nn.Module) -> torch.device:
    """Where the first of its weights lies that is in memory.

    Where accelerate keeps all of them elsewhere and brings each in for its turn: where that is.

    Raises:
        InputError: there are no weights to run it with.
    """
    for parameter in model.parameters():
        if not parameter.is_meta:
            return parameter.device
    for module in model.modules():
        hook = getattr(module, "_hf_hook", None)
        for each in getattr(hook, "hooks", (hook,)):  # several hooks come as one
            place = getattr(each, "execution_device", None)
            if place is not None and torch.device(place).type != "meta":
                return torch.device(place)
    raise InputError("the model has no weights in memory", "load it before scanning it")


def vocabulary_of(model: nn.Module) -> int | None:
    """Rows of its input embedding, None where that cannot be told."""
    find: Any = getattr(model, "get_input_embeddings", None)
    weight = getattr(find(), "weight", None) if find is not None else None
    return int(weight.shape[0]) if isinstance(weight, torch.Tensor) else None
