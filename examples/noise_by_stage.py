"""What noise costs the demo model's predictions: predicted from a scan, and measured.

    python examples/noise_by_stage.py

The same as `srdd scan demo --kl`, `srdd suggest --for srdd` and `srdd eval demo --rin`, in Python.
"""

from __future__ import annotations

import sys

import srdd
from srdd.model.checkpoint import find
from srdd.model.load import load_model, load_tokenizer
from srdd.prompts.reading import builtin
from srdd.simulation.evaluator import StagedNoise

TOKENS = 64
"""Of each prompt, so that it takes a minute."""


def main() -> None:
    checkpoint = find("demo")
    model = load_model(checkpoint, device="cpu").model
    tokenizer, prompts = load_tokenizer(checkpoint), builtin(limit=24)
    scan = srdd.scan_model(
        model, tokenizer, prompts, sites=("input",), kl=True, kl_check=0, max_length=TOKENS
    )
    config = srdd.suggest(scan, "uniform", sigma_start=0.1, sigma_end=0.01, num_stages=5)
    evaluation = srdd.evaluate(
        model,
        tokenizer,
        prompts,
        noise=StagedNoise(config, "uniform noise", scan),
        max_length=TOKENS,
    )
    assert evaluation.noise_stages is not None
    lines = ["stage   sigma  predicted  measured  ratio (95 %), KL in mnat a token"]
    for stage in evaluation.noise_stages.stages:
        low, high = stage.ratio_interval or (0.0, 0.0)
        lines.append(
            f"{stage.stage:5} {stage.sigma:7.4f} {1e3 * (stage.predicted or 0):10.3f} "
            f"{1e3 * stage.measured:9.3f}  {stage.ratio or 0:.2f} ({low:.2f} to {high:.2f})"
        )
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
