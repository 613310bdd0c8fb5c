"""The orchestrator of a scan: prompts through a model, hooks on its layers, one document out.

prompts ──► batches ──► model with hooks ──► sums ──► records ──► Scan
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from typing import Any, Literal

import torch
from torch import nn

from srdd.batches import Batch, TokenizedPrompts, make_batches, padding_id, split, tokenize
from srdd.capture import NOT_COUNTED, Capture, Point
from srdd.errors import InputError, counted
from srdd.fingerprint import fingerprint
from srdd.formats import check_rounding, parse_specs
from srdd.kernels import kernel_name
from srdd.metrics import Thresholds
from srdd.models import is_out_of_memory
from srdd.prompts import PromptSet, builtin, from_strings
from srdd.records import REPLICATES, Measured, build
from srdd.schema import scan as schema
from srdd.sites import DEFAULT_SITES, check_sites
from srdd.structure import DecoderLayer, Structure, find_structure

FEW_PROMPTS = 10
"""Below this, bootstrap intervals over prompts are too narrow to be taken at face value."""


@dataclass(frozen=True)
class Origin:
    """Where the model came from, for the document only."""

    name: str
    source: Literal["folder", "hub", "memory"] = "memory"
    revision: str | None = None
    command: str | None = None
    notes: tuple[str, ...] = ()


@dataclass
class Listener:
    """What a caller wants to hear while a scan runs; by default nothing.

    Attributes:
        started: called once with the prompts as they will be measured.
        advanced: called after each batch with its prompts and tokens.
        noted: called with a sentence when something was done otherwise than asked for.
    """

    started: Callable[[TokenizedPrompts], None] = lambda tokenized: None
    advanced: Callable[[int, int], None] = lambda prompts, tokens: None
    noted: Callable[[str], None] = lambda sentence: None
    notes: list[str] = field(default_factory=list)

    def note(self, sentence: str) -> None:
        """Tell it and keep it for the document."""
        self.notes.append(sentence)
        self.noted(sentence)


def scan_model(
    model: nn.Module,
    tokenizer: Any,
    prompts: PromptSet | Sequence[Any] | None = None,
    *,
    formats: Sequence[str] = ("mxfp4",),
    sites: Sequence[str] = DEFAULT_SITES,
    rounding: str = "even",
    max_length: int | None = None,
    batch_size: int | Literal["auto"] = "auto",
    apply_chat_template: bool = False,
    skip_first_token: bool = False,
    thresholds: Thresholds | None = None,
    seed: int = 0,
    origin: Origin | None = None,
    listener: Listener | None = None,
) -> schema.Scan:
    """Measure what quantization does inside a model, in one pass over the prompts.

    Arguments:
        model: a causal language model of transformers, on any device.
        tokenizer: its tokenizer.
        prompts: strings, lists of chat messages, or a PromptSet; the built-in ones for None.
        formats: `mxfp4`, or with a scale rule `mxfp4:even`.
        sites: what to measure, of srdd.sites.SITES.
        rounding: of srdd.formats.ROUNDINGS.
        max_length: tokens kept of each prompt.
        batch_size: prompts in a batch, or `auto`.
        apply_chat_template: write prompts as chats, with the tokenizer's template.
        skip_first_token: leave out each prompt's first token, which on many models carries most of
            the energy.
        thresholds: where a layer is flagged.
        seed: of the bootstrap, and of stochastic rounding.
        origin: what the document says of the model's origin.
        listener: hears how the scan goes.

    Returns:
        The scan. The model is as it was before: no hooks, its training mode restored.

    Raises:
        UsageError: an unknown site, format or rounding.
        InputError: no decoder stack, no usable prompt, non-finite weights, or too little memory for
            a single prompt.
    """
    started, clock = datetime.now(timezone.utc), time.monotonic()
    listener = listener or Listener()
    specs = parse_specs(list(formats))
    sites = check_sites(sites)
    check_rounding(rounding)
    thresholds = thresholds or Thresholds()
    origin = origin or Origin(type(model).__name__)
    for sentence in origin.notes:
        listener.note(sentence)
    structure = find_structure(model)
    tokenized = _tokenize(model, tokenizer, prompts, max_length, apply_chat_template)
    weights = fingerprint(model)
    listener.started(tokenized)

    capture = Capture(list(_points(model, structure, sites)), specs, rounding=rounding)
    device = _device(model)
    pad = padding_id(tokenizer, _vocabulary(model))
    feed = _Feed(tokenized, skip_first_token, seed, device)
    with _evaluating(model), capture.hooked(), torch.no_grad():
        for batch in make_batches(tokenized, batch_size, pad):
            _run(structure.body, capture, feed, batch, listener)

    measured = capture.measured()
    used = len(tokenized.index)
    records, rankings = build(measured, rounding=rounding, prompts=used, seed=seed)
    _note_findings(measured, tokenized, listener)
    return schema.Scan(
        model=_describe_model(model, tokenizer, structure, weights, origin),
        calibration=schema.Calibration(
            source=tokenized.source,
            fingerprint=tokenized.fingerprint,
            prompt_fingerprints=list(tokenized.fingerprints),
            prompts=used,
            tokens=tokenized.tokens,
            truncated=tokenized.truncated,
            left_out=len(tokenized.left_out),
            max_length=max_length,
            chat_template=apply_chat_template,
            skip_first_token=skip_first_token,
        ),
        settings=schema.Settings(
            formats=[str(spec) for spec in specs],
            sites=list(sites),
            rounding=rounding,
            seed=seed,
            thresholds=schema.Thresholds(**asdict(thresholds)),
        ),
        run=schema.Run(
            versions=_versions(),
            device=str(device),
            kernel=kernel_name(device),
            batch_size=str(batch_size),
            command=origin.command,
            started=started.isoformat(timespec="seconds"),
            elapsed_s=time.monotonic() - clock,
        ),
        records=records,
        rankings=rankings,
        not_measured=[
            schema.NotMeasured(module=name, reason=reason)
            for name, reason in capture.not_measured().items()
        ],
        warnings=listener.notes,
    )


def _points(model: nn.Module, structure: Structure, sites: Sequence[str]) -> Iterator[Point]:
    for layer in structure.layers:
        if "output" in sites:
            yield Point(layer.index, "output", layer.name, layer.module)
        if "input" in sites:
            for linear in layer.linears:
                module = model.get_submodule(linear.name)
                yield Point(layer.index, "input", linear.name, module)


def _tokenize(
    model: nn.Module,
    tokenizer: Any,
    prompts: PromptSet | Sequence[Any] | None,
    max_length: int | None,
    apply_chat_template: bool,
) -> TokenizedPrompts:
    if prompts is None:
        prompts = builtin()
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
        vocab_size=_vocabulary(model),
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
        listener.advanced(len(batch.index), batch.tokens)
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


def _device(model: nn.Module) -> torch.device:
    for parameter in model.parameters():
        if not parameter.is_meta:
            return parameter.device
    raise InputError("the model has no weights in memory", "load it before scanning it")


def _vocabulary(model: nn.Module) -> int | None:
    find: Any = getattr(model, "get_input_embeddings", None)
    weight = getattr(find(), "weight", None) if find is not None else None
    return int(weight.shape[0]) if isinstance(weight, torch.Tensor) else None


def _note_findings(
    measured: Sequence[Measured], tokenized: TokenizedPrompts, listener: Listener
) -> None:
    """What a reader of the figures has to know first."""
    broken = {one.tensor: int(one.replicates[:, 2].sum()) for one in measured}
    broken = {name: count for name, count in broken.items() if count}
    if broken:
        first = next(iter(broken))
        listener.note(
            f"NON-FINITE VALUES: {sum(broken.values()):,} NaN or infinite values in {len(broken)} "
            f"of the measured tensors, {first} first; they are left out of every figure"
        )
    if tokenized.left_out:
        reasons = ", ".join(sorted({entry.reason for entry in tokenized.left_out}))
        listener.note(f"left out {counted(len(tokenized.left_out), 'prompt')}: {reasons}")
    used = len(tokenized.index)
    if used < FEW_PROMPTS:
        listener.note(
            f"only {counted(used, 'prompt')}: intervals are too narrow and rankings of similar "
            "layers mean little"
        )


def _describe_model(
    model: nn.Module, tokenizer: Any, structure: Structure, weights: str, origin: Origin
) -> schema.Model:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    first = next(model.parameters())
    words = len(tokenizer) if hasattr(tokenizer, "__len__") else 0

    def layer(found: DecoderLayer) -> schema.Layer:
        return schema.Layer(
            index=found.index,
            name=found.name,
            type=type(found.module).__name__,
            norms=[schema.Norm(**asdict(norm)) for norm in found.norms],
            linears=[schema.Linear(**asdict(linear)) for linear in found.linears],
        )

    return schema.Model(
        name=origin.name,
        source=origin.source,
        revision=origin.revision,
        fingerprint=weights,
        architecture=type(model).__name__,
        model_type=str(getattr(config, "model_type", "unknown")),
        dtype=str(getattr(model, "dtype", first.dtype)).removeprefix("torch."),
        parameters=sum(p.numel() for p in model.parameters()),
        hidden_size=int(getattr(text, "hidden_size", 0) or 0),
        tokenizer=f"{type(tokenizer).__name__} of {words} tokens",
        decoder=structure.decoder,
        layers=[layer(found) for found in structure.layers],
        other_norms=[schema.Norm(**asdict(norm)) for norm in structure.other_norms],
    )


def _versions() -> dict[str, str]:
    names = ("srdd", "torch", "transformers", "numpy", "numba")
    return {"python": platform.python_version()} | {name: metadata.version(name) for name in names}
