"""The policy that reinforcement learning starts from: a small Llama that half solves its sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from experiment.sums import CHARACTERS, encode, split, tokenizer


@dataclass(frozen=True)
class Policy:
    """How the policy is made.

    Attributes:
        hidden, layers: its shape; heads have 16 channels, and two share keys and values.
        steps: of training on questions with their answers, all tokens alike. The default is where
            it solves about half of the sums under W4A4: learning goes fast there.
        batch: questions in a step.
        rate: highest learning rate; it warms up for 50 steps and falls to a tenth (cosine).
        seed: of weights and questions.
    """

    hidden: int = 64
    layers: int = 4
    steps: int = 800
    batch: int = 128
    rate: float = 3e-3
    seed: int = 0


def new(policy: Policy) -> LlamaForCausalLM:
    """The model before training, in float32."""
    torch.manual_seed(policy.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=2 + len(CHARACTERS),
            hidden_size=policy.hidden,
            intermediate_size=2 * policy.hidden,
            num_hidden_layers=policy.layers,
            num_attention_heads=policy.hidden // 16,
            num_key_value_heads=policy.hidden // 32,
            max_position_embeddings=32,
            tie_word_embeddings=True,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=None,
        )
    )


def train(model: nn.Module, policy: Policy, say: Callable[[str], None]) -> None:
    """Train a model on the sums that are not held out, in place."""
    ids = encode(split()[0])
    generator = np.random.default_rng(policy.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=policy.rate, betas=(0.9, 0.95), weight_decay=0.1
    )
    model.train()
    for step in range(policy.steps):
        batch = ids[generator.integers(0, len(ids), policy.batch)]
        cosine = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * step / policy.steps))
        for group in optimizer.param_groups:
            group["lr"] = policy.rate * min(1, (step + 1) / 50) * cosine
        loss = model(input_ids=batch, labels=batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            say(f"training the policy: {step + 1} of {policy.steps} steps, loss {loss.item():.3f}")


def make(folder: Path, policy: Policy, say: Callable[[str], None]) -> None:
    """Train the policy into a folder, unless it lies there already."""
    if (folder / "config.json").exists():
        return
    model = new(policy)
    train(model, policy, say)
    tokenizer().save_pretrained(folder)
    model.save_pretrained(folder)


def load(folder: Path) -> LlamaForCausalLM:
    """The trained policy in float32, trainable."""
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(True)
