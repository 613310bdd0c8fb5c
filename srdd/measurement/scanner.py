"""The orchestrator of a scan: model and prompts in, one document out.

structure ──► activations (prompts) ──► sums ──► records ──► Scan
└──► weights ─────────────────┘
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any, Literal

from torch import nn

from srdd.documents import scan as schema
from srdd.documents.records import Measured, build
from srdd.errors import UsageError, counted
from srdd.measurement.activations import device_of, measure_activations, tokenize_for, vocabulary_of
from srdd.measurement.listener import Listener
from srdd.measurement.provenance import Origin, describe_model, versions
from srdd.measurement.weights import measure_weights
from srdd.model.fingerprint import fingerprint
from srdd.model.linears import find_weights
from srdd.model.precision import check_full_precision
from srdd.model.selection import Selection
from srdd.model.structure import find_structure
from srdd.numerics.confidence import few_prompts
from srdd.numerics.formats import check_rounding, check_seed, parse_specs
from srdd.numerics.kernels import kernel_name
from srdd.numerics.metrics import Thresholds
from srdd.numerics.sites import check_sites, needs_prompts
from srdd.numerics.sums import INDEX
from srdd.prompts.batches import TokenizedPrompts, padding_id
from srdd.prompts.reading import PromptSet

__all__ = ["Listener", "Origin", "scan_model"]


def scan_model(
    model: nn.Module,
    tokenizer: Any = None,
    prompts: PromptSet | Sequence[Any] | None = None,
    *,
    formats: Sequence[str] = ("mxfp4",),
    sites: Sequence[str] = ("output",),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
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
        tokenizer: its tokenizer; not needed where only weights are measured.
        prompts: strings, lists of chat messages, or a PromptSet; the built-in ones for None.
        formats: `mxfp4`, or with a scale rule `mxfp4:even`.
        sites: what to measure, of srdd.numerics.sites.SITES.
        include, exclude: patterns on the names of linears, see srdd.model.selection.
        rounding: of srdd.numerics.formats.ROUNDINGS.
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
        InputError: no decoder stack, no usable prompt, non-finite weights, too little memory for a
            single prompt, or a model that is quantized already.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the model is a {type(model).__name__}, not a torch module",
            "load it first, for example with transformers' from_pretrained",
        )
    formats = (formats,) if isinstance(formats, str) else formats
    sites = (sites,) if isinstance(sites, str) else sites
    if tokenizer is None and needs_prompts(check_sites(sites)):
        raise UsageError(
            "a tokenizer is needed to measure activations",
            'give the model\'s tokenizer, or measure sites=["weight"] only',
        )
    check_full_precision(model)
    started, clock = datetime.now(timezone.utc), time.monotonic()
    listener = listener or Listener()
    specs = parse_specs(list(formats))
    sites = check_sites(sites)
    check_rounding(rounding)
    check_seed(seed)
    thresholds = thresholds or Thresholds()
    origin = origin or Origin(type(model).__name__)
    for sentence in origin.notes:
        listener.note(sentence)
    whole = [str(spec) for spec in specs if spec.scale_rule == "tensor"]
    if whole and needs_prompts(sites):
        listener.note(
            f"{', '.join(whole)} takes each batch of activations as the tensor, so its figures "
            "depend on the batch size"
        )
    structure = find_structure(model)
    selection = Selection(tuple(include), tuple(exclude))
    selection.check(weight.name for weight in find_weights(model, structure))
    tokenized = None
    if needs_prompts(sites):
        tokenized = tokenize_for(model, tokenizer, prompts, max_length, apply_chat_template)
    weights = fingerprint(model)

    measured: list[Measured] = []
    missing: dict[tuple[str, str], str] = {}
    if tokenized is not None:
        found, without = measure_activations(
            model,
            structure,
            tokenized,
            sites,
            specs,
            selection=selection,
            pad=padding_id(tokenizer, vocabulary_of(model)),
            rounding=rounding,
            batch_size=batch_size,
            skip_first_token=skip_first_token,
            seed=seed,
            listener=listener,
        )
        measured += found
        missing |= without
    if "weight" in sites:
        found, without = measure_weights(
            model,
            structure,
            specs,
            selection=selection,
            rounding=rounding,
            seed=seed,
            listener=listener,
        )
        measured += found
        missing |= without

    used = 0 if tokenized is None else len(tokenized.index)
    records, rankings = build(measured, rounding=rounding, prompts=used, seed=seed)
    _note_findings(measured, tokenized, listener)
    device = device_of(model)
    return schema.Scan(
        model=describe_model(model, tokenizer, structure, weights, origin),
        calibration=_describe_calibration(
            tokenized, max_length, apply_chat_template, skip_first_token
        ),
        settings=schema.Settings(
            formats=[str(spec) for spec in specs],
            sites=list(sites),
            include=list(include),
            exclude=list(exclude),
            rounding=rounding,
            seed=seed,
            thresholds=schema.Thresholds(**asdict(thresholds)),
        ),
        run=schema.Run(
            versions=versions(),
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
            schema.NotMeasured(module=name, site=site, reason=reason)
            for (name, site), reason in missing.items()
        ],
        warnings=list(listener.notes),
    )


def _describe_calibration(
    tokenized: TokenizedPrompts | None,
    max_length: int | None,
    apply_chat_template: bool,
    skip_first_token: bool,
) -> schema.Calibration:
    return schema.Calibration(
        source=None if tokenized is None else tokenized.source,
        fingerprint=None if tokenized is None else tokenized.fingerprint,
        prompt_fingerprints=[] if tokenized is None else list(tokenized.fingerprints),
        prompts=0 if tokenized is None else len(tokenized.index),
        tokens=0 if tokenized is None else tokenized.tokens,
        truncated=0 if tokenized is None else tokenized.truncated,
        left_out=0 if tokenized is None else len(tokenized.left_out),
        max_length=max_length,
        chat_template=apply_chat_template,
        skip_first_token=skip_first_token,
    )


def _note_findings(
    measured: Sequence[Measured], tokenized: TokenizedPrompts | None, listener: Listener
) -> None:
    """What a reader of the figures has to know first."""
    broken = {one.tensor: int(one.replicates[:, INDEX["nonfinite"]].sum()) for one in measured}
    broken = {name: count for name, count in broken.items() if count}
    if broken:
        first = next(iter(broken))
        listener.note(
            f"NON-FINITE VALUES: {sum(broken.values()):,} NaN or infinite values in {len(broken)} "
            f"of the measured tensors, {first} first; they are left out of every figure"
        )
    if tokenized is None:
        return
    if tokenized.left_out:
        reasons = ", ".join(sorted({entry.reason for entry in tokenized.left_out}))
        listener.note(f"left out {counted(len(tokenized.left_out), 'prompt')}: {reasons}")
    few = few_prompts(len(tokenized.index))
    if few is not None:
        listener.note(few)
