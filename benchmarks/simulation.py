"""A simulated W4A4 forward pass against the plain one, and against eager fake-quantization.

    python -m benchmarks.simulation
    python -m benchmarks.simulation --format nvfp4

The model has the shape of Qwen2.5-1.5B, random weights and type bfloat16; 512 random tokens go
through all of it but the head. The weights are quantized before, once; how long that takes stands
beside it. Eager is the same simulation with the reference kernel in place of the fused one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any
from unittest import mock

import torch

import srdd
from benchmarks import machine
from benchmarks.scan import large_model
from srdd.numerics import kernels


def _eagerly(*given: Any) -> torch.Tensor:
    """`srdd.numerics.kernels.quantize` as it would be without the fused kernel."""
    return _quantize(*given, kernel="eager")


_quantize = kernels.quantize


@torch.no_grad()
def compare(layers: int, tokens: int, rounds: int, format: str) -> None:
    model = large_model(layers).model
    ids = torch.randint(151936, (1, tokens), generator=torch.Generator().manual_seed(0))

    def run() -> None:
        model(input_ids=ids, use_cache=False)

    run()
    with srdd.simulate(model, format, format) as simulation:
        started = time.perf_counter()
        run()
        first = time.perf_counter() - started

        def plain() -> None:
            with simulation.paused():
                run()

        plain()
        simulated, without = machine.in_turn([run, plain], rounds)
        with mock.patch.object(kernels, "quantize", _eagerly):
            eager, beside = machine.in_turn([run, plain], 1)
    middle, low, high = machine.ratio(simulated, without)
    print(f"{layers} layers, {tokens} tokens, {format}, {len(simulation.modules)} linears")
    print(f"plain forward pass     {statistics.median(without):8.2f} s (median of {rounds})")
    print(f"simulated W4A4         {statistics.median(simulated):8.2f} s")
    print(f"simulated / plain      {middle:8.2f}   ({low:.2f} to {high:.2f})")
    print(f"the first pass         {first:8.2f} s, which quantizes the weights")
    print(f"eager / plain          {eager[0] / beside[0]:8.2f}   (weights kept all the same)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--format", default="mxfp4")
    given = parser.parse_args()
    print(machine.describe())
    compare(given.layers, given.tokens, given.rounds, given.format)


if __name__ == "__main__":
    main()
