"""Additions with a verifiable answer: `27+58=` is right if what follows is `085` and the end.

All 10,000 sums of two numbers below 100, one token a character. A fifth of them, chosen by a fixed
seed, is held out: neither the model's first training nor reinforcement learning sees them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import PreTrainedTokenizerFast

BELOW = 100
HELD_OUT = 2000
PAD, END = "<pad>", "<eos>"
CHARACTERS = "0123456789+="
PROMPT, ANSWER = 6, 3
"""Tokens of a question and of its answer, without the end token."""


@dataclass(frozen=True)
class Sum:
    """One question."""

    a: int
    b: int

    @property
    def prompt(self) -> str:
        return f"{self.a:02}+{self.b:02}="

    @property
    def answer(self) -> str:
        return f"{self.a + self.b:03}"


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, besides padding and the end token."""
    vocabulary = {token: number for number, token in enumerate([PAD, END, *CHARACTERS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=PAD))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token=PAD, eos_token=END)


def split() -> tuple[list[Sum], list[Sum]]:
    """Sums to train on, and sums that are held out."""
    order = np.random.default_rng(1).permutation(BELOW * BELOW)
    sums = [Sum(*divmod(int(number), BELOW)) for number in order]
    return sums[HELD_OUT:], sums[:HELD_OUT]


def encode(sums: Sequence[Sum]) -> torch.Tensor:
    """Questions with their answers and the end token, (sums, 10) token ids."""
    numbers = {token: number for number, token in enumerate([PAD, END, *CHARACTERS])}
    rows = [[*(numbers[c] for c in each.prompt + each.answer), numbers[END]] for each in sums]
    return torch.tensor(rows)


def rewards(completions: Sequence[str], answer: Sequence[str], **rest: object) -> list[float]:
    """1 for a completion that is the right answer and nothing else, otherwise 0."""
    return [float(given == right) for given, right in zip(completions, answer, strict=True)]


@torch.no_grad()
def scores(model: nn.Module, sums: Sequence[Sum], batch: int = 500) -> dict[str, float]:
    """How many sums a model solves, exactly and without generating anything.

    Greedy decoding answers a question right if and only if the right token is the likeliest after
    the question and each correct beginning of the answer; so one pass over the right answers says
    it. The probability that sampling answers right is the product of these tokens' probabilities.

    Returns:
        `accuracy`: share that greedy decoding answers right; `reward`: mean probability that a
        sampled completion is right, at temperature 1.
    """
    right, probability = 0.0, 0.0
    for ids in encode(sums).split(batch):
        logits = model(input_ids=ids).logits[:, PROMPT - 1 : -1].double()
        target = ids[:, PROMPT:]
        right += float((logits.argmax(-1) == target).all(1).sum())
        chosen = logits.log_softmax(-1).gather(-1, target[..., None])[..., 0]
        probability += float(chosen.sum(1).exp().sum())
    return {"accuracy": right / len(sums), "reward": probability / len(sums)}
