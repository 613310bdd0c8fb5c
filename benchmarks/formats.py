"""How long the fused kernel takes in every format, next to the reference and to mxfp4.

All measure one bfloat16 tensor, as long as that of benchmarks.kernel, and take turns in the same
way: in a round each format's fused kernel, its reference, and the fused kernel for mxfp4. Figures
are medians over the rounds; the last column is the slowest round's ratio to eager.

    python -m benchmarks.formats [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import torch

from benchmarks import machine
from srdd.numerics.formats import FORMATS, FormatSpec, parse_spec
from srdd.numerics.kernels import row_sums

MXFP4 = parse_spec("mxfp4")
OTHERS = ("nvfp4:tensor", "mxfp4+hadamard32", "mxfp4+hadamard128")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the fused kernel in every format.")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--channels", type=int, default=1536)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(options.tokens, options.channels, generator=generator).bfloat16()
    specs = [parse_spec(name) for name in (*FORMATS, *OTHERS)]
    rows = []
    print(machine.describe())
    print(f"({options.tokens}, {options.channels}) bfloat16, {options.rounds} rounds")
    print(f"{'':28}{'ns/element':>12}{'eager/fused':>13}{'fused/mxfp4':>13}{'least':>8}")
    for spec in specs:
        row = _row(spec, x, options.rounds)
        rows.append(row)
        print(
            f"{row['format']:28}{row['median_ns_per_element']:>12.3f}"
            f"{row['eager_over_fused']:>13.1f}{row['fused_over_mxfp4']:>13.2f}"
            f"{row['least_eager_over_fused']:>8.1f}"
        )
    if options.json is not None:
        result = {"benchmark": "formats", "machine": machine.describe(), "rows": rows}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _row(spec: FormatSpec, x: torch.Tensor, rounds: int) -> dict[str, str | float]:
    def fused() -> object:
        return row_sums(x, spec, kernel="cpu")

    def eager() -> object:
        return row_sums(x, spec, kernel="eager")

    def mxfp4() -> object:
        return row_sums(x, MXFP4, kernel="cpu")

    fused(), eager(), mxfp4()  # compiles, and fills caches
    seconds = machine.second_in_turn({"fused": fused, "eager": eager, "mxfp4": mxfp4}, rounds)
    times_eager, least, _ = machine.ratio(seconds["eager"], seconds["fused"])
    return {
        "format": str(spec),
        "median_ns_per_element": statistics.median(seconds["fused"]) * 1e9 / x.numel(),
        "eager_over_fused": times_eager,
        "least_eager_over_fused": least,
        "fused_over_mxfp4": machine.ratio(seconds["fused"], seconds["mxfp4"])[0],
    }


if __name__ == "__main__":
    main()
