"""Rollouts to tokens: which tokens are the response's, against templates written out by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from srdd.errors import InputError
from srdd.prompts.batches import make_batches
from srdd.prompts.reading import Prompt
from srdd.prompts.responses import tokenize_rollouts
from srdd.prompts.rollouts import Rollout, RolloutSet

TEMPLATE = (
    "{% for m in messages %}<bos>{{ m.role }}:{{ m.content }}"
    "{% if m.role == 'assistant' %}<eos>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<bos>assistant:{% endif %}"
)


@pytest.fixture
def chatting(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    other = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
    )
    other.chat_template = TEMPLATE
    return other


def chat(*turns: str) -> Prompt:
    roles = (turn.split(":", 1) for turn in turns)
    return Prompt(messages=tuple({"role": role, "content": text} for role, text in roles))


def sets(*rollouts: Rollout) -> RolloutSet:
    return RolloutSet("test", rollouts, tuple(range(len(rollouts))))


def text_of(tokenizer: Any, ids: Any) -> str:
    """What byte tokens were made from; the fixture has no decoder."""
    return "".join(tokenizer.convert_ids_to_tokens(ids)).replace("Ġ", " ").replace("Ċ", "\n")


def split(tokenizer: Any, rollout: Rollout, **options: Any) -> tuple[str, str, list[str]]:
    """The text before the response, that of scored tokens, and the runs of scored tokens."""
    tokenized = tokenize_rollouts(sets(rollout), tokenizer, **options)
    assert tokenized.scored is not None
    ids, scored = tokenized.ids[0], tokenized.scored[0]
    runs: list[list[int]] = []
    for place, (token, each) in enumerate(zip(ids, scored, strict=True)):
        if each:
            if place == 0 or not scored[place - 1]:
                runs.append([])
            runs[-1].append(token)
    texts = [text_of(tokenizer, run) for run in runs]
    first = scored.index(True)
    return text_of(tokenizer, ids[:first]), "".join(texts), texts


def test_text_after_text(tokenizer: Any) -> None:
    rollout = Rollout(prompt=Prompt(text="2+2="), response=Prompt(text="4, of course"))
    assert split(tokenizer, rollout)[:2] == ("2+2=", "4, of course")


def test_text_after_messages_goes_through_the_template_up_to_the_answer(chatting: Any) -> None:
    rollout = Rollout(prompt=chat("user:2+2"), response=Prompt(text="4"))
    assert split(chatting, rollout)[:2] == ("<bos>user:2+2<bos>assistant:", "4")


def test_messages_after_messages_end_with_the_turn(chatting: Any) -> None:
    rollout = Rollout(prompt=chat("user:2+2"), response=chat("assistant:4"))
    assert split(chatting, rollout)[:2] == ("<bos>user:2+2<bos>assistant:", "4<eos>")


def test_several_turns_leave_out_what_others_said(chatting: Any) -> None:
    rollout = Rollout(
        prompt=chat("system:Be brief", "user:2+2"),
        response=chat("assistant:calc", "tool:4", "assistant:It is 4", "user:thanks"),
    )
    before, _, runs = split(chatting, rollout)
    assert before == "<bos>system:Be brief<bos>user:2+2<bos>assistant:"
    assert runs == ["calc<eos>", "It is 4<eos>"]
    tokenized = tokenize_rollouts(sets(rollout), chatting)
    assert tokenized.rollouts is not None
    assert tokenized.rollouts.multi_turn == 1
    assert text_of(chatting, tokenized.ids[0]) == (
        "<bos>system:Be brief<bos>user:2+2<bos>assistant:calc<eos>\n<bos>tool:4"
        "<bos>assistant:It is 4<eos>"
    )


def test_a_template_that_rewrites_earlier_turns_leaves_the_rollout_out(chatting: Any) -> None:
    chatting.chat_template = (
        "{% for m in messages %}{{ m.role }}:"
        "{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    two = Rollout(prompt=chat("user:a"), response=chat("assistant:b", "user:c", "assistant:d"))
    single = Rollout(prompt=chat("user:a"), response=chat("assistant:b"))
    tokenized = tokenize_rollouts(sets(two, single), chatting)
    assert tokenized.index == (1,)
    assert "writes earlier turns differently" in tokenized.left_out[0].reason


def test_token_ids_beat_text_and_the_difference_is_counted(tokenizer: Any) -> None:
    ids = tuple(tokenizer("4")["input_ids"])
    same = Rollout(
        prompt_ids=(10, 11), response_ids=(*ids, tokenizer.eos_token_id), response=Prompt(text="4")
    )
    other = Rollout(prompt_ids=(10, 11), response_ids=(90, 91), response=Prompt(text="4"))
    tokenized = tokenize_rollouts(sets(same, other), tokenizer)
    assert tokenized.ids == ((10, 11, *ids, tokenizer.eos_token_id), (10, 11, 90, 91))
    assert tokenized.rollouts is not None
    assert (tokenized.rollouts.with_ids, tokenized.rollouts.differing) == (2, 1)


def test_masks_and_log_probabilities_stay_with_their_tokens(tokenizer: Any) -> None:
    rollout = Rollout(
        prompt_ids=(10, 11, 12),
        response_ids=(20, 21, 22),
        mask=(True, False, True),
        logprobs=(-0.5, 0.0, -0.25),
        truncated=True,
    )
    plain = Rollout(prompt_ids=(5,), response_ids=(6, 7))
    tokenized = tokenize_rollouts(sets(rollout, plain), tokenizer)
    assert tokenized.scored == (
        (False, False, False, True, False, True),
        (False, True, True),
    )
    assert tokenized.logprobs is not None
    assert tokenized.logprobs[0][3:] == (-0.5, 0.0, -0.25)
    assert all(map(math.isnan, (*tokenized.logprobs[0][:3], *tokenized.logprobs[1])))
    counts = tokenized.rollouts
    assert counts is not None
    assert (counts.truncated, counts.multi_turn, counts.with_logprobs) == (1, 1, 1)
    assert counts.prompt_tokens == 5
    assert tokenized.scored_tokens == 4
    batch = make_batches(tokenized)[0]
    assert batch.logprobs is not None
    assert batch.logprobs[0, 3] == -0.5


def test_empty_and_cut_and_long_rollouts_are_left_out_with_reasons(tokenizer: Any) -> None:
    empty = Rollout(prompt=Prompt(text="abc"), response=Prompt(text=""))
    masked = Rollout(prompt_ids=(5,), response_ids=(6,), mask=(False,))
    long = Rollout(prompt_ids=(5,) * 9, response_ids=(6,))
    good = Rollout(prompt_ids=(5,), response_ids=(6, 7, 8, 9))
    tokenized = tokenize_rollouts(sets(empty, masked, long, good), tokenizer, context=9)
    assert tokenized.index == (3,)
    assert [entry.reason for entry in tokenized.left_out] == [
        "without a response token",
        "without a response token",
        "longer than the model's context of 9 tokens",
    ]
    assert tokenized.rollouts is not None
    assert tokenized.rollouts.empty == 2
    cut = tokenize_rollouts(sets(long, good), tokenizer, max_length=3)
    assert cut.ids == ((5, 6, 7),)
    assert cut.truncated == 2
    assert "among the first 3" in cut.left_out[0].reason
    with pytest.raises(InputError, match="no rollout is left: 1 without a response token"):
        tokenize_rollouts(sets(empty), tokenizer)


def test_a_begin_token_that_the_log_wrote_out_is_not_doubled(tokenizer: Any) -> None:
    from prompts.test_batches import byte_tokenizer

    begins = byte_tokenizer(begin=True)
    rollout = Rollout(prompt=Prompt(text="<bos>ab"), response=Prompt(text="c"))
    assert tokenize_rollouts(sets(rollout), begins).ids[0][:2] == (1, 67)
    plain = Rollout(prompt=Prompt(text="ab"), response=Prompt(text="c"))
    assert (
        tokenize_rollouts(sets(plain), begins).ids == tokenize_rollouts(sets(rollout), begins).ids
    )


def test_a_token_that_the_model_does_not_know_is_named_with_its_line(tokenizer: Any) -> None:
    rollout = Rollout(prompt_ids=(1,), response_ids=(900,), where="line 7 of x.jsonl")
    with pytest.raises(InputError, match=r"line 7 of x.jsonl has token id 900"):
        tokenize_rollouts(sets(rollout), tokenizer, vocab_size=300)


def test_prompts_that_lost_the_special_tokens_of_the_template_are_counted(chatting: Any) -> None:
    bare = Rollout(prompt=Prompt(text="user\n2+2\nassistant\n"), response=Prompt(text="4"))
    kept = Rollout(prompt=Prompt(text="<bos>user:2+2<bos>assistant:"), response=Prompt(text="4"))
    chats = Rollout(prompt=chat("user:2+2"), response=Prompt(text="4"))
    ids = Rollout(prompt_ids=(70, 71), response_ids=(72,))
    counts = tokenize_rollouts(sets(bare, kept, chats, ids), chatting).rollouts
    assert counts is not None
    assert counts.bare == 1
