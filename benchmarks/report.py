"""How long `srdd report` takes on a scan of 28 layers, and how large and quick its page is.

The scan is made up: 28 layers with the linears of a Qwen2 model, 64 replicates, intervals and
histograms as a real scan has them. `default` holds sites output and input in mxfp4, `every site`
also weight and linear. Seconds are those of the whole command, start-up included.

    python -m benchmarks.report [--runs N] [--no-browser]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import machine
from srdd.documents.records import REPLICATES, Measured, build
from srdd.documents.scan import Operands, Scan
from srdd.numerics import histogram, sums
from srdd.numerics.formats import parse_spec
from srdd.numerics.sites import OPERANDS

LAYERS = 28
LINEARS = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}
READ_TOGETHER = (
    ("q_proj", "k_proj", "v_proj"),
    ("o_proj",),
    ("gate_proj", "up_proj"),
    ("down_proj",),
)
SRDD = str(Path(sys.executable).with_name("srdd"))


def _one(
    rng: np.random.Generator,
    layer: int,
    site: str,
    tensors: tuple[str, ...],
    spec: str,
    operands: Operands | None,
) -> Measured:
    replicates = sums.new(REPLICATES)
    error = 0.3 + 0.1 * np.sin(layer / 9) + 0.02 * rng.standard_normal(REPLICATES)
    elements = 1e6
    for name, values in {
        "tokens": np.full(REPLICATES, 280.0),
        "elements": np.full(REPLICATES, elements),
        "nonzero": np.full(REPLICATES, elements - 3),
        "flushed": np.round(elements * 0.6 * error),
        "saturated": np.round(elements * 0.02 * rng.random(REPLICATES)),
        "x2": elements * rng.lognormal(0, 0.3, REPLICATES),
        "e2": elements * (0.4 * error) ** 2,
        "clipped_e2": elements * (0.1 * error) ** 2,
        "abs_x": elements * rng.lognormal(0, 0.1, REPLICATES),
        "abs_e": elements * 0.3 * error,
        "relative": elements * error,
    }.items():
        replicates[:, sums.INDEX[name]] = values
    if site == "weight":  # as in a real scan: weights do not depend on prompts
        replicates[0] = replicates.sum(axis=0)
        replicates[1:] = 0
    place = (17 - histogram.LOWEST_DB) / histogram.BIN_DB
    bins = np.clip(np.round(rng.normal(place, 6, 64 * 280)), 0, histogram.BINS - 1).astype(int)
    return Measured(
        layer=layer,
        site=site,
        tensor=tensors[0],
        shared_with=tensors[1:],
        spec=parse_spec(spec),
        replicates=replicates,
        tokens_by_sqnr=np.bincount(bins, minlength=histogram.BINS),
        undefined_tokens=0,
        operands=operands,
    )


def _measured(sites: tuple[str, ...], specs: tuple[str, ...]) -> Iterator[Measured]:
    rng = np.random.default_rng(0)
    for layer in range(LAYERS):
        name = {
            linear: f"model.layers.{layer}.{part}.{linear}"
            for part, linears in LINEARS.items()
            for linear in linears
        }
        for spec in specs:
            for site in sites:
                if site == "output":
                    yield _one(rng, layer, site, ("output",), spec, None)
                elif site == "input":
                    for group in READ_TOGETHER:
                        yield _one(rng, layer, site, tuple(name[g] for g in group), spec, None)
                else:
                    for operands in OPERANDS if site == "linear" else (None,):
                        for linear in name.values():
                            yield _one(rng, layer, site, (linear,), spec, operands)


def scan(sites: tuple[str, ...], specs: tuple[str, ...] = ("mxfp4:floor",)) -> Scan:
    """A scan of 28 layers with these sites and formats."""
    records, rankings = build(list(_measured(sites, specs)), rounding="even", seed=0)
    layers = [
        {
            "index": layer,
            "name": f"model.layers.{layer}",
            "type": "Qwen2DecoderLayer",
            "norms": [
                {
                    "name": f"model.layers.{layer}.{norm}",
                    "kind": "rmsnorm",
                    "type": "Qwen2RMSNorm",
                    "size": 1536,
                    "gain_rms": 1.0,
                }
                for norm in ("input_layernorm", "post_attention_layernorm")
            ],
            "linears": [],
        }
        for layer in range(LAYERS)
    ]
    unknown = dict.fromkeys(
        ("revision", "fingerprint", "architecture", "model_type", "dtype", "parameters")
    )
    return Scan.model_validate(
        {
            "model": {
                **unknown,
                **dict.fromkeys(("hidden_size", "tokenizer", "decoder")),
                "name": "made up",
                "source": "memory",
                "layers": layers,
                "other_norms": [],
            },
            "calibration": {
                **dict.fromkeys(("source", "fingerprint", "truncated", "left_out", "max_length")),
                **dict.fromkeys(("chat_template", "skip_first_token")),
                "prompt_fingerprints": [],
                "prompts": 64,
                "tokens": 64 * 280,
            },
            "settings": {
                "formats": list(specs),
                "sites": list(sites),
                "rounding": "even",
                "seed": 0,
                "thresholds": {
                    "sqnr_db": 20,
                    "deadzone": 0.05,
                    "saturation": 0.01,
                    "relative_error": 0.1,
                },
            },
            "run": {
                **dict.fromkeys(("device", "kernel", "batch_size", "command", "elapsed_s")),
                "versions": {},
                "started": "2026-01-01T00:00:00+00:00",
            },
            "records": records,
            "rankings": rankings,
            "not_measured": [],
            "warnings": [],
        }
    )


def seconds(command: list[str], runs: int) -> list[float]:
    """Seconds of each run; the first one fills caches and does not count."""
    found = []
    for _ in range(runs + 1):
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr)
        found.append(time.perf_counter() - started)
    return found[1:]


def opened(page: Path, runs: int) -> list[list[float]]:
    """Seconds until a browser has shown something, and until tables can be sorted and searched.

    The first opening, in a browser that has just started, stands first.
    """
    from selenium import webdriver
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    # Named here, or Selenium would look for a newer one on the network.
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1280,900"):
        options.add_argument(argument)
    ready = (
        "const paint = performance.getEntriesByType('paint')[0];"
        "return document.documentElement.dataset.ready && paint"
        "&& [paint.startTime, performance.timing.loadEventEnd - performance.timing.navigationStart]"
    )
    found = []
    with webdriver.Chrome(options=options, service=service) as browser:
        for _ in range(runs + 1):
            browser.get(page.as_uri())
            times = WebDriverWait(browser, 60, 0.02).until(lambda b: b.execute_script(ready))
            found.append([value / 1000 for value in times])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Time srdd report on a scan of 28 layers.")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--no-browser", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    print(machine.describe())
    result: dict[str, object] = {"benchmark": "report", "machine": machine.describe()}
    with tempfile.TemporaryDirectory() as folder:
        for name, sites in (
            ("default", ("output", "input")),
            ("every site", ("output", "input", "weight", "linear")),
        ):
            file = Path(folder) / f"{name.replace(' ', '-')}.json"
            scan(sites).save(file)
            size = file.stat().st_size
            print(f"\n{name}: a scan of {size / 1e6:.1f} MB")
            result[f"{name}, scan, bytes"] = size
            for form in ("terminal", "markdown", "csv", "tsv", "html"):
                page = file.with_suffix(f".{form}")
                command = [SRDD, "report", str(file), "--as", form, "-o", str(page), "--force"]
                found = seconds(command, options.runs)
                written = page.stat().st_size
                print(
                    f"  {form:<10}{statistics.median(found):6.2f} s, median of {options.runs} "
                    f"({min(found):.2f} to {max(found):.2f}); {written / 1e6:.2f} MB"
                )
                result[f"{name}, {form}, seconds"] = found
                result[f"{name}, {form}, bytes"] = written
            if not options.no_browser:
                first, *later = opened(page, options.runs)
                for what, place in (("on the screen", 0), ("loaded", 1)):
                    again = statistics.median(one[place] for one in later)
                    print(f"  page, {what}: {first[place]:.2f} s at first, then {again:.2f} s")
                result[f"{name}, page, seconds"] = [first, *later]
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
