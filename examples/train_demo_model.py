"""Train the demo model that ships in srdd/model/demo: a small Qwen2-style causal language model.

The text is what every Python installation has: the sources and docstrings of the standard
library. About one file in twenty, chosen by a hash of its name, is held out. The held-out loss is
printed next to that of a unigram and an interpolated bigram model of the same split, because a
loss alone says nothing.

    python examples/train_demo_model.py --out my-demo-model

Interrupt it whenever you like: the same command goes on from the last checkpoint. The order of the
batches follows from --seed and the step number alone, so a resumed run sees what an unbroken run
would have seen.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import sysconfig
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

END = "<|endoftext|>"
# Tests, tables of code points and generated build settings teach nothing about Python text, and
# the last of these holds paths of the machine it was built on.
LEFT_OUT = {"test", "tests", "idle_test", "encodings", "site-packages", "dist-packages", "_bundled"}

console = Console(stderr=True)


def is_held_out(name: str) -> bool:
    """About one file in twenty, by name, so that the split does not depend on the machine."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 20 == 0


def read_library(root: Path) -> tuple[list[str], list[str]]:
    """Sources below `root` -> (training files, held-out files), each in order of name."""
    kept: list[str] = []
    held_out: list[str] = []
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if LEFT_OUT & set(name.split("/")[:-1]) or name.startswith(("_sysconfigdata", "config-")):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        (held_out if is_held_out(name) else kept).append(text)
    return kept, held_out


def train_tokenizer(texts: list[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over `texts`; every string can be encoded, and decoding gives it back."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=[END],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END,
        pad_token=END,
        model_max_length=1024,
        clean_up_tokenization_spaces=False,
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> np.ndarray:
    """Texts -> one stream of token ids (tokens,), each text closed by the end token."""
    backend = tokenizer.backend_tokenizer
    end = int(tokenizer.convert_tokens_to_ids(END))
    ids: list[int] = []
    for encoding in backend.encode_batch(texts):
        ids.extend(encoding.ids)
        ids.append(end)
    return np.array(ids, dtype=np.int64)


def count_losses(train: np.ndarray, held_out: np.ndarray, vocabulary: int) -> tuple[float, float]:
    """Held-out loss in nats per token of a unigram and of an interpolated bigram model.

    The bigram is p(b|a) = w * count(ab) / count(a) + (1 - w) * p(b), with the weight w that suits
    the held-out text best. Choosing w there flatters the bigram, so beating it means something.
    """
    counts = np.bincount(train, minlength=vocabulary) + 1.0
    unigram = counts / counts.sum()
    unigram_loss = float(-np.log(unigram[held_out]).mean())

    pairs, pair_counts = np.unique(train[:-1] * vocabulary + train[1:], return_counts=True)
    seen = np.bincount(train[:-1], minlength=vocabulary)
    wanted = held_out[:-1] * vocabulary + held_out[1:]
    place = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    joint = np.where(pairs[place] == wanted, pair_counts[place], 0)
    conditional = joint / np.maximum(seen[held_out[:-1]], 1)
    base = unigram[held_out[1:]]
    losses = [
        float(-np.log(w * conditional + (1 - w) * base).mean()) for w in np.arange(0.05, 1.0, 0.05)
    ]
    return unigram_loss, min(losses)


@torch.no_grad()
def held_out_loss(
    model: Qwen2ForCausalLM, ids: np.ndarray, context: int, limit: int | None = None
) -> float:
    """Mean next-token loss in nats over `ids` (tokens,), cut into windows of `context`."""
    model.eval()
    windows = torch.from_numpy(ids[: len(ids) // context * context].reshape(-1, context))
    if limit is not None:
        windows = windows[:limit]
    total = sum(
        model(input_ids=part, labels=part).loss.item() * len(part) for part in windows.split(16)
    )
    model.train()
    return total / len(windows)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first hundred steps, then a cosine down to a twentieth."""
    if step < 100:
        return peak * (step + 1) / 100
    progress = (step - 100) / max(1, steps - 100)
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def batch_at(ids: np.ndarray, step: int, seed: int, batch: int, context: int) -> torch.Tensor:
    """The windows of one step, (batch, context); they follow from `seed` and `step` alone."""
    starts = np.random.default_rng([seed, step]).integers(0, len(ids) - context, size=batch)
    return torch.from_numpy(np.stack([ids[start : start + context] for start in starts]))


def save_atomically(state: dict[str, object], path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


CARD = """---
license: psf-2.0
library_name: transformers
pipeline_tag: text-generation
---
# The demo model of srdd

A Qwen2-architecture causal language model of {parameters:,} parameters ({layers} layers, hidden
size {hidden}, RMSNorm, SwiGLU, grouped-query attention, byte-level BPE of {vocabulary:,} tokens).
It exists so that `srdd scan demo` and the tests run on trained weights without a download. It
writes things that look like Python and is of no other use.

| | |
|---|---|
| data | the `.py` sources and docstrings of the CPython {python} standard library, without tests and code tables: {train_tokens:,} tokens to train on, {held_out_tokens:,} held out (one file in twenty, by a hash of its name) |
| licence of the data | Python Software Foundation License 2.0 |
| training | {until:,} steps (of a schedule of {steps:,}) of {batch} x {context} tokens, {tokens_seen:,} tokens seen ({epochs:.1f} passes), AdamW, seed {seed}; {minutes:.0f} minutes on {threads} CPU threads |
| weights | stored as bfloat16, trained in float32 |

Held-out loss, in nats per token, on the same held-out files:

| model | loss |
|---|---|
| unigram | {unigram:.3f} |
| bigram, interpolated with the unigram by the best weight | {bigram:.3f} |
| **this model**, as stored, context {context} | **{loss:.3f}** |

Made by `examples/train_demo_model.py`.
"""


def main(
    out: Annotated[Path, typer.Option(help="Folder for the finished model.")] = Path("demo-model"),
    steps: Annotated[int, typer.Option(help="Steps that the learning rate's schedule has.")] = 3000,
    until: Annotated[int, typer.Option(help="Step to stop at; 2,400 keep within an hour.")] = 2400,
    batch: Annotated[int, typer.Option(help="Windows in a step.")] = 16,
    context: Annotated[int, typer.Option(help="Tokens in a window.")] = 256,
    vocabulary: Annotated[int, typer.Option(help="Tokens in the vocabulary.")] = 4096,
    hidden: Annotated[int, typer.Option(help="Hidden size; a multiple of 64.")] = 128,
    layers: Annotated[int, typer.Option(help="Decoder layers.")] = 12,
    peak_rate: Annotated[float, typer.Option(help="Highest learning rate.")] = 3e-3,
    checkpoint_every: Annotated[int, typer.Option(help="Steps between checkpoints.")] = 100,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    source: Annotated[
        Path | None, typer.Option(help="Folder of .py files; this Python's library if not given.")
    ] = None,
) -> None:
    """Train the demo model, or go on with it from the last checkpoint in --out."""
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    kept, held_out_texts = read_library(source or Path(sysconfig.get_paths()["stdlib"]))
    if not kept or not held_out_texts:
        console.print("error: no text found to train on and to hold out")
        raise typer.Exit(2)
    console.print(f"{len(kept)} files to train on, {len(held_out_texts)} held out")
    tokenizer = train_tokenizer(kept, vocabulary)
    train, held_out = encode(tokenizer, kept), encode(tokenizer, held_out_texts)
    console.print(f"{len(train):,} tokens to train on, {len(held_out):,} held out")
    unigram, bigram = count_losses(train, held_out, len(tokenizer))
    console.print(f"held-out loss of the unigram {unigram:.3f}, of the bigram {bigram:.3f}")

    end = int(tokenizer.convert_tokens_to_ids(END))
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=hidden // 32,
            num_key_value_heads=hidden // 64,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
            bos_token_id=end,
            eos_token_id=end,
            pad_token_id=end,
            use_cache=False,
        )
    )
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=peak_rate,
        betas=(0.9, 0.95),
    )

    checkpoint = out / "checkpoint.pt"
    first, minutes = 0, 0.0
    settings = [vocabulary, hidden, layers, batch, context, steps, seed]
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        if state["settings"] != settings:
            console.print(f"error: {checkpoint} was made with other settings")
            console.print("hint: name another --out, or delete that file")
            raise typer.Exit(2)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first, minutes = state["step"], state["minutes"]
        console.print(f"going on from step {first}")

    started = time.monotonic()

    def spent() -> float:
        return minutes + (time.monotonic() - started) / 60

    def keep(step: int) -> None:
        state = {"settings": settings, "step": step, "minutes": spent()}
        weights = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        save_atomically({**state, **weights}, checkpoint)

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("training", total=until, completed=first, loss=math.nan)
        for step in range(first, until):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, peak_rate)
            ids = batch_at(train, step, seed, batch, context)
            loss = model(input_ids=ids, labels=ids).loss
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress.update(task, completed=step + 1, loss=loss.item())
            if (step + 1) % checkpoint_every == 0:
                keep(step + 1)
                seen = held_out_loss(model, held_out, context, limit=64)
                progress.console.print(
                    f"step {step + 1}: loss {loss.item():.3f}, on a part of the held-out text "
                    f"{seen:.3f}, {spent():.1f} minutes"
                )

    keep(max(first, until))
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    stored = Qwen2ForCausalLM.from_pretrained(out, dtype=torch.bfloat16)
    loss_stored = held_out_loss(stored, held_out, context)
    card = CARD.format(
        parameters=sum(p.numel() for p in stored.parameters()),
        layers=layers,
        hidden=hidden,
        vocabulary=len(tokenizer),
        python=".".join(map(str, sys.version_info[:3])),
        train_tokens=len(train),
        held_out_tokens=len(held_out),
        steps=steps,
        until=until,
        batch=batch,
        context=context,
        tokens_seen=until * batch * context,
        epochs=until * batch * context / len(train),
        seed=seed,
        minutes=spent(),
        threads=torch.get_num_threads(),
        unigram=unigram,
        bigram=bigram,
        loss=loss_stored,
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    typer.echo(json.dumps({"unigram": unigram, "bigram": bigram, "model": loss_stored}))


if __name__ == "__main__":
    typer.run(main)
