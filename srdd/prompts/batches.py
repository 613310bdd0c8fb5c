"""Prompts to batches of token ids: tokenized one by one, sorted by length, padded on the right.

    PromptSet ──► tokenize ──► TokenizedPrompts ──► make_batches ──► list of Batch

Padding is always on the right: in a causal model a token sees only what is to its left, so the
real tokens get what they would get in a batch of their own. Whoever uses a batch leaves the padding
out, by its `attention_mask`.

Of a rollout, the response counts and its prompt is context: `scored` says which tokens figures are
taken over. Site figures are of the rows of these tokens, predictions those of these tokens, each
made one position earlier. The model runs over all tokens alike.

Every prompt keeps its global index (its place in the source, from 0) and a fingerprint of its
tokens, so that results can be put back into order and scans of parts can be merged.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch

from srdd.errors import InputError, UsageError
from srdd.prompts.fingerprints import prompt_fingerprint, set_fingerprint
from srdd.prompts.reading import Prompt, PromptSet
from srdd.prompts.rollouts import RolloutCounts

AUTO_TOKENS = 4096
"""Padded tokens in an automatic batch. A few hundred tokens already keep matrix products busy; at
4096 the activations of one layer of a 7B model (hidden size 4096, bf16) are 32 MiB, little next
to the layer's weights."""

AUTO_PROMPTS = 64
"""Prompts in an automatic batch at most, so that very short ones still give several batches."""


@dataclass(frozen=True)
class LeftOut:
    """A prompt that isn't used: its global index, its number of tokens, and why."""

    index: int
    tokens: int
    reason: str


@dataclass(frozen=True)
class TokenizedPrompts:
    """The tokens of the prompts that can be used, in prompt order; the tuples run in parallel.

    Attributes:
        source: as in PromptSet.
        index: global index of each prompt, ascending, with gaps where a prompt was left out.
        ids: token ids of each prompt, at least one.
        truncated: how many prompts were cut to the maximal length.
        left_out: the prompts that aren't here.
        chat_template: whether any of them went through the tokenizer's chat template.
        pad_id: a token id to pad with.
        scored: for each prompt, which of its tokens figures are taken over, as long as its ids;
            None where all of them are.
        logprobs: for each prompt, the log-probability of each of its tokens under the program that
            generated it, as long as its ids, NaN where it is not known; None where no prompt has
            any. In nats, as they were logged.
        rollouts: what became of the rollouts that these are; None for prompts.
    """

    source: str
    index: tuple[int, ...]
    ids: tuple[tuple[int, ...], ...]
    truncated: int
    left_out: tuple[LeftOut, ...]
    chat_template: bool = False
    pad_id: int = 0
    scored: tuple[tuple[bool, ...], ...] | None = None
    logprobs: tuple[tuple[float, ...], ...] | None = None
    rollouts: RolloutCounts | None = None

    @cached_property
    def fingerprints(self) -> tuple[str, ...]:
        """Of each prompt, as `prompt_fingerprint` gives them."""
        if self.scored is None:
            return tuple(map(prompt_fingerprint, self.ids))
        return tuple(map(prompt_fingerprint, self.ids, self.scored))

    @property
    def tokens(self) -> int:
        """Tokens in all prompts together."""
        return sum(len(ids) for ids in self.ids)

    @property
    def scored_tokens(self) -> int:
        """Tokens that figures are taken over."""
        return self.tokens if self.scored is None else sum(map(sum, self.scored))

    @property
    def predicted(self) -> tuple[int, ...]:
        """For each prompt, how many of its scored tokens have a token before them."""
        if self.scored is None:
            return tuple(len(ids) - 1 for ids in self.ids)
        return tuple(sum(each[1:]) for each in self.scored)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the whole set, in this order."""
        return set_fingerprint(self.fingerprints)

    def chosen(self, places: Sequence[int]) -> TokenizedPrompts:
        """The prompts at these places of the tuples, which are ascending."""

        def pick(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[place] for place in places)

        return replace(
            self,
            index=pick(self.index),
            ids=pick(self.ids),
            scored=None if self.scored is None else pick(self.scored),
            logprobs=None if self.logprobs is None else pick(self.logprobs),
        )


NO_PROMPTS = TokenizedPrompts("", (), (), 0, ())
"""What a scan of weights alone is made from."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts that go through the model together.

    Attributes:
        index: (prompts,) their global indices.
        input_ids: (prompts, tokens) int64, padded on the right.
        attention_mask: (prompts, tokens) int64, 1 for a real token and 0 for padding.
        fingerprints: of each prompt.
        scored: (prompts, tokens) int64, 1 for a token that figures are taken over and 0 for context
            and padding; None where every real token is.
        logprobs: (prompts, tokens) float64, as in TokenizedPrompts, NaN for padding; None where no
            prompt has any.
    """

    index: tuple[int, ...]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    fingerprints: tuple[str, ...] = ()
    scored: torch.Tensor | None = None
    logprobs: torch.Tensor | None = None

    @property
    def scored_mask(self) -> torch.Tensor:
        """(prompts, tokens) int64, 1 for a token that figures are taken over."""
        return self.attention_mask if self.scored is None else self.scored

    @property
    def lengths(self) -> tuple[int, ...]:
        """Real tokens of each prompt."""
        return tuple(self.attention_mask.sum(dim=1).tolist())

    @property
    def tokens(self) -> int:
        """Real tokens in the batch; padding doesn't count."""
        return sum(self.lengths)


def padding_id(tokenizer: object, vocab_size: int | None = None) -> int:
    """A token id to pad with: the tokenizer's padding, else its end of text, else 0.

    Which one it is never shows in a result. It only has to be a row of the model's embedding, and a
    padding token that was added to the tokenizer alone isn't.
    """
    for name in ("pad_token_id", "eos_token_id"):
        token = getattr(tokenizer, name, None)
        if isinstance(token, int) and token >= 0 and (vocab_size is None or token < vocab_size):
            return token
    return 0


def tokenize(
    prompt_set: PromptSet,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    context: int | None = None,
    vocab_size: int | None = None,
    apply_chat_template: bool | None = None,
) -> TokenizedPrompts:
    """Turn each prompt into token ids.

    Arguments:
        prompt_set: what to tokenize.
        tokenizer: of transformers, or another one that can be called with a text and has
            `apply_chat_template`.
        max_length: keep at most so many tokens of each prompt, the first ones.
        context: the model's `max_position_embeddings`; longer prompts are left out.
        vocab_size: rows of the model's embedding.
        apply_chat_template: put prompts through the tokenizer's chat template, up to where the
            model would answer; plain text becomes one message of the user. Without the template
            the messages of a chat are joined by newlines, and the special tokens that the tokenizer
            adds to any text are added. None: chats go through the template, plain text does not.

    Raises:
        UsageError: `max_length` is above `context`; there is no chat template to apply.
        InputError: no prompt can be used; the chat template rejects a prompt; a token id is outside
            the vocabulary.
    """
    check_context(max_length, context)
    templated = [
        prompt.messages is not None if apply_chat_template is None else apply_chat_template
        for prompt in prompt_set.prompts
    ]
    if any(templated):
        check_template(tokenizer)
    index, kept, left_out, truncated = [], [], [], 0
    prompts = zip(prompt_set.prompts, templated, strict=True)
    for number, (prompt, with_template) in enumerate(prompts, start=prompt_set.first):
        ids = _token_ids(prompt, tokenizer, with_template, number)
        if max_length is not None and len(ids) > max_length:
            ids = ids[:max_length]
            truncated += 1
        if not ids:
            left_out.append(LeftOut(number, 0, "without any token"))
        elif context is not None and len(ids) > context:
            reason = f"longer than the model's context of {context} tokens"
            left_out.append(LeftOut(number, len(ids), reason))
        else:
            check_vocabulary(ids, f"prompt {number + 1}", vocab_size)
            index.append(number)
            kept.append(ids)
    if not kept:
        reasons = Counter(entry.reason for entry in left_out).items()
        blank = not any(entry.tokens for entry in left_out)
        raise InputError(
            f"no prompt is left: {', '.join(f'{count} {reason}' for reason, count in reasons)}",
            "give prompts that aren't blank" if blank else f"cut them with `max_length={context}`",
        )
    return TokenizedPrompts(
        source=prompt_set.source,
        index=tuple(index),
        ids=tuple(kept),
        truncated=truncated,
        left_out=tuple(left_out),
        chat_template=any(templated),
        pad_id=padding_id(tokenizer, vocab_size),
    )


def check_context(max_length: int | None, context: int | None) -> None:
    """Refuse to keep more tokens of a prompt than the model can take.

    Raises:
        UsageError: it is more.
    """
    if max_length is not None and context is not None and max_length > context:
        raise UsageError(
            f"`max_length` {max_length} is more than the model's context of {context} tokens",
            f"use `max_length` {context} or less",
        )


def check_template(tokenizer: Any) -> None:
    """Refuse a tokenizer without a chat template.

    Raises:
        UsageError: it has none.
    """
    # A tokenizer without the attribute formats chats in a way of its own.
    if getattr(tokenizer, "chat_template", "its own") is None:
        raise UsageError(
            "the tokenizer has no chat template to apply",
            "use the instruction-tuned version of the model, name its `tokenizer`, "
            "or join the messages as plain text with `apply_chat_template=False`",
        )


def check_vocabulary(ids: Sequence[int], what: str, vocab_size: int | None) -> None:
    """Refuse token ids that the model does not know; `what` has them.

    Raises:
        InputError: one is outside the vocabulary.
    """
    if vocab_size is not None and max(ids) >= vocab_size:
        raise InputError(
            f"{what} has token id {max(ids)}, but the model knows only ids below {vocab_size}: "
            "the tokenizer is of another model",
            "use the tokenizer that the model was trained with",
        )


def make_batches(
    tokenized: TokenizedPrompts,
    batch_size: int | Literal["auto"] = "auto",
    pad_id: int | None = None,
) -> list[Batch]:
    """Group the prompts into batches of similar length, the longest first.

    The longest come first because a batch that doesn't fit into memory should say so at once.
    Prompts of one length stay in prompt order. With "auto", a batch closes at `AUTO_TOKENS` padded
    tokens (a longer prompt has a batch to itself), at `AUTO_PROMPTS` prompts, and before a prompt
    that is shorter than half its longest, so that less than half of any batch is padding. Padding
    is the prompts' own `pad_id` unless another is given.
    """
    lengths = [len(ids) for ids in tokenized.ids]
    groups: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if not groups or _is_full(groups[-1], lengths, place, batch_size):
            groups.append([])
        groups[-1].append(place)
    token = tokenized.pad_id if pad_id is None else pad_id
    return [_padded(tokenized, group, token) for group in groups]


def split(batch: Batch) -> tuple[Batch, Batch]:
    """Two halves of a batch that is too large for memory, each as wide as its longest prompt.

    Raises:
        InputError: the batch is a single prompt.
    """
    if len(batch.index) < 2:
        tokens = batch.tokens
        raise InputError(
            f"out of memory at a single prompt of {tokens} tokens",
            f"shorten prompts with `max_length={max(1, tokens // 2)}`, or use a smaller model",
        )
    middle = len(batch.index) // 2
    return _rows(batch, slice(None, middle)), _rows(batch, slice(middle, None))


def _token_ids(prompt: Prompt, tokenizer: Any, with_template: bool, number: int) -> tuple[int, ...]:
    if not prompt.plain().strip():
        return ()  # a tokenizer's special tokens around nothing are no calibration
    if not with_template:
        # The warning about the tokenizer's own maximum isn't wanted: `context` decides.
        return tuple(tokenizer(prompt.plain(), verbose=False)["input_ids"])
    try:
        options = {"add_generation_prompt": True, "tokenize": True, "return_dict": False}
        return tuple(tokenizer.apply_chat_template(prompt.chat(), **options))
    except Exception as error:  # a template is a program of the model's author: it raises anything
        raise InputError(
            f"the chat template rejects prompt {number + 1}: {error}",
            "change the roles of that prompt's messages, or join them as plain text with "
            "`apply_chat_template=False`",
        ) from error


def _is_full(
    group: list[int], lengths: list[int], place: int, batch_size: int | Literal["auto"]
) -> bool:
    """Whether the prompt at `place`, no longer than any in `group`, needs a batch of its own."""
    if batch_size != "auto":
        return len(group) == batch_size
    longest = lengths[group[0]]
    return (
        len(group) == AUTO_PROMPTS
        or (len(group) + 1) * longest > AUTO_TOKENS
        or 2 * lengths[place] < longest
    )


def _padded(tokenized: TokenizedPrompts, places: list[int], pad_id: int) -> Batch:
    width = max(len(tokenized.ids[place]) for place in places)
    input_ids = torch.full((len(places), width), pad_id, dtype=torch.int64)
    attention_mask = torch.zeros_like(input_ids)
    for row, place in enumerate(places):
        ids = tokenized.ids[place]
        input_ids[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        attention_mask[row, : len(ids)] = 1
    scored = logprobs = None
    if tokenized.scored is not None:
        scored = torch.zeros_like(attention_mask)
        for row, place in enumerate(places):
            each = tokenized.scored[place]
            scored[row, : len(each)] = torch.tensor(each, dtype=torch.int64)
    if tokenized.logprobs is not None:
        logprobs = torch.full((len(places), width), torch.nan, dtype=torch.float64)
        for row, place in enumerate(places):
            known = tokenized.logprobs[place]
            logprobs[row, : len(known)] = torch.tensor(known, dtype=torch.float64)
    index = tuple(tokenized.index[place] for place in places)
    names = tuple(tokenized.fingerprints[place] for place in places)
    return Batch(index, input_ids, attention_mask, names, scored, logprobs)


def _rows(batch: Batch, rows: slice) -> Batch:
    mask = batch.attention_mask[rows]
    width = int(mask.sum(dim=1).max())

    def part(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else values[rows, :width]

    return Batch(
        batch.index[rows],
        batch.input_ids[rows, :width],
        mask[:, :width],
        batch.fingerprints[rows],
        part(batch.scored),
        part(batch.logprobs),
    )
