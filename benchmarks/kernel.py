"""How long the fused kernel takes, next to other ways to the same figures.

All contenders measure one bfloat16 tensor for mxfp4:floor. They take turns, round after round, so
that whatever else the machine does hits all alike; figures are medians over the rounds
(`machine.second_in_turn`).

    python -m benchmarks.kernel [--json FILE]

- `fused`: srdd's cpu kernel, on all of torch's threads and on one.
- `eager`: srdd's reference in plain torch.
- `torchao`, `compressed-tensors`: the package's fake quantization (the latter's scale rule is
  `even`), then sums over x and y in plain torch. Saturation, which needs the scales, is left out.
- `read`: the sum of the tensor's bytes as 64-bit integers; no way is faster than reading once.
- `matmul`: what a model does between two measurements. `matmul then fused`, set against the sum of
  the two alone, shows what those idle threads cost in a scan.
"""

from __future__ import annotations

import argparse
import json
import statistics
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch

from benchmarks import machine
from srdd.numerics.formats import parse_spec
from srdd.numerics.kernels import row_sums

SPEC = parse_spec("mxfp4:floor")


def sums_in_torch(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sums per row from a tensor and its dequantized values, without saturation."""
    a, b = x.float(), y.float()
    e = (b - a).abs()
    a = a.abs()
    nonzero = a != 0
    parts = (
        nonzero.sum(-1),
        (nonzero & (b == 0)).sum(-1),
        a.square().sum(-1),
        e.square().sum(-1),
        a.sum(-1),
        e.sum(-1),
        torch.where(nonzero, e / a, 0.0).sum(-1),
    )
    return torch.stack([part.double() for part in parts], dim=-1)


def packages(x: torch.Tensor) -> dict[str, Callable[[], object]]:
    """The contenders that other packages give, as far as they are installed."""
    found: dict[str, Callable[[], object]] = {}
    try:
        from torchao.prototype.mx_formats.config import ScaleCalculationMode
        from torchao.prototype.mx_formats.mx_tensor import MXTensor

        def torchao() -> object:
            mode = ScaleCalculationMode.FLOOR
            quantized = MXTensor.to_mx(x, torch.float4_e2m1fn_x2, 32, mode)
            return sums_in_torch(x, quantized.dequantize(x.dtype))

        found[f"torchao {version('torchao')}"] = torchao
    except ImportError:
        print("torchao is not installed: left out")
    try:
        from compressed_tensors.quantization import preset_name_to_scheme
        from compressed_tensors.quantization.lifecycle.forward import fake_quantize
        from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

        args = preset_name_to_scheme("MXFP4", ["Linear"]).input_activations

        def compressed_tensors() -> object:
            scale, zero_point = compute_dynamic_scales_and_zp(x, args, None)
            return sums_in_torch(x, fake_quantize(x, scale, zero_point, args))

        found[f"compressed-tensors {version('compressed-tensors')}"] = compressed_tensors
    except ImportError:
        print("compressed-tensors is not installed: left out")
    return found


def on_one_thread(run: Callable[[], object]) -> Callable[[], object]:
    """`run` with torch's number of threads set to one, and back."""

    def alone() -> object:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return run()
        finally:
            torch.set_num_threads(threads)

    return alone


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the fused kernel against other ways.")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--channels", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.tokens, options.channels, generator=generator).bfloat16()
    weight = torch.randn(options.channels, options.channels, generator=generator).bfloat16()

    def fused() -> object:
        return row_sums(x, SPEC, kernel="cpu")

    def matmul() -> object:
        return x @ weight

    def both() -> object:
        return matmul(), fused()

    contenders: dict[str, Callable[[], object]] = {
        "fused": fused,
        "fused, one thread": on_one_thread(fused),
        "eager": lambda: row_sums(x, SPEC, kernel="eager"),
        **packages(x),
        "read": lambda: x.view(torch.int64).sum(),
        "matmul": matmul,
        "matmul then fused": both,
    }
    seconds = machine.second_in_turn(contenders, options.rounds)
    middle = {name: statistics.median(taken) for name, taken in seconds.items()}
    rows = [
        {
            "contender": name,
            "median_ns_per_element": median * 1e9 / x.numel(),
            "least_ns_per_element": min(seconds[name]) * 1e9 / x.numel(),
            "times_fused": machine.ratio(seconds[name], seconds["fused"])[0],
        }
        for name, median in middle.items()
    ]
    apart = middle["matmul"] + middle["fused"]
    result = {
        "benchmark": "kernel",
        "machine": machine.describe(),
        "tensor": {"tokens": options.tokens, "channels": options.channels, "dtype": "bfloat16"},
        "format": str(SPEC),
        "rounds": options.rounds,
        "rows": rows,
        "together_over_apart": middle["matmul then fused"] / apart,
    }

    print(machine.describe())
    print(f"({options.tokens}, {options.channels}) bfloat16, {SPEC}, {options.rounds} rounds")
    print(f"{'':28}{'ns/element':>12}{'least':>10}{'x fused':>10}")
    for row in rows:
        print(
            f"{row['contender']:28}{row['median_ns_per_element']:>12.3f}"
            f"{row['least_ns_per_element']:>10.3f}{row['times_fused']:>10.2f}"
        )
    print(f"matmul then fused, over the two apart: {result['together_over_apart']:.3f}")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
