"""Forward passes over prompts: tokens that a model can take, batches that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from srdd.errors import InputError, counted
from srdd.measurement.listener import Listener
from srdd.model.running import context_of, is_out_of_memory, vocabulary_of
from srdd.prompts.batches import Batch, TokenizedPrompts, split, tokenize
from srdd.prompts.reading import PromptSet, builtin, from_strings
from srdd.prompts.responses import tokenize_rollouts
from srdd.prompts.rollouts import RolloutSet


def tokenize_for(
    model: nn.Module,
    tokenizer: Any,
    prompts: PromptSet | RolloutSet | Sequence[Any] | str | None,
    max_length: int | None,
    apply_chat_template: bool | None,
) -> TokenizedPrompts:
    """The prompts or rollouts, the built-in prompts for None, as tokens that this model can take.

    Raises:
        UsageError, InputError: as `srdd.prompts.batches.tokenize`.
    """
    options: dict[str, Any] = {
        "max_length": max_length,
        "context": context_of(model),
        "vocab_size": vocabulary_of(model),
        "apply_chat_template": apply_chat_template,
    }
    if isinstance(prompts, RolloutSet):
        return tokenize_rollouts(prompts, tokenizer, **options)
    return tokenize(as_prompt_set(prompts), tokenizer, **options)


def as_prompt_set(prompts: PromptSet | Sequence[Any] | str | None) -> PromptSet:
    """Prompts as a caller may give them; the built-in ones for None."""
    if prompts is None:
        return builtin()
    if isinstance(prompts, PromptSet):
        return prompts
    return from_strings([prompts] if isinstance(prompts, str) else list(prompts))


def warn_of_whole_tensors(formats: Iterable[str], listener: Listener) -> None:
    """Warn where a format takes its scale from all activations of a batch."""
    names = [name for name in formats if name.endswith(":tensor")]
    if names:
        listener.warn(
            f"{', '.join(names)} takes each batch of activations as the tensor, so its figures "
            "depend on the batch size"
        )


def warn_of_left_out(tokenized: TokenizedPrompts, listener: Listener) -> None:
    """Warn of prompts or rollouts that are not used, with the reasons."""
    if tokenized.left_out:
        reasons = ", ".join(sorted({entry.reason for entry in tokenized.left_out}))
        what = "prompt" if tokenized.rollouts is None else "rollout"
        listener.warn(f"left out {counted(len(tokenized.left_out), what)}: {reasons}")


def warn_of_rollouts(tokenized: TokenizedPrompts, listener: Listener) -> None:
    """Warn of what a reader of figures on these rollouts should know; nothing for prompts."""
    counts = tokenized.rollouts
    if counts is None:
        return
    used = len(tokenized.ids)
    if counts.unreadable:
        named = "; ".join(counts.first_unreadable)
        more = ", ..." if counts.unreadable > len(counts.first_unreadable) else ""
        listener.warn(
            f"left out {counted(counts.unreadable, 'row')} without a rollout: {named}{more}"
        )
    if counts.differing:
        listener.inform(
            f"the text of {counts.differing:,} of {counts.with_ids:,} responses gives other token "
            "ids than the source has; those of the source are used"
        )
    if counts.with_ids < used:
        listener.warn(
            f"{used - counts.with_ids:,} of {counted(used, 'rollout')} without token ids: their "
            "text was tokenized again, which may give other tokens than were sampled, and no end "
            "of text"
        )
    if counts.bare:
        listener.warn(
            f"{counts.bare:,} of {counted(used, 'prompt')} without the special tokens of the chat "
            "template, as in logs that leave them out: the policy saw another context"
        )
    if counts.truncated:
        listener.inform(f"{counts.truncated:,} of {used:,} responses ended at a limit of tokens")
    if counts.multi_turn:
        listener.inform(f"{counts.multi_turn:,} of {used:,} rollouts have several turns")


def run_halving(
    batch: Batch, run: Callable[[Batch], None], device: torch.device, listener: Listener
) -> None:
    """Call `run` with a batch, or with parts of it, halved until they fit into memory.

    A failed call has to leave nothing behind: it is repeated with the halves. The listener hears of
    the tokens of each part that is done.

    Raises:
        InputError: a single prompt does not fit.
    """
    try:
        run(batch)
        listener.advanced(batch.tokens)
        return
    except Exception as error:  # torch says in several ways that memory ran out
        if not is_out_of_memory(error):
            raise
    # Outside the handler, whose traceback would keep the failed pass's tensors alive.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    halves = split(batch)
    listener.warn(
        f"out of memory at {len(batch.index)} prompts; retrying with {len(halves[0].index)}"
    )
    for half in halves:
        run_halving(half, run, device, listener)


def logits_of(model: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """(prompts, tokens, vocabulary) in the model's type.

    Raises:
        InputError: the model gives none.
    """
    output: Any = model(
        input_ids=batch.input_ids.to(device),
        attention_mask=batch.attention_mask.to(device),
        use_cache=False,
    )
    logits = getattr(output, "logits", None)
    if not isinstance(logits, Tensor) or logits.shape[:2] != batch.input_ids.shape:
        raise InputError(
            f"{type(model).__name__} gives no logits for each token",
            "load the model with its language-model head, as AutoModelForCausalLM does",
        )
    return logits
