"""Evaluation: what quantized operands, with noise or without, do to a model's predictions.

prompts ──► model as it is   ──► logits ─┐
        └─► simulated, noisy ──► logits ─┴─► nll, kl by prompt ──► means with intervals

pieces        texts that have something to predict
assignments   recipes, and what they are compared with
variants      formats and noise; running one after the other, with one set of quantized weights at
              a time and no logits beyond a batch
predictions   logits -> sums of nll and kl for each prompt
noise_stages  the noise of all stages, injected, beside what a scan predicts
results       sums -> means over tokens, intervals over prompts
mismatch      of rollouts: figures of every token -> how far the rollout policy is from the trained
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from srdd.documents import evaluation as schema
from srdd.documents.recipe import Recipe
from srdd.errors import UsageError, counted
from srdd.measurement.forward import (
    tokenize_for,
    warn_of_left_out,
    warn_of_rollouts,
    warn_of_whole_tensors,
)
from srdd.measurement.listener import Listener
from srdd.measurement.plan import check_batch_size, check_max_length
from srdd.measurement.provenance import Origin, describe, describe_rollouts, versions
from srdd.measurement.work import current
from srdd.model.fingerprint import fingerprint
from srdd.model.precision import check_full_precision
from srdd.model.running import device_of, evaluating, vocabulary_of
from srdd.numerics.confidence import FEW_PROMPTS
from srdd.numerics.mismatch import check_clip
from srdd.prompts.batches import TokenizedPrompts, make_batches
from srdd.prompts.reading import PromptSet
from srdd.prompts.rollouts import RolloutSet
from srdd.simulation import predictions
from srdd.simulation.assignments import check_names, runs_of
from srdd.simulation.mismatch import Collector
from srdd.simulation.noise_stages import StagedNoise, fingerprint_of, stages_document
from srdd.simulation.pieces import piece_length, pieces_of, predictable
from srdd.simulation.results import result_of, warn_of_results
from srdd.simulation.simulator import Simulation
from srdd.simulation.variants import Noise, Runner, Variant, all_variants

__all__ = ["Noise", "StagedNoise", "Variant", "check_names", "evaluate_model"]


def evaluate_model(
    model: nn.Module,
    tokenizer: Any,
    prompts: PromptSet | RolloutSet | Sequence[Any] | None = None,
    *,
    variants: Sequence[Variant] | None = None,
    recipes: Mapping[str, Recipe] | None = None,
    noise: Noise | StagedNoise | None = None,
    as_text: bool = False,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    limit: int | None = None,
    max_length: int | None = None,
    batch_size: int | Literal["auto"] = "auto",
    apply_chat_template: bool | None = None,
    clip: tuple[float, float] | None = None,
    origin: Origin | None = None,
    listener: Listener | None = None,
) -> schema.Evaluation:
    """Loss, perplexity and divergence of a model that runs with quantized operands.

    Arguments:
        model: a causal language model of transformers, on any device.
        tokenizer: its tokenizer.
        prompts: strings, lists of chat messages, a PromptSet or a RolloutSet, of which response
            tokens are predicted; the built-in prompts for None.
        variants: how to run the model, besides as it is; in mxfp4 (W4A4) for None where there are
            no recipes.
        recipes: formats of single linears, by a name for each. Each recipe runs beside its lowest
            format everywhere and beside what people choose by habit at about as many bits.
        noise: with that of a step, every variant is run once more with noise, and so is the model
            as it is. With that of all stages, the KL that it causes in each is measured beside, in
            the model as it is.
        as_text: take the prompts as one text each and cut them into pieces of `max_length` tokens,
            which then count as prompts; PIECE tokens for None.
        include, exclude: which linears are simulated, see srdd.model.selection.
        limit: use only so many prompts or pieces, the first ones.
        max_length: tokens kept of each prompt.
        batch_size: prompts in a batch, or `auto`.
        apply_chat_template: whether prompts go through the tokenizer's chat template; None means
            that chat messages do and plain text does not.
        clip: of rollouts, a range of importance ratios beside 0.8 to 1.2 to count tokens beyond.
        origin: what the document says of the model's origin.
        listener: hears of progress and warnings.

    Returns:
        The document. The model is as it was before.

    Raises:
        UsageError: an unknown format; no variant; a step outside the run; an empty range `clip`;
            patterns together with recipes.
        InputError: no decoder stack; no prompt with a token to predict; too little memory for a
            single prompt; a configuration or a recipe for another model; a model that is quantized
            already.
    """
    started, clock = datetime.now(timezone.utc), time.monotonic()
    listener = listener or Listener()
    origin = origin or Origin(type(model).__name__)
    check_batch_size(batch_size)
    check_max_length(max_length, least=2)
    check_clip(clip)
    check_full_precision(model)
    for sentence in origin.notes:
        listener.warn(sentence)
    staged = noise if isinstance(noise, StagedNoise) else None
    noise = None if isinstance(noise, StagedNoise) else noise
    if recipes and (include or exclude):
        raise UsageError(
            "include and exclude do not go with recipes, which name their linears",
            "leave them out, or make another recipe with the patterns",
        )
    check_names(model, recipes or {})
    runs_of_recipes = runs_of(recipes or {})
    assigned = [each for run in runs_of_recipes for each in (run.own, *run.others)]
    if variants is None:
        variants = [] if assigned else [Variant("mxfp4", "mxfp4")]
    chosen = all_variants([*variants, *(Variant(assignment=each) for each in assigned)], noise)
    warn_of_whole_tensors(sorted({each for one in chosen for each in one.inputs}), listener)
    if as_text:
        if isinstance(prompts, RolloutSet):
            raise UsageError("rollouts are not one text", "leave as_text out")
        tokenized = pieces_of(model, tokenizer, prompts, max_length)
    else:
        tokenized = tokenize_for(model, tokenizer, prompts, max_length, apply_chat_template)
    tokenized = predictable(tokenized, limit)
    what = "piece" if as_text else "rollout" if tokenized.rollouts else "prompt"
    amount = counted(len(tokenized.ids), what)
    _warn_of_prompts(tokenized, amount, listener)
    weights = fingerprint(model)
    current().bind(weights, tokenized.fingerprint)

    vocabulary = vocabulary_of(model)
    batches = [
        part
        for batch in make_batches(tokenized, batch_size)
        for part in predictions.cut(batch, vocabulary or 1)
    ]
    runner = Runner(model, tokenized, batches, noise, include, exclude, listener)
    runner.check(chosen)
    listener.started(
        f"evaluating {amount} in {counted(len(chosen), 'variant')}",
        tokenized.tokens * len(chosen),
        "tokens",
    )
    counts = list(tokenized.predicted)
    predicted = np.array(counts, dtype=np.float64)
    rollouts = tokenized.scored is not None
    collectors = [Collector(tokenized, clip) if rollouts else None for _ in chosen]
    with evaluating(model), torch.no_grad():
        runs = [
            (variant, *runner.run(variant, collector))
            for variant, collector in zip(chosen, collectors, strict=True)
        ]
    plain = (Variant(), runs[0][1], Simulation())
    results = [
        result_of(variant, predicted, sums, simulation)
        for variant, sums, simulation in (plain, *runs)
    ]
    for place, collector in enumerate(collectors, start=1):
        if collector is not None:
            section = collector.section(tokenizer.decode)
            results[place] = results[place].model_copy(update={"mismatch": section})
    warn_of_results(results, listener)
    compared = [run.result(results, counts, weights) for run in runs_of_recipes]
    for recipe in compared:
        _warn_of_recipe(recipe, listener)
    stages = None
    if staged is not None:
        stages = stages_document(model, tokenized, staged, weights, listener)
    return schema.Evaluation(
        model=schema.Model(**describe(model, tokenizer, weights, origin)),
        text=schema.Text(
            form="text" if as_text else "rollouts" if tokenized.rollouts else "prompts",
            source=tokenized.source,
            fingerprint=tokenized.fingerprint,
            indices=list(tokenized.index),
            predicted=counts,
            truncated=tokenized.truncated,
            left_out=len(tokenized.left_out),
            max_length=(max_length or piece_length(model)) if as_text else max_length,
            chat_template=tokenized.chat_template,
            rollouts=describe_rollouts(tokenized),
        ),
        settings=schema.Settings(
            include=list(include),
            exclude=list(exclude),
            noise=None if noise is None else _describe_noise(noise),
        ),
        run=schema.Run(
            versions=versions(),
            device=str(device_of(model)),
            batch_size=str(batch_size),
            command=origin.command,
            started=started.isoformat(timespec="seconds"),
            elapsed_s=time.monotonic() - clock,
        ),
        results=results,
        recipes=compared,
        noise_stages=stages,
        warnings=list(listener.warnings),
    )


def _warn_of_prompts(tokenized: TokenizedPrompts, amount: str, listener: Listener) -> None:
    """Warn of what a reader should know of the prompts before the figures."""
    warn_of_left_out(tokenized, listener)
    warn_of_rollouts(tokenized, listener)
    if len(tokenized.ids) == 1:
        listener.warn(f"only {amount}: there are no intervals")
    elif len(tokenized.ids) < FEW_PROMPTS:
        listener.warn(f"only {amount}: intervals may be too narrow")


def _warn_of_recipe(recipe: schema.RecipeResult, listener: Listener) -> None:
    """Warn where the recipe's predicted cost does not apply."""
    if recipe.of_these_weights is False:
        listener.warn(
            f"{recipe.name} was made from a scan of other weights, or of these in another type: "
            "its predicted KL is theirs"
        )


def _describe_noise(noise: Noise) -> schema.Noise:
    return schema.Noise(
        config=noise.name,
        strategy=noise.config.strategy,
        fingerprint=fingerprint_of(noise.config),
        step=noise.step,
        total_steps=noise.total_steps,
        seed=noise.seed,
    )
