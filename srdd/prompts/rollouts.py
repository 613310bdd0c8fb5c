"""Rollouts: prompts with the responses that a policy sampled to them.

A rollout is given as text, as chat messages or as token ids, in the last case with the
log-probabilities of the program that sampled it where they were kept. Token ids are what the policy
saw; text has to be tokenized again, which can give others.

    file ──► srdd.prompts.rollout_files ──► RolloutSet ──► srdd.prompts.responses ──► tokens

Of a rollout, figures are taken over response tokens only: the tokens of the response, or those of
them that its mask names. In a rollout of several turns the mask leaves out what tools and users
said. The prompt is context.
"""

from __future__ import annotations

from dataclasses import dataclass

from srdd.prompts.reading import Prompt


@dataclass(frozen=True)
class Rollout:
    """One prompt and the response to it. Text, token ids or both may be known of each.

    Attributes:
        prompt: text or chat messages; None where only token ids are known.
        response: text, or the chat messages that follow the prompt's: those of role `assistant` are
            the policy's. None where only token ids are known.
        prompt_ids: token ids of the prompt.
        response_ids: token ids of the response.
        mask: of the response's token ids, which the policy sampled; None for all of them.
        logprobs: of the response's token ids, natural logarithms of the probabilities that the
            sampling program gave to them, NaN where one is not known; None where none is.
        truncated: whether sampling ended at a limit of tokens, and not by the policy's choice.
        where: the line or row that it is from, for messages.
    """

    prompt: Prompt | None = None
    response: Prompt | None = None
    prompt_ids: tuple[int, ...] | None = None
    response_ids: tuple[int, ...] | None = None
    mask: tuple[bool, ...] | None = None
    logprobs: tuple[float, ...] | None = None
    truncated: bool = False
    where: str = ""


@dataclass(frozen=True)
class RolloutSet:
    """Rollouts in the order of their source.

    Attributes:
        source: the file as it was named, `stdin`, `python`, or what generated them.
        rollouts: at least one.
        index: the 0-based place of each rollout in the source, ascending; rows that were left out
            have places, too.
        unreadable: of each row that was left out, why, with its line.
        temperature: of the sampling distribution that the log-probabilities are of; None where that
            is not known.
    """

    source: str
    rollouts: tuple[Rollout, ...]
    index: tuple[int, ...]
    unreadable: tuple[str, ...] = ()
    temperature: float | None = None


@dataclass(frozen=True)
class RolloutCounts:
    """What became of the rollouts of a source when they were tokenized.

    Attributes:
        unreadable: rows of the source that are no rollout.
        first_unreadable: why the first few of them are not, with their lines.
        empty: rollouts without a response token, which are not used.
        truncated: used rollouts whose sampling ended at a limit of tokens.
        multi_turn: used rollouts with context between response tokens.
        with_ids: used rollouts of which the source has the response's token ids.
        differing: of those, rollouts whose response text gives other token ids.
        bare: used rollouts whose prompt is text without any special token, although the tokenizer
            has a chat template.
        with_logprobs: used rollouts with log-probabilities.
        prompt_tokens: context tokens of the used rollouts.
        temperature: as in RolloutSet.
    """

    unreadable: int = 0
    first_unreadable: tuple[str, ...] = ()
    empty: int = 0
    truncated: int = 0
    multi_turn: int = 0
    with_ids: int = 0
    differing: int = 0
    bare: int = 0
    with_logprobs: int = 0
    prompt_tokens: int = 0
    temperature: float | None = None
