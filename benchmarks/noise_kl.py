"""How well the KL divergence that noise is predicted to cause agrees with noise really injected.

    python examples/train_small_models.py        the models, once
    python -m benchmarks.noise_kl                measure what is missing, rewrite the table

For each model, noise of each sigma goes on every norm on its own, and on all of them at once. The
prediction is 1/2 sigma^2 F from one scan; measured is the mean over draws, on the same prompts. A
norm is right where the interval of predicted over measured holds 1. That interval is Student's t
over draws of the noise and the prediction's own scatter over prompts, added as squares; both
figures are of the same prompts, so it is wider than it has to be. The table goes to docs/noise.md.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn

from benchmarks.sensitivity import load
from srdd.measurement.sensitivity import measure_sensitivity
from srdd.model.structure import find_structure
from srdd.numerics.confidence import mean_interval
from srdd.numerics.formats import parse_spec
from srdd.prompts.batches import Batch, TokenizedPrompts, make_batches
from srdd.simulation import predictions

KEPT = Path("build/noise-kl")
TABLE = Path("docs/noise.md")
BEGIN, END = "<!-- table: benchmarks/noise_kl.py -->", "<!-- end -->"

MODELS = ("demo", "gpt2", "llama", "mixtral", "gemma", "heavy")
SIGMAS = (0.01, 0.05, 0.1)
PROMPTS, SAMPLES, DRAWS = 32, 8, 8


@torch.no_grad()
def costs(
    model: nn.Module, batches: list[tuple[Batch, torch.Tensor]], names: list[str], sigma: float
) -> list[float]:
    """KL in nats, summed over all predicted tokens, for each draw of noise on these norms."""
    weights = [model.get_submodule(name).weight for name in names]
    clean = [weight.detach().clone() for weight in weights]
    generator = torch.Generator().manual_seed(round(1e4 * sigma))
    found = []
    for _ in range(DRAWS):
        for weight, before in zip(weights, clean, strict=True):
            weight.copy_(before + sigma * torch.randn(before.shape, generator=generator))
        total = 0.0
        for batch, plain in batches:
            logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            total += float(predictions.sums(plain, logits, batch)[:, 2].sum())
        found.append(total)
    for weight, before in zip(weights, clean, strict=True):
        weight.copy_(before)
    return found


def with_logits(model: nn.Module, tokenized: TokenizedPrompts) -> list[tuple[Batch, torch.Tensor]]:
    with torch.no_grad():
        return [
            (b, model(input_ids=b.input_ids, attention_mask=b.attention_mask).logits)
            for b in make_batches(tokenized, 16)
        ]


def compared(nats: np.ndarray, tokens: np.ndarray, drawn: list[float]) -> tuple[float, bool]:
    """Predicted over measured, and whether the interval of that holds 1."""
    measured = float(np.mean(drawn))
    ratio = float(nats.sum()) / measured
    reach = float(stats.t.ppf(0.975, len(drawn) - 1)) * float(np.std(drawn, ddof=1))
    half = reach / math.sqrt(len(drawn)) / measured
    interval = mean_interval(nats[tokens > 0], tokens[tokens > 0], 0.0)
    assert interval is not None
    mean = float(nats.sum() / tokens.sum())
    below, above = 1 - interval[0] / mean, interval[1] / mean - 1
    return ratio, ratio * (1 - math.hypot(below, half)) <= 1 <= ratio * (
        1 + math.hypot(above, half)
    )


def measure(name: str, folder: Path) -> dict[str, Any]:
    model, _, _, tokenized = load(name, folder, PROMPTS)
    structure = find_structure(model)
    estimate = measure_sensitivity(
        model, structure, tokenized, [parse_spec("mxfp4")], samples=SAMPLES
    )
    batches = with_logits(model, tokenized)
    norms = [each for each in estimate.noise if each in estimate.norms]
    norms = [each for each in norms if np.isfinite(estimate.noise[each]).all()]
    found: dict[str, Any] = {"model": name, "norms": len(norms)}
    for sigma in SIGMAS:
        # Of a layer norm the scan has its gain; its bias stays as it is here, too.
        single = [
            compared(
                sigma**2 * estimate.noise[norm] / 2,
                estimate.tokens,
                costs(model, batches, [norm], sigma),
            )
            for norm in norms
        ]
        together = sigma**2 * sum(estimate.noise[norm] for norm in norms) / 2
        drawn = costs(model, batches, norms, sigma)
        whole = compared(together, estimate.tokens, drawn)
        found[str(sigma)] = {
            "ratios": [ratio for ratio, _ in single],
            "within": [right for _, right in single],
            "whole": whole[0],
            "whole_within": whole[1],
            "kl": float(np.mean(drawn) / estimate.tokens.sum()),
        }
        print(
            name,
            sigma,
            found[str(sigma)]["whole"],
            np.median(found[str(sigma)]["ratios"]),
            flush=True,
        )
    return found


def table(results: list[dict[str, Any]]) -> str:
    lines = [
        "| model | sigma | norms | ratio, median (5 to 95 %) | within 15 % | within its interval "
        "| KL of all, mnat | all at once: ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        for sigma in SIGMAS:
            one = result[str(sigma)]
            ratios = np.array(one["ratios"])
            low, middle, high = np.quantile(ratios, [0.05, 0.5, 0.95])
            close = 100 * np.mean(np.abs(ratios - 1) <= 0.15)
            lines.append(
                f"| {result['model']} | {sigma:g} | {result['norms']} | {middle:.2f} "
                f"({low:.2f} to {high:.2f}) | {close:.0f} % | {100 * np.mean(one['within']):.0f} % "
                f"| {1e3 * one['kl']:.3g} | {one['whole']:.2f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=Path("build/small-models"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    KEPT.mkdir(parents=True, exist_ok=True)
    results = []
    for name in MODELS:
        file = KEPT / f"{name}.json"
        if not file.exists():
            file.write_text(json.dumps(measure(name, given.models)))
        results.append(json.loads(file.read_text()))
    text = TABLE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    TABLE.write_text(f"{before}{BEGIN}\n{table(results)}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
