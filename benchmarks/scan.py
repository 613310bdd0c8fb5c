"""A scan against the forward passes it needs, and against one hooked layer per forward pass.

    python -m benchmarks.scan overhead
    python -m benchmarks.scan against-naive
    python -m benchmarks.scan sites
    python -m benchmarks.scan weights
    python -m benchmarks.scan memory
    python -m benchmarks.scan document

The model has the shape of Qwen2.5-1.5B, random weights and type bfloat16; prompts are random ids.
`sites` holds several sites and formats against the plain forward passes, `weights` site `weight`
against the eager kernel, and reading the weights' bytes from a file. For `memory` it is the demo
model, since 512 prompts through the large one take very long on a CPU.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks import machine

LENGTH = 128


class Numbers:
    """A tokenizer for benchmarks: the prompt `7` becomes `length` ids drawn with seed 7."""

    pad_token_id = 0

    def __init__(self, vocabulary: int, length: int = LENGTH) -> None:
        self._vocabulary = vocabulary
        self._length = length

    def __len__(self) -> int:
        return self._vocabulary

    def __call__(self, text: str, *, verbose: bool = False) -> dict[str, list[int]]:
        generator = torch.Generator().manual_seed(int(text))
        return {
            "input_ids": torch.randint(
                self._vocabulary, (self._length,), generator=generator
            ).tolist()
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


def _passes(model: Any, tokenizer: Numbers, texts: list[str]) -> Callable[[], None]:
    """The forward passes that a scan needs, without any scan."""
    from srdd.prompts.batches import make_batches, tokenize
    from srdd.prompts.reading import from_strings

    batches = make_batches(tokenize(from_strings(texts), tokenizer))

    @torch.no_grad()
    def plain() -> None:
        for batch in batches:
            model.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            )

    return plain


def overhead(layers: int, rounds: int, prompts: int) -> None:
    _against_plain(layers, rounds, prompts, {"output": (["output"], ["mxfp4"])})


def sites(layers: int, rounds: int, prompts: int) -> None:
    both, three = ["output", "input"], ["mxfp4", "nvfp4", "mxfp8_e4m3"]
    _against_plain(
        layers,
        rounds,
        prompts,
        {
            "output,input in mxfp4": (both, three[:1]),
            f"output,input in {','.join(three)}": (both, three),
            "linear in mxfp4": (["linear"], three[:1]),
        },
    )


def _against_plain(
    layers: int, rounds: int, prompts: int, scans: dict[str, tuple[list[str], list[str]]]
) -> None:
    from srdd.measurement.scanner import scan_model

    model = large_model(layers)
    tokenizer = Numbers(model.config.vocab_size)
    texts = [str(number) for number in range(prompts)]
    plain = _passes(model, tokenizer, texts)
    tasks: list[Callable[[], object]] = [plain]
    tasks += [
        partial(scan_model, model, tokenizer, texts, sites=places, formats=formats)
        for places, formats in scans.values()
    ]
    for task in tasks:
        task()
    without, *found = machine.in_turn(tasks, rounds)
    print(f"plain forward passes: {statistics.median(without):.2f} s (median of {rounds})")
    for name, seconds in zip(scans, found, strict=True):
        middle, low, high = machine.ratio(seconds, without)
        print(
            f"scan {name}: {statistics.median(seconds):.2f} s, {middle:.3f} times as long "
            f"({low:.3f} to {high:.3f})"
        )


def weights(layers: int, rounds: int) -> None:
    """Site `weight` against the eager kernel, and against reading the same bytes from a file."""
    from srdd.measurement.listener import Listener
    from srdd.measurement.plan import Plan
    from srdd.measurement.weights import measure_weights
    from srdd.model.linears import find_weights
    from srdd.model.structure import find_structure
    from srdd.numerics.formats import parse_spec
    from srdd.numerics.kernels import row_sums

    model = large_model(layers)
    structure, spec = find_structure(model), parse_spec("mxfp4")
    found = [weight.data for weight in find_weights(model, structure)]
    elements = sum(data.numel() for data in found)
    row_sums(found[0][:64], spec)  # compiles
    with tempfile.NamedTemporaryFile() as file:
        for data in found:
            file.write(memoryview(data.view(torch.int16).numpy()))
        file.flush()

        def read() -> None:
            with open(file.name, "rb", buffering=0) as source:
                while source.read(1 << 24):
                    pass

        def fused() -> None:
            measure_weights(model, structure, Plan.of(formats="mxfp4"), Listener())

        def eager() -> None:
            data = found[0]  # one weight: all of them take minutes
            row_sums(data, spec, kernel="eager")

        peak = _growth_mb(fused)
        reading, fusing, slowly = machine.in_turn([read, fused, eager], rounds)
    nanoseconds = statistics.median(fusing) / elements * 1e9
    slow = statistics.median(slowly) / found[0].numel() * 1e9
    reads = statistics.median(reading) / elements * 1e9
    print(f"{len(found)} weights, {elements / 1e9:.2f} billion values, bfloat16")
    print(f"reading the bytes once  {reads:7.3f} ns a value (from the page cache)")
    print(f"site weight             {nanoseconds:7.3f} ns a value")
    print(f"eager kernel            {slow:7.3f} ns a value (one weight)")
    print(f"eager / site weight     {slow / nanoseconds:7.1f}")
    print(f"aim: at most {2 * reads + 1:.3f} ns a value, twice reading plus one")
    print(f"peak beyond the model   {peak:7.1f} MB")


def document(layers: int) -> None:
    """Size of the scan with every site, and how long it takes to write and to read.

    Size follows from the number of prompts, up to 64 of them, and not from their lengths.
    """
    from srdd.documents.scan import load_scan
    from srdd.measurement.scanner import scan_model

    model = large_model(layers)
    texts = [str(number) for number in range(64)]
    tokenizer = Numbers(model.config.vocab_size, length=8)
    scan = scan_model(model, tokenizer, texts, sites=["output", "input", "weight", "linear"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.json"
        for _ in range(2):
            started = time.perf_counter()
            scan.save(path, force=True)
            written = time.perf_counter()
            load_scan(path)
            done = time.perf_counter()
        print(f"{len(scan.records)} records of {layers} layers, {len(texts)} prompts, mxfp4")
        print(f"size     {path.stat().st_size / 1e6:6.2f} MB")
        print(f"written  {written - started:6.2f} s")
        print(f"read     {done - written:6.2f} s")


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
    from srdd.measurement.scanner import scan_model

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


def _growth_mb(task: Callable[[], object]) -> float:
    """How far resident memory rises above where it is now while `task` runs, sampled, in MB."""
    done = threading.Event()
    process = psutil.Process()
    before = process.memory_info().rss
    seen = [before]

    def sample() -> None:
        while not done.wait(0.002):
            seen.append(process.memory_info().rss)

    sampler = threading.Thread(target=sample)
    sampler.start()
    task()
    done.set()
    sampler.join()
    return (max(seen) - before) / 1e6


def memory_of(prompts: int) -> None:
    """Peak resident memory beyond the loaded model and a first small scan, in MB."""
    from srdd.measurement.scanner import scan_model
    from srdd.model.checkpoint import find
    from srdd.model.load import load_model

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
    names = [*("overhead", "sites", "weights", "against-naive", "memory", "memory-of", "document")]
    parser.add_argument("what", choices=names)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    if given.what != "memory-of":
        print(machine.describe())
    if given.what == "overhead":
        overhead(given.layers, given.rounds, given.prompts)
    elif given.what == "sites":
        sites(given.layers, given.rounds, given.prompts)
    elif given.what == "weights":
        weights(given.layers, given.rounds)
    elif given.what == "document":
        document(given.layers)
    elif given.what == "against-naive":
        against_naive(given.layers, given.prompts)
    elif given.what == "memory":
        memory()
    else:
        memory_of(given.prompts)


if __name__ == "__main__":
    main()
