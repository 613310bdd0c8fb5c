"""Rollouts to tokens, with the response's scored and the prompt as context.

Token ids of the source are used as they are, because the policy sampled those; text is tokenized
again where there are none:

    prompt as messages      the chat template, up to where the model answers
    prompt as text          the tokenizer with its special tokens
    response as text        the tokenizer without special tokens, so without an end of text
    response as messages    the chat template; scored is what it writes for the assistant, up to the
                            end of the turn
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from srdd.errors import InputError
from srdd.prompts.batches import (
    LeftOut,
    TokenizedPrompts,
    check_context,
    check_template,
    check_vocabulary,
    padding_id,
)
from srdd.prompts.rollouts import Rollout, RolloutCounts, RolloutSet

EMPTY = "without a response token"

SHOWN = 3
"""Rows without a rollout that are named in a warning."""


@dataclass(frozen=True)
class _Tokens:
    """One rollout: its ids, which of them are scored, and their log-probabilities, if any."""

    ids: tuple[int, ...]
    scored: tuple[bool, ...]
    logprobs: tuple[float, ...] | None = None

    def cut(self, length: int) -> _Tokens:
        """The first tokens."""
        logprobs = None if self.logprobs is None else self.logprobs[:length]
        return _Tokens(self.ids[:length], self.scored[:length], logprobs)

    @property
    def turns(self) -> int:
        """Runs of scored tokens."""
        before = (False, *self.scored[:-1])
        return sum(now and not then for now, then in zip(self.scored, before, strict=True))


def tokenize_rollouts(
    rollouts: RolloutSet,
    tokenizer: Any,
    *,
    max_length: int | None = None,
    context: int | None = None,
    vocab_size: int | None = None,
    apply_chat_template: bool | None = None,
) -> TokenizedPrompts:
    """Turn each rollout into token ids with the response's scored.

    Arguments:
        max_length: keep at most so many tokens of prompt and response together, the first ones.
        context, vocab_size, apply_chat_template: as of srdd.prompts.batches.tokenize; the template
            is for what has no token ids.

    Raises:
        UsageError: `max_length` is above `context`; there is no chat template to apply.
        InputError: no rollout has a response token; a token id is outside the vocabulary.
    """
    check_context(max_length, context)
    templated = [_is_templated(each, apply_chat_template) for each in rollouts.rollouts]
    if any(templated):
        check_template(tokenizer)
    reader = _Reader(tokenizer)
    index, kept, left_out, truncated = [], [], [], 0
    counts: Counter[str] = Counter()
    for number, rollout, with_template in zip(
        rollouts.index, rollouts.rollouts, templated, strict=True
    ):
        try:
            tokens = reader.tokens(rollout, with_template)
        except InputError as error:
            left_out.append(LeftOut(number, 0, error.message))
            continue
        if max_length is not None and len(tokens.ids) > max_length:
            tokens = tokens.cut(max_length)
            truncated += 1
            reason = f"without a response token among the first {max_length}"
        else:
            reason = EMPTY
        if not any(tokens.scored):
            left_out.append(LeftOut(number, len(tokens.ids), reason))
            counts["empty"] += reason == EMPTY
            continue
        if context is not None and len(tokens.ids) > context:
            reason = f"longer than the model's context of {context} tokens"
            left_out.append(LeftOut(number, len(tokens.ids), reason))
            continue
        check_vocabulary(tokens.ids, rollout.where or f"rollout {number + 1}", vocab_size)
        index.append(number)
        kept.append(tokens)
        counts["truncated"] += rollout.truncated
        counts["multi_turn"] += tokens.turns > 1
        counts["with_ids"] += rollout.response_ids is not None
        counts["differing"] += reader.differs(rollout)
        counts["bare"] += reader.is_bare(rollout, tokens.ids)
        counts["with_logprobs"] += tokens.logprobs is not None
        counts["prompt_tokens"] += len(tokens.ids) - sum(tokens.scored)
    if not kept:
        reasons = Counter(entry.reason for entry in left_out).items()
        raise InputError(
            f"no rollout is left: {', '.join(f'{count} {reason}' for reason, count in reasons)}",
            "give rollouts with a response"
            if max_length is None
            else "give rollouts with a response, or a larger `max_length`",
        )
    unknown = (math.nan,)
    return TokenizedPrompts(
        source=rollouts.source,
        index=tuple(index),
        ids=tuple(each.ids for each in kept),
        truncated=truncated,
        left_out=tuple(left_out),
        chat_template=any(templated),
        pad_id=padding_id(tokenizer, vocab_size),
        scored=tuple(each.scored for each in kept),
        logprobs=tuple(each.logprobs or unknown * len(each.ids) for each in kept)
        if counts["with_logprobs"]
        else None,
        rollouts=RolloutCounts(
            unreadable=len(rollouts.unreadable),
            first_unreadable=rollouts.unreadable[:SHOWN],
            temperature=rollouts.temperature,
            **counts,
        ),
    )


def _is_templated(rollout: Rollout, wanted: bool | None) -> bool:
    """Whether the chat template is needed for a rollout."""
    if rollout.prompt_ids is not None and rollout.response_ids is not None:
        return False
    if wanted is not None:
        return wanted
    texts = (rollout.prompt, rollout.response)
    return any(text is not None and text.messages is not None for text in texts)


class _Reader:
    """Tokenizes rollouts."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._special = frozenset(getattr(tokenizer, "all_special_ids", ()))

    def tokens(self, rollout: Rollout, with_template: bool) -> _Tokens:
        """The tokens of a rollout.

        Raises:
            InputError: the chat template rejects it, or writes later turns in another way.
        """
        if rollout.response_ids is None and with_template and _is_chat(rollout):
            return self._chat(rollout)
        prompt = rollout.prompt_ids
        if prompt is None:
            prompt = self._prompt(rollout, with_template)
        response = rollout.response_ids
        if response is None:
            response = self._plain(rollout.response.plain() if rollout.response else "")
        scored = rollout.mask or (True,) * len(response)
        logprobs = None
        if rollout.logprobs is not None and rollout.response_ids is not None:
            logprobs = (math.nan,) * len(prompt) + rollout.logprobs
        return _Tokens(prompt + response, (False,) * len(prompt) + scored, logprobs)

    def differs(self, rollout: Rollout) -> bool:
        """Whether the response's text gives other token ids than the source has.

        Special tokens at the end do not count: logs usually leave them out of the text.
        """
        if rollout.response_ids is None or rollout.response is None:
            return False
        if rollout.response.messages is not None:
            return False
        return self._trimmed(self._plain(rollout.response.plain())) != self._trimmed(
            rollout.response_ids
        )

    def is_bare(self, rollout: Rollout, ids: tuple[int, ...]) -> bool:
        """Whether the prompt is text that seems to have lost the chat template's special tokens."""
        if (
            rollout.prompt_ids is not None
            or getattr(self._tokenizer, "chat_template", None) is None
        ):
            return False
        # The first token may be one that the tokenizer puts before any text.
        return self._special.isdisjoint(ids[1:])

    def _trimmed(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        end = len(ids)
        while end and ids[end - 1] in self._special:
            end -= 1
        return ids[:end]

    def _plain(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _prompt(self, rollout: Rollout, with_template: bool) -> tuple[int, ...]:
        assert rollout.prompt is not None
        if with_template:
            return self._templated(rollout.prompt.chat(), rollout)
        text = rollout.prompt.plain()
        ids = tuple(self._tokenizer(text, verbose=False)["input_ids"])
        begin = getattr(self._tokenizer, "bos_token_id", None)
        # A log may have written the token out that the tokenizer puts first.
        return ids[1:] if begin is not None and ids[:2] == (begin, begin) else ids

    def _chat(self, rollout: Rollout) -> _Tokens:
        """Both as messages: the assistant's tokens are what each of its messages adds."""
        assert rollout.prompt is not None
        assert rollout.response is not None
        messages = rollout.prompt.chat()
        ids: tuple[int, ...] = ()
        scored: tuple[bool, ...] = ()
        for message in rollout.response.messages or ():
            if message["role"] == "assistant":
                before = self._templated(messages, rollout)
                if before[: len(ids)] != ids:
                    raise InputError(
                        "the chat template writes earlier turns differently once later ones follow",
                        "give token ids of these rollouts",
                    )
                scored += (False,) * (len(before) - len(ids))
                ids = before
            messages = [*messages, message]
            if message["role"] != "assistant":
                continue
            after = self._templated(messages, rollout, answered=True)
            if after[: len(ids)] != ids:
                raise InputError(
                    "the chat template writes an answer differently from where it begins",
                    "give token ids of these rollouts",
                )
            added = self._of_turn(after[len(ids) :])
            ids += added
            scored += (True,) * len(added)
        return _Tokens(ids, scored)

    def _of_turn(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """What the model writes of a turn: up to its last special token, if it has one."""
        ends = [place for place, token in enumerate(ids) if token in self._special]
        return ids[: ends[-1] + 1] if ends else ids

    def _templated(
        self, messages: list[dict[str, str]], rollout: Rollout, answered: bool = False
    ) -> tuple[int, ...]:
        options = {"add_generation_prompt": not answered, "tokenize": True, "return_dict": False}
        try:
            return tuple(self._tokenizer.apply_chat_template(messages, **options))
        except Exception as error:  # a template is a program of its author: it raises anything
            raise InputError(
                f"rejected by the chat template: {error}", "change the roles of its messages"
            ) from error


def _is_chat(rollout: Rollout) -> bool:
    """Whether the response has to go through the template as well."""
    return rollout.response is not None and rollout.response.messages is not None
