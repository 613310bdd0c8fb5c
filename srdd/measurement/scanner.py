"""The orchestrator of a scan: model and prompts in, one document out.

structure ──► activations (prompts) ──► sums ──► records ──► Scan
└──► weights ─────────────────┘
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from torch import nn

from srdd.documents import scan as schema
from srdd.documents.records import Measured, build, prompt_warnings
from srdd.errors import UsageError
from srdd.measurement.activations import measure_activations
from srdd.measurement.forward import (
    tokenize_for,
    warn_of_left_out,
    warn_of_rollouts,
    warn_of_whole_tensors,
)
from srdd.measurement.listener import Listener, listening
from srdd.measurement.plan import Options, Plan, with_defaults
from srdd.measurement.provenance import Origin, describe_model, describe_rollouts, versions
from srdd.measurement.weights import measure_weights
from srdd.measurement.work import current
from srdd.model.fingerprint import fingerprint
from srdd.model.linears import find_weights
from srdd.model.precision import check_full_precision
from srdd.model.running import device_of
from srdd.model.structure import find_structure
from srdd.numerics.kernels import kernel_name
from srdd.numerics.sites import needs_prompts
from srdd.numerics.sums import INDEX
from srdd.prompts.batches import NO_PROMPTS, TokenizedPrompts
from srdd.prompts.reading import PromptSet
from srdd.prompts.rollouts import RolloutSet

if TYPE_CHECKING:
    from typing import Unpack

__all__ = ["Listener", "Origin", "scan_model"]


@with_defaults
def scan_model(
    model: nn.Module,
    tokenizer: Any = None,
    prompts: PromptSet | RolloutSet | Sequence[Any] | None = None,
    *,
    origin: Origin | None = None,
    listener: Listener | None = None,
    **options: Unpack[Options],
) -> schema.Scan:
    """Measure what quantization does inside a model, in one pass over the prompts.

    Arguments:
        model: a causal language model of transformers, on any device.
        tokenizer: its tokenizer; not needed where only weights are measured.
        prompts: strings, lists of chat messages, a PromptSet or a RolloutSet; the built-in prompts
            for None.
        formats: `mxfp4`, or with a scale rule `mxfp4:even`.
        sites: what to measure, of srdd.numerics.sites.SITES.
        include, exclude: patterns on the names of linears, see srdd.model.selection.
        rounding: of srdd.numerics.formats.ROUNDINGS.
        max_length: tokens kept of each prompt.
        batch_size: prompts in a batch, or `auto`.
        apply_chat_template: whether prompts go through the tokenizer's chat template; None means
            that chat messages do and plain text does not.
        skip_first_token: leave out each prompt's first token, which on many models carries most of
            the energy.
        thresholds: where a layer is flagged.
        seed: of the bootstrap, of stochastic rounding, and of the labels for `kl`.
        kl: also estimate what quantizing each linear costs the predictions, and what noise costs,
            for `scan.sensitivities()`; `direct` measures each linear on its own instead.
        kl_samples: of labels for each prompt; more make the estimate less noisy.
        kl_check: in each format, measure so many of the estimates directly, and the whole model.
        origin: what the document says of the model's origin.
        listener: hears how the scan goes; for None, there is a progress bar on a terminal and in a
            notebook.

    Returns:
        The scan. The model is as it was before: no hooks, its training mode restored.

    Raises:
        UsageError: an unknown site, format or rounding.
        InputError: no decoder stack, no usable prompt, non-finite weights, too little memory for a
            single prompt, or a model that is quantized already.
    """
    with listening(listener) as hearing:
        return measure_model(model, tokenizer, prompts, Plan.of(**options), hearing, origin)


def measure_model(
    model: nn.Module,
    tokenizer: Any,
    prompts: PromptSet | RolloutSet | Sequence[Any] | None,
    plan: Plan,
    listener: Listener,
    origin: Origin | None = None,
) -> schema.Scan:
    """`scan_model` with its options in a plan."""
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"the model is a {type(model).__name__}, not a torch module",
            "load it first, for example with transformers' from_pretrained",
        )
    if tokenizer is None and plan.needs_prompts:
        raise UsageError(
            "a tokenizer is needed to measure activations",
            'give the model\'s tokenizer, or measure sites=["weight"] only',
        )
    check_full_precision(model)
    started, clock = datetime.now(timezone.utc), time.monotonic()
    origin = origin or Origin(type(model).__name__)
    for sentence in origin.notes:
        listener.warn(sentence)
    structure = find_structure(model)
    plan.selection.check(weight.name for weight in find_weights(model, structure))
    tokenized = NO_PROMPTS
    if plan.needs_prompts:
        warn_of_whole_tensors(plan.formats, listener)
        tokenized = tokenize_for(model, tokenizer, prompts, plan.max_length, plan.chat_template)
    weights = fingerprint(model)
    current().bind(weights, tokenized.fingerprint if tokenized.ids else "")

    measured: list[Measured] = []
    not_measured: dict[tuple[str, str], str] = {}
    if needs_prompts(plan.sites):
        measured, not_measured = measure_activations(model, structure, tokenized, plan, listener)
    if "weight" in plan.sites:
        of_weights, reasons = measure_weights(model, structure, plan, listener)
        measured += of_weights
        not_measured |= reasons

    sensitivity = None
    if plan.kl is not None and tokenized.ids:
        from srdd.simulation.checking import sensitivity_of

        sensitivity = sensitivity_of(
            model,
            structure,
            tokenized,
            plan,
            pad=tokenized.pad_id,
            listener=listener,
        )

    records, rankings = build(measured, rounding=plan.rounding, seed=plan.seed)
    _warn_of_results(measured, tokenized, listener)
    device = device_of(model)
    return schema.Scan(
        model=describe_model(model, tokenizer, structure, weights, origin),
        calibration=schema.Calibration(
            source=tokenized.source or None,
            fingerprint=tokenized.fingerprint if tokenized.ids else None,
            prompt_fingerprints=list(tokenized.fingerprints),
            prompts=len(tokenized.index),
            tokens=tokenized.scored_tokens,
            truncated=tokenized.truncated,
            left_out=len(tokenized.left_out),
            max_length=plan.max_length,
            chat_template=tokenized.chat_template,
            skip_first_token=plan.skip_first_token,
            rollouts=describe_rollouts(tokenized),
            replicate_rule="prompt",
        ),
        settings=schema.Settings(
            formats=plan.formats,
            sites=list(plan.sites),
            include=list(plan.selection.include),
            exclude=list(plan.selection.exclude),
            rounding=plan.rounding,
            seed=plan.seed,
            thresholds=schema.Thresholds(**asdict(plan.thresholds)),
        ),
        run=schema.Run(
            versions=versions(),
            device=str(device),
            kernel=kernel_name(device),
            batch_size=str(plan.batch_size),
            command=origin.command,
            started=started.isoformat(timespec="seconds"),
            elapsed_s=time.monotonic() - clock,
        ),
        records=records,
        rankings=rankings,
        sensitivity=sensitivity,
        not_measured=[
            schema.NotMeasured(module=name, site=site, reason=reason)
            for (name, site), reason in not_measured.items()
        ],
        warnings=list(listener.warnings),
    )


def _warn_of_results(
    measured: Sequence[Measured], tokenized: TokenizedPrompts, listener: Listener
) -> None:
    """Warn of what a reader of the figures should know first."""
    counts = {each.tensor: int(each.replicates[:, INDEX["nonfinite"]].sum()) for each in measured}
    broken = {name: count for name, count in counts.items() if count}
    if broken:
        listener.warn(
            f"NON-FINITE VALUES: {sum(broken.values()):,} NaN or infinite values in "
            f"{len(broken)} of the measured tensors, {next(iter(broken))} first; "
            "they are left out of every figure"
        )
    warn_of_left_out(tokenized, listener)
    warn_of_rollouts(tokenized, listener)
    if tokenized.ids:
        for sentence in prompt_warnings(measured, len(tokenized.ids)):
            listener.warn(sentence)
