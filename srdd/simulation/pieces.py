"""Texts that have something to predict: prompts of two tokens or more, or pieces of one text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from srdd.errors import InputError, UsageError, counted
from srdd.measurement.forward import as_prompt_set
from srdd.model.running import context_of, vocabulary_of
from srdd.prompts.batches import LeftOut, TokenizedPrompts, tokenize
from srdd.prompts.reading import PromptSet

PIECE = 512
"""Tokens of a piece of a text, by default."""

TOO_SHORT = "no token to predict: it is a single token"
NO_RESPONSE = "no response token to predict"


def piece_length(model: nn.Module) -> int:
    """Tokens of a piece by default: PIECE, or the model's context if that is less."""
    return min(PIECE, context_of(model) or PIECE)


def pieces_of(
    model: nn.Module,
    tokenizer: Any,
    text: PromptSet | Sequence[Any] | None,
    length: int | None = None,
) -> TokenizedPrompts:
    """A text as pieces of `length` tokens one after the other; the last may be shorter.

    The tokenizer's special tokens stand where it puts them in the whole text. A piece is
    predicted without those before it.

    Raises:
        UsageError: `length` is more than the model's context.
        InputError: the text is shorter than one piece.
    """
    context = context_of(model)
    if length is not None and context is not None and length > context:
        raise UsageError(
            f"`max_length` {length} is more than the model's context of {context} tokens",
            f"use `max_length` {context} or less",
        )
    size = length or piece_length(model)
    whole = tokenize(
        as_prompt_set(text),
        tokenizer,
        vocab_size=vocabulary_of(model),
        apply_chat_template=False,
    )
    tokens = sum(map(len, whole.ids))
    if tokens < size:
        raise InputError(
            f"the text has {counted(tokens, 'token')}, fewer than one piece of {size}",
            f"give a longer text, or a `max_length` of at most {tokens}",
        )
    ids = [piece[n : n + size] for piece in whole.ids for n in range(0, len(piece), size)]
    return replace(whole, index=tuple(range(len(ids))), ids=tuple(ids))


def predictable(tokenized: TokenizedPrompts, limit: int | None = None) -> TokenizedPrompts:
    """The first `limit` prompts, without those that have nothing to predict.

    A prompt of a single token has nothing, and a rollout without a response token after the first.

    Raises:
        InputError: none is left.
    """
    first = list(range(len(tokenized.ids)))[:limit]
    predicted = tokenized.predicted
    kept = [place for place in first if predicted[place] > 0]
    if not kept and tokenized.scored is not None:
        raise InputError(
            "no rollout has a response token to predict",
            "give rollouts with a response, or a larger `max_length`",
        )
    if not kept:
        raise InputError(
            "no prompt has a token to predict: each is a single token",
            "give a text of two tokens or more",
        )
    reason = TOO_SHORT if tokenized.scored is None else NO_RESPONSE
    short = [
        LeftOut(tokenized.index[n], len(tokenized.ids[n]), reason)
        for n in first
        if n not in set(kept)
    ]
    return replace(tokenized.chosen(kept), left_out=(*tokenized.left_out, *short))
