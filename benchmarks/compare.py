"""How long `srdd compare` takes on scans of a model with 28 layers, and of one with 1,000.

python -m benchmarks.compare

The scans are made up: sums as a scan of 79 prompts has them, at sites `output`, `input` and
`weight`, four inputs and seven weights a layer.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.startup import SRDD, seconds
from srdd.documents.records import REPLICATES, Measured, build
from srdd.documents.scan import Scan
from srdd.numerics import histogram, sums
from srdd.numerics.formats import parse_spec

TENSORS = {
    "output": [""],
    "input": [f".in{n}" for n in range(4)],
    "weight": [f".w{n}" for n in range(7)],
}


def measured(layers: int, factor: float, rng: np.random.Generator) -> list[Measured]:
    found = []
    for site, tensors in TENSORS.items():
        for layer in range(layers):
            for tensor in tensors:
                replicates = sums.new(REPLICATES)
                rows = 1 if site == "weight" else REPLICATES
                elements = 1e6
                noise = factor * np.exp(rng.normal(0, 0.1, rows))
                for name, value in (
                    ("tokens", 200.0),
                    ("elements", elements),
                    ("nonzero", elements),
                    ("flushed", np.round(9e4 * noise)),
                    ("saturated", 2e4),
                    ("x2", elements),
                    ("e2", 0.013 * elements * noise),
                    ("clipped_e2", 0.001 * elements),
                    ("abs_x", elements),
                    ("abs_e", 0.1 * elements * noise),
                    ("relative", 0.2 * elements * noise),
                ):
                    replicates[:rows, sums.INDEX[name]] = value
                found.append(
                    Measured(
                        layer=layer,
                        site=site,
                        tensor=f"model.layers.{layer}{tensor}",
                        shared_with=(),
                        spec=parse_spec("mxfp4"),
                        replicates=replicates,
                        tokens_by_sqnr=histogram.new(),
                        undefined_tokens=0,
                    )
                )
    return found


def scan_of(layers: int, factor: float, fingerprint: str, sites: list[str]) -> Scan:
    """A scan without intervals and rankings of its own, which take long and are not read."""
    from srdd.documents.prototype import read_prototype

    rng = np.random.default_rng(0)
    kept = [one for one in measured(layers, factor, rng) if one.site in sites]
    records = [record for one in kept for record in build([one], rounding="even", seed=0)[0]]
    base = read_prototype(
        {
            "config": {"quant_type": "mxfp4", "num_layers": layers, "model_path": "made/up"},
            "report": {"per_layer": [{"layer_id": 0, "sqnr_db": 18.0}]},
        },
        "made up",
    ).model_dump()
    base["records"] = [record.model_dump() for record in records]
    base["not_measured"] = []
    base["settings"]["sites"] = sites
    base["model"] |= {"source": "memory", "fingerprint": fingerprint}
    base["calibration"] |= {
        "prompt_fingerprints": [f"{n:016x}" for n in range(79)],
        "prompts": 79,
        "tokens": 17835,
    }
    return Scan.model_validate(base)


def main() -> None:
    print(machine.describe())
    with tempfile.TemporaryDirectory() as folder:
        for layers, sites, runs in ((28, list(TENSORS), 9), (1000, ["output"], 3)):
            paths = []
            for name, factor in (("old", 1.0), ("new", 1.05)):
                path = Path(folder) / f"{name}-{layers}.json"
                scan_of(layers, factor, name * 20, sites).save(path)
                paths.append(str(path))
            size = sum(Path(path).stat().st_size for path in paths) / 1e6
            for form in ("terminal", "markdown", "json"):
                found = seconds([SRDD, "compare", *paths, "--as", form], runs)
                name = f"srdd compare, {layers} layers, {', '.join(sites)}, --as {form}"
                print(
                    f"{name:<64} {statistics.median(found):5.2f} s, median of {runs} "
                    f"({min(found):.2f} to {max(found):.2f}); files of {size:.1f} MB"
                )


if __name__ == "__main__":
    main()
