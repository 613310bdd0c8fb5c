"""Train small models of several architectures, on which srdd's estimates are checked.

The text is the sources of Python's standard library, read as bytes: a vocabulary of 259 needs no
tokenizer to be trained. Every model sees the same windows in the same order. Each takes a minute or
two on one core, which is enough to learn the spelling and the layout of Python; what matters here
is that the weights are trained ones.

    gpt2     layer norms with biases, one projection for q, k and v, weights stored as (in, out)
    llama    RMS norms, grouped queries, SwiGLU
    mixtral  a mixture of four experts, two a token, stacked in one parameter
    gemma    norms before and after each block, on queries and keys, gains stored minus one
    heavy    Llama with a heavy-tailed embedding and norm gains: a few channels carry most energy

    python examples/train_small_models.py --out build/small-models

A model that is there already is not trained again. benchmarks/sensitivity.py reads them.
"""

from __future__ import annotations

import math
import sysconfig
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from train_demo_model import batch_at, read_library
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = ("<pad>", "<bos>", "<eos>")

SIZES: dict[str, Any] = {
    "vocab_size": 256 + len(SPECIAL),
    "hidden_size": 96,
    "intermediate_size": 256,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": (
        "GPT2Config",
        {
            "vocab_size": SIZES["vocab_size"],
            "n_embd": 96,
            "n_layer": 6,
            "n_head": 4,
            "n_positions": 512,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
    "llama": ("LlamaConfig", SIZES),
    "mixtral": (
        "MixtralConfig",
        SIZES
        | {"num_hidden_layers": 4, "num_local_experts": 4, "intermediate_size": 128}
        | {"sliding_window": None},
    ),
    "gemma": ("Gemma3TextConfig", SIZES | {"head_dim": 32, "sliding_window": 512}),
    "heavy": ("LlamaConfig", SIZES),
}
"""name -> class of the configuration in transformers, and its arguments."""


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, after the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *alphabet])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """Texts -> one stream of token ids (tokens,)."""
    encodings = tokenizer.backend_tokenizer.encode_batch(texts)
    return np.concatenate([np.array(each.ids, dtype=np.int64) for each in encodings])


def new_model(name: str, seed: int) -> PreTrainedModel:
    """The model before training; of `heavy`, with a few loud channels."""
    config_class, options = CONFIGS[name]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(
        getattr(transformers, config_class)(**options), dtype=torch.float32
    )
    if name == "heavy":
        generator = np.random.default_rng(seed)
        hidden = SIZES["hidden_size"]
        loud = torch.from_numpy(np.abs(generator.standard_t(1.5, hidden)) + 0.3).float()
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(loud)
            for layer in model.model.layers:
                layer.input_layernorm.weight.mul_(loud.sqrt())
    return model


def train(model: PreTrainedModel, ids: np.ndarray, steps: int, seed: int) -> float:
    """AdamW with a cosine schedule; returns the mean loss of the last 20 steps, nats a byte."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.95),
    )
    losses = []
    model.train()
    for step in range(steps):
        warm = min(1.0, (step + 1) / 40)
        rate = 4e-3 * warm * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * step / steps)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        windows = batch_at(ids, step, seed, batch=16, context=128)
        loss = model(input_ids=windows, labels=windows, use_cache=False).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if step % 100 == 99:
            typer.echo(f"  step {step + 1}: {np.mean(losses[-20:]):.3f} nats a byte", err=True)
    model.eval()
    return float(np.mean(losses[-20:]))


def main(
    out: Annotated[Path, typer.Option(help="Folder for the models.")] = Path("build/small-models"),
    only: Annotated[list[str] | None, typer.Option(help="Train only these.")] = None,
    steps: Annotated[int, typer.Option(help="Steps of 16 windows of 128 bytes.")] = 400,
    seed: Annotated[int, typer.Option(help="Seed of weights and windows.")] = 0,
) -> None:
    """Train the models that are not there yet."""
    tokenizer = byte_tokenizer()
    ids = None
    for name in only or CONFIGS:
        folder = out / name
        if (folder / "config.json").exists():
            typer.echo(f"{name} is there already", err=True)
            continue
        if ids is None:
            ids = encode(tokenizer, read_library(Path(sysconfig.get_paths()["stdlib"]))[0])
        started = time.monotonic()
        model = new_model(name, seed)
        loss = train(model, ids, steps, seed)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        minutes = (time.monotonic() - started) / 60
        typer.echo(f"{name}: {loss:.3f} nats a byte after {steps} steps, {minutes:.1f} minutes")


if __name__ == "__main__":
    typer.run(main)
