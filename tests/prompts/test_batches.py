"""Batches: every token of every prompt exactly once, and padding that changes nothing."""

from __future__ import annotations

import hashlib
import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from srdd.errors import InputError, SrddError, UsageError
from srdd.prompts.batches import (
    AUTO_PROMPTS,
    AUTO_TOKENS,
    Batch,
    LeftOut,
    TokenizedPrompts,
    make_batches,
    padding_id,
    prompt_fingerprint,
    set_fingerprint,
    split,
    tokenize,
)
from srdd.prompts.reading import Prompt, PromptSet, builtin, from_strings

ROLES = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
TEMPLATE = ROLES + "{% if add_generation_prompt %}<assistant>{% endif %}"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def byte_tokenizer(begin: bool = False, **options: Any) -> PreTrainedTokenizerFast:
    """One token a byte, with ids from 3, after <pad>, <bos> and <eos>; "a" is 67, "z" is 92."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pad, bos, eos = "<pad>", "<bos>", "<eos>"
    vocab = {token: n for n, token in enumerate([pad, bos, eos, *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if begin:
        inner.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, **options)


PLAIN = byte_tokenizer()


def text_of(ids: tuple[int, ...]) -> str:
    """What the byte tokenizer made the ids from, special tokens left out."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    return "".join(alphabet[i - 3] for i in ids if i > 2).replace("Ġ", " ")


def prompts_of(lengths: list[int], first: int = 0) -> TokenizedPrompts:
    """Prompts of the given lengths with ids that differ from each other and from padding."""
    ids = tuple(tuple(range(1 + n, 1 + n + length)) for n, length in enumerate(lengths))
    index = tuple(range(first, first + len(lengths)))
    return TokenizedPrompts("test", index, ids, 0, ())


def refusal(prompts: PromptSet, tokenizer: Any = PLAIN, **options: Any) -> SrddError:
    """The error that tokenizing ends with."""
    with pytest.raises(SrddError) as caught:
        tokenize(prompts, tokenizer, **options)
    assert caught.value.hint
    return caught.value


# Tokens


def test_prompts_keep_their_order_and_their_global_index() -> None:
    halves = PromptSet("file", (Prompt(text="first"), Prompt(text="second one")), first=7)
    tokenized = tokenize(halves, PLAIN)
    assert [text_of(ids) for ids in tokenized.ids] == ["first", "second one"]
    assert tokenized.index == (7, 8)
    assert tokenized.source == "file"
    assert tokenized.tokens == len("first") + len("second one")
    assert (tokenized.truncated, tokenized.left_out) == (0, ())


def test_the_special_tokens_that_a_tokenizer_adds_are_kept() -> None:
    ids = tokenize(from_strings(["hi"]), byte_tokenizer(begin=True)).ids[0]
    assert ids[0] == 1
    assert text_of(ids) == "hi"


def test_without_the_template_a_chat_is_tokenized_as_its_contents() -> None:
    tokenizer = byte_tokenizer(chat_template=TEMPLATE)
    tokenized = tokenize(from_strings([CHAT]), tokenizer, apply_chat_template=False)
    assert tokenized == tokenize(from_strings(["Be brief.\nHello"]), tokenizer)
    assert not tokenized.chat_template


def test_by_default_chats_get_the_template_and_plain_text_does_not() -> None:
    tokenizer = byte_tokenizer(chat_template=TEMPLATE)
    tokenized = tokenize(from_strings([CHAT, "Hi"]), tokenizer)
    assert [text_of(ids) for ids in tokenized.ids] == [
        "<system>Be brief.<user>Hello<assistant>",
        "Hi",
    ]
    assert tokenized.chat_template


@pytest.mark.parametrize(("prompt", "apply"), [(CHAT, None), (CHAT, True), ("Hi", True)])
def test_a_missing_chat_template_is_reported(prompt: Any, apply: bool | None) -> None:
    error = refusal(from_strings(["Hi", prompt]), apply_chat_template=apply)
    assert isinstance(error, UsageError)
    assert "apply_chat_template=False" in error.hint


def test_without_a_chat_template_messages_can_be_joined_as_plain_text() -> None:
    joined = tokenize(from_strings([CHAT]), PLAIN, apply_chat_template=False)
    assert joined.ids == tokenize(from_strings(["Be brief.\nHello"]), PLAIN).ids


def test_a_chat_template_is_written_up_to_the_answer() -> None:
    tokenizer = byte_tokenizer(chat_template=TEMPLATE)
    tokenized = tokenize(from_strings([CHAT, "Hi"]), tokenizer, apply_chat_template=True)
    assert [text_of(ids) for ids in tokenized.ids] == [
        "<system>Be brief.<user>Hello<assistant>",
        "<user>Hi<assistant>",
    ]
    assert all(isinstance(token, int) for token in tokenized.ids[0])


def test_with_a_chat_template_only_the_template_adds_special_tokens() -> None:
    tokenizer = byte_tokenizer(begin=True, chat_template="{{ bos_token }}" + TEMPLATE)
    ids = tokenize(from_strings(["Hi"]), tokenizer, apply_chat_template=True).ids[0]
    assert ids.count(1) == 1


def test_a_chat_that_the_template_rejects_is_named() -> None:
    strict = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    tokenizer = byte_tokenizer(chat_template=strict)
    error = refusal(from_strings(["Hi", CHAT]), tokenizer, apply_chat_template=True)
    assert isinstance(error, InputError)
    assert error.message == "the chat template rejects prompt 2: no system"
    broken = byte_tokenizer(chat_template="{{ x ")
    assert (
        "unexpected end" in refusal(from_strings(["Hi"]), broken, apply_chat_template=True).message
    )


def test_prompts_are_cut_to_their_first_tokens() -> None:
    tokenized = tokenize(from_strings(["abcdef", "abc", "ab"]), PLAIN, max_length=3, context=3)
    assert [text_of(ids) for ids in tokenized.ids] == ["abc", "abc", "ab"]
    assert tokenized.truncated == 1
    assert tokenized.left_out == ()


def test_prompts_longer_than_the_context_are_left_out_with_their_reason() -> None:
    tokenized = tokenize(from_strings(["abcdef", "abcde", "ab"]), PLAIN, context=5)
    assert tokenized.index == (1, 2)
    reason = "longer than the model's context of 5 tokens"
    assert tokenized.left_out == (LeftOut(0, 6, reason),)


@pytest.mark.parametrize("begin", [False, True])
def test_blank_prompts_are_left_out_even_if_a_special_token_would_be_added(begin: bool) -> None:
    tokenized = tokenize(from_strings(["", "ab", " \n"]), byte_tokenizer(begin=begin))
    assert tokenized.index == (1,)
    assert tokenized.left_out == (
        LeftOut(0, 0, "without any token"),
        LeftOut(2, 0, "without any token"),
    )


def test_a_tokenizer_that_makes_nothing_of_a_prompt_leaves_it_out() -> None:
    words = Tokenizer(models.WordLevel({"known": 0}, unk_token="?"))
    words.pre_tokenizer = pre_tokenizers.CharDelimiterSplit("-")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)
    assert tokenize(from_strings(["-", "known"]), tokenizer).index == (1,)


def test_nothing_but_prompts_longer_than_the_context_is_refused() -> None:
    error = refusal(from_strings(["abcdef", "abcd"]), context=3)
    assert isinstance(error, InputError)
    assert error.message == "no prompt is left: 2 longer than the model's context of 3 tokens"
    assert error.hint == "cut them with `max_length=3`"
    tokenize(from_strings(["abcdef", "abcd"]), PLAIN, context=3, max_length=3)


def test_nothing_but_blank_prompts_is_refused() -> None:
    error = refusal(from_strings([" ", ""]))
    assert isinstance(error, InputError)
    assert error.message == "no prompt is left: 2 without any token"
    assert error.hint == "give prompts that aren't blank"


def test_a_mixture_of_reasons_is_listed() -> None:
    error = refusal(from_strings([" ", "abcdef"]), context=3)
    assert error.message.startswith("no prompt is left: 1 without any token, 1 longer than")


def test_a_maximal_length_beyond_the_context_is_refused() -> None:
    error = refusal(from_strings(["a"]), max_length=9, context=8)
    assert isinstance(error, UsageError)
    assert error.message == "`max_length` 9 is more than the model's context of 8 tokens"
    assert error.hint == "use `max_length` 8 or less"


def test_a_tokenizer_of_another_model_is_detected() -> None:
    error = refusal(from_strings(["a", "z"]), vocab_size=92)
    assert isinstance(error, InputError)
    assert error.message == (
        "prompt 2 has token id 92, but the model knows only ids below 92:"
        " the tokenizer is of another model"
    )
    assert "trained with" in error.hint
    tokenize(from_strings(["a", "z"]), PLAIN, vocab_size=93)


def test_the_warning_of_the_tokenizer_about_long_texts_is_not_shown() -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        tokenize(from_strings(["a" * 100]), byte_tokenizer(model_max_length=8))
    finally:
        logger.removeHandler(handler)
    assert said == []


def test_the_builtin_prompts_are_enough_for_a_scan() -> None:
    tokenized = tokenize(builtin(), PLAIN)
    assert len(tokenized.ids) == len(builtin().prompts)
    assert tokenize(builtin(limit=8), PLAIN, context=128).left_out == ()


# Fingerprints


def test_a_fingerprint_is_the_hash_of_the_ids_as_little_endian_int64() -> None:
    raw = b"\x01\0\0\0\0\0\0\0" + b"\0\x01\0\0\0\0\0\0"
    assert prompt_fingerprint((1, 256)) == hashlib.sha256(raw).hexdigest()[:16]
    assert prompt_fingerprint(()) == hashlib.sha256(b"").hexdigest()[:16]


def test_the_fingerprint_of_two_halves_follows_from_their_prompts() -> None:
    whole = tokenize(from_strings(["a", "b", "c"]), PLAIN)
    front = tokenize(from_strings(["a"]), PLAIN)
    back = tokenize(from_strings(["b", "c"]), PLAIN)
    assert set_fingerprint([*front.fingerprints, *back.fingerprints]) == whole.fingerprint
    assert len(whole.fingerprint) == 64


def test_order_and_cutting_change_the_fingerprint() -> None:
    variants = [["ab", "c"], ["c", "ab"], ["a", "c"], ["ab"]]
    fingerprints = {tokenize(from_strings(variant), PLAIN).fingerprint for variant in variants}
    assert len(fingerprints) == len(variants)


# Padding


@pytest.mark.parametrize(
    ("special", "vocab_size", "expected"),
    [
        ({"pad_token": "<pad>", "eos_token": "<eos>"}, None, 0),
        ({"eos_token": "<eos>"}, None, 2),
        ({}, None, 0),
        ({"pad_token": "<added>", "eos_token": "<eos>"}, 259, 2),
        ({"pad_token": "<added>"}, 259, 0),
    ],
    ids=["padding", "end of text", "neither", "not in the embedding", "none in the embedding"],
)
def test_padding_is_always_a_token_that_the_model_has(
    special: dict[str, Any], vocab_size: int | None, expected: int
) -> None:
    assert padding_id(byte_tokenizer(**special), vocab_size) == expected


def test_padding_gives_real_tokens_what_they_get_alone() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = LlamaForCausalLM(config).eval()
    tokenized = prompts_of([3, 9, 1, 5])
    with torch.no_grad():
        (together,) = make_batches(tokenized, 4, pad_id=299)
        logits = model(input_ids=together.input_ids, attention_mask=together.attention_mask).logits
        for row, index in enumerate(together.index):
            alone = model(input_ids=torch.tensor([tokenized.ids[index]])).logits[0]
            assert torch.allclose(logits[row, : len(alone)], alone, atol=1e-6)


# Batches


def assert_whole(batches: list[Batch], tokenized: TokenizedPrompts, pad_id: int) -> None:
    """Every prompt is in exactly one batch, with all its tokens on the left and padding behind."""
    seen = {}
    for batch in batches:
        assert batch.input_ids.dtype == batch.attention_mask.dtype == torch.int64
        assert batch.input_ids.shape == batch.attention_mask.shape
        assert batch.input_ids.shape == (len(batch.index), max(batch.lengths))
        assert batch.tokens == int(batch.attention_mask.sum())
        rows = zip(
            batch.index, batch.input_ids.tolist(), batch.attention_mask.tolist(), strict=True
        )
        for index, ids, mask in rows:
            length = sum(mask)
            assert mask == [1] * length + [0] * (len(mask) - length)
            assert ids[length:] == [pad_id] * (len(ids) - length)
            assert index not in seen
            seen[index] = tuple(ids[:length])
    assert seen == dict(zip(tokenized.index, tokenized.ids, strict=True))


LENGTHS = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 6000)), min_size=1, max_size=120)
SIZES = st.one_of(st.just("auto"), st.integers(1, 20))


@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS, batch_size=SIZES, first=st.integers(0, 1000))
def test_every_prompt_is_in_exactly_one_batch_with_all_its_tokens(
    lengths: list[int], batch_size: Any, first: int
) -> None:
    tokenized = prompts_of(lengths, first)
    batches = make_batches(tokenized, batch_size, pad_id=0)
    assert_whole(batches, tokenized, pad_id=0)
    if batch_size != "auto":
        full = [len(batch.index) for batch in batches[:-1]]
        assert full == [batch_size] * len(full)
        assert len(batches[-1].index) <= batch_size


@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS)
def test_automatic_batches_are_bounded_in_size_and_in_padding(lengths: list[int]) -> None:
    for batch in make_batches(prompts_of(lengths)):
        assert len(batch.index) <= AUTO_PROMPTS
        assert batch.input_ids.numel() <= AUTO_TOKENS or len(batch.index) == 1
        assert batch.input_ids.numel() <= 2 * batch.tokens


@settings(deadline=None, max_examples=60)
@given(lengths=LENGTHS, batch_size=SIZES)
def test_the_longest_prompts_come_first_and_equal_ones_in_prompt_order(
    lengths: list[int], batch_size: Any
) -> None:
    dealt = [
        index for batch in make_batches(prompts_of(lengths), batch_size) for index in batch.index
    ]
    assert dealt == sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))


def test_automatic_batches_of_equal_prompts_are_as_large_as_allowed() -> None:
    by_tokens = make_batches(prompts_of([AUTO_TOKENS // 8] * 20))
    assert [len(batch.index) for batch in by_tokens] == [8, 8, 4]
    by_prompts = make_batches(prompts_of([2] * (AUTO_PROMPTS + 1)))
    assert [len(batch.index) for batch in by_prompts] == [AUTO_PROMPTS, 1]


# Halving


@settings(deadline=None, max_examples=60)
@given(lengths=st.lists(st.integers(1, 60), min_size=2, max_size=9))
def test_halving_a_batch_loses_nothing_and_pads_no_wider_than_needed(lengths: list[int]) -> None:
    tokenized = prompts_of(lengths)
    (batch,) = make_batches(tokenized, len(lengths), pad_id=0)
    front, back = split(batch)
    assert front.index + back.index == batch.index
    assert 0 <= len(back.index) - len(front.index) <= 1
    assert_whole([front, back], tokenized, pad_id=0)


def test_a_single_prompt_cannot_be_halved() -> None:
    (batch,) = make_batches(prompts_of([40]))
    with pytest.raises(InputError) as caught:
        split(batch)
    assert caught.value.message == "out of memory at a single prompt of 40 tokens"
    assert caught.value.hint.startswith("shorten prompts with `max_length=20")
