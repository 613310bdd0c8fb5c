"""A scan against the forward passes it needs, and against one hooked layer per forward pass.

    python -m benchmarks.scan overhead
    python -m benchmarks.scan against-naive
    python -m benchmarks.scan memory

The model has the shape of Qwen2.5-1.5B, random weights and type bfloat16; prompts are random ids.
For `memory` it is the demo model, since 512 prompts through the large one take very long on a CPU.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

from benchmarks import machine

LENGTH = 128


class Numbers:
    """A tokenizer for benchmarks: the prompt `7` becomes LENGTH ids drawn with seed 7."""

    pad_token_id = 0

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary

    def __len__(self) -> int:
        return self._vocabulary

    def __call__(self, text: str, *, verbose: bool = False) -> dict[str, list[int]]:
        generator = torch.Generator().manual_seed(int(text))
        return {
            "input_ids": torch.randint(self._vocabulary, (LENGTH,), generator=generator).tolist()
        }


def large_model(layers: int) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        return Qwen2ForCausalLM(
            Qwen2Config(
                vocab_size=151936,
                hidden_size=1536,
                intermediate_size=8960,
                num_hidden_layers=layers,
                num_attention_heads=12,
                num_key_value_heads=2,
                max_position_embeddings=32768,
                tie_word_embeddings=True,
                use_cache=False,
            )
        ).eval()
    finally:
        torch.set_default_dtype(before)


def overhead(layers: int, rounds: int, prompts: int) -> None:
    from srdd.batches import make_batches, tokenize
    from srdd.prompts import from_strings
    from srdd.scan import scan_model

    model = large_model(layers)
    tokenizer = Numbers(model.config.vocab_size)
    texts = [str(number) for number in range(prompts)]
    batches = make_batches(tokenize(from_strings(texts), tokenizer))

    @torch.no_grad()
    def plain() -> None:
        for batch in batches:
            model.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            )

    def scan() -> None:
        scan_model(model, tokenizer, texts)

    scan()
    plain()
    with_scan, without = machine.in_turn([scan, plain], rounds)
    middle, low, high = machine.ratio(with_scan, without)
    print(f"plain forward passes  {statistics.median(without):8.2f} s (median of {rounds})")
    print(f"scan                  {statistics.median(with_scan):8.2f} s")
    print(f"scan / plain          {middle:8.3f}   ({low:.3f} to {high:.3f})")


def _prototype_metrics(x: torch.Tensor) -> list[float]:
    """What a plain script computes of a layer's output: quantize, dequantize, four metrics."""
    flat = x.float().reshape(-1, 32)
    amax = flat.abs().amax(dim=1, keepdim=True)
    scale = torch.exp2(torch.floor(torch.log2(amax + 1e-12)) - 2)
    v = (flat.abs() / scale).clamp(max=6)
    step = torch.where(v < 2, 0.5, torch.where(v < 4, 1.0, 2.0))
    y = flat.sign() * torch.floor(v / step + 0.5) * step * scale
    error = y - flat
    return [
        float(10 * torch.log10(flat.square().mean() / error.square().mean())),
        float(((flat != 0) & (y == 0)).float().mean()),
        float((flat.abs() / scale > 6).float().mean()),
        float((error.abs() / flat.abs().clamp(min=1e-12)).mean()),
    ]


def against_naive(layers: int, prompts: int) -> None:
    from srdd.scan import scan_model

    model = large_model(layers)
    tokenizer = Numbers(model.config.vocab_size)
    texts = [str(number) for number in range(prompts)]

    @torch.no_grad()
    def naive() -> int:
        runs = 0
        for layer in model.model.layers:
            for text in texts:
                ids = torch.tensor([tokenizer(text)["input_ids"]])
                handle = layer.register_forward_hook(
                    lambda module, given, output: (
                        _prototype_metrics(
                            output if isinstance(output, torch.Tensor) else output[0]
                        )
                        and None
                    )
                )
                model(input_ids=ids)
                handle.remove()
                runs += 1
        return runs

    scan_model(model, tokenizer, texts)
    started = time.perf_counter()
    scan_model(model, tokenizer, texts)
    one_pass = time.perf_counter() - started
    started = time.perf_counter()
    runs = naive()
    by_layer = time.perf_counter() - started
    print(f"one layer a forward pass  {by_layer:8.1f} s ({runs} forward passes)")
    print(f"scan                      {one_pass:8.1f} s")
    print(f"ratio                     {by_layer / one_pass:8.1f}")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def memory_of(prompts: int) -> None:
    """Peak resident memory beyond the loaded model and a first small scan, in MB."""
    from srdd.checkpoint import find
    from srdd.models import load_model
    from srdd.scan import scan_model

    model = load_model(find("demo")).model
    tokenizer = Numbers(4096)
    before = _peak_mb()
    scan_model(model, tokenizer, [str(number) for number in range(prompts)])
    print(f"{_peak_mb() - before:.1f}")


def memory() -> None:
    found = {}
    for prompts in (64, 512):
        command = [sys.executable, "-m", "benchmarks.scan", "memory-of", "--prompts", str(prompts)]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[prompts] = float(out.strip().splitlines()[-1])
        print(f"{prompts} prompts: peak {found[prompts]:.1f} MB beyond the loaded model")
    print(f"difference: {found[512] - found[64]:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["overhead", "against-naive", "memory", "memory-of"])
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.what != "memory-of":
        print(machine.describe())
    if given.what == "overhead":
        overhead(given.layers, given.rounds, given.prompts)
    elif given.what == "against-naive":
        against_naive(given.layers, given.prompts)
    elif given.what == "memory":
        memory()
    else:
        memory_of(given.prompts)


if __name__ == "__main__":
    main()
