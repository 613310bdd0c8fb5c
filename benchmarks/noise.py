"""Noise on and off against one forward pass of the same model.

    python -m benchmarks.noise
    python -m benchmarks.noise --layer-type linear

The model has the shape of Qwen2.5-1.5B, random weights and type bfloat16; the forward pass, with
its head, runs over 512 tokens. Timed is all of `with noisy(...)`: finding the modules, keeping
clean copies, drawing and adding noise, the report, and putting the clean weights back.
"""

from __future__ import annotations

import argparse
import statistics

import torch

from benchmarks import machine
from benchmarks.scan import large_model
from srdd.documents.rin import RinConfig
from srdd.model.structure import find_structure
from srdd.rin import noisy
from srdd.rin.targets import targets_of


def config_for(model: torch.nn.Module, layer_type: str) -> RinConfig:
    """Uniform noise on every norm or linear, as a scan of the model would name them."""
    structure = find_structure(model)
    schedule = {"sigma_start": 0.05, "sigma_end": 0.05, "num_stages": 3}
    layers = [
        {
            "layer": layer.index,
            "name": layer.name,
            "multiplier": 1.0,
            "sigma": 0.05,
            "signal_to_noise_db": None,
            "value": 0.0,
            "sqnr_db": None,
            "modules": [
                {"name": name, "size": size, "gain_rms": None, "signal_to_noise_db": None}
                for name, size in (
                    [(n.name, n.size) for n in layer.norms]
                    if layer_type == "rmsnorm"
                    else [(li.name, li.in_features * li.out_features) for li in layer.linears]
                )
            ],
        }
        for layer in structure.layers
    ]
    return RinConfig.model_validate(
        {
            "strategy": "uniform",
            "control": None,
            "source": {
                "scan": "none",
                "model": "benchmark",
                "model_fingerprint": None,
                "layers": len(layers),
                "site": "output",
                "format": "mxfp4",
                "scale_rule": "floor",
                "metric": "relative_error",
            },
            "parameters": {
                **schedule,
                **dict.fromkeys(
                    ("top_k", "direction", "cap", "clip", "zones", "tiers", "seed"), None
                ),
                "equal_energy": False,
            },
            "layer_type": layer_type,
            "exclude_patterns": [],
            "excluded": [],
            "tiers": [
                {"name": "all", "schedule": schedule, "sigmas": [0, 0.05, 0.05], "layers": layers}
            ],
            "energy": {
                "first_stage": 0.0,
                "mean": 0.0,
                "relative_to_uniform": 1.0,
                "weights": None,
            },
            "recommendation": {"strategy": "uniform", "reasons": []},
            "warnings": [],
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--layer-type", choices=["rmsnorm", "linear"], default="rmsnorm")
    given = parser.parse_args()
    print(machine.describe())
    model = large_model(given.layers)
    config = config_for(model, given.layer_type)
    ids = torch.randint(model.config.vocab_size, (1, given.tokens))
    weights = sum(module.size for entry in config.layers for module in entry.modules)

    @torch.no_grad()
    def forward() -> None:
        model(input_ids=ids, use_cache=False)

    def noise() -> None:
        with noisy(model, config, step=1, total_steps=3):
            pass

    def resolve() -> None:
        targets_of(model, config)

    forward()
    noise()
    seconds = machine.in_turn([noise, forward, resolve], given.rounds)
    middle, low, high = machine.ratio(seconds[0], seconds[1])
    print(f"weights under noise    {weights:14,} ({given.layer_type})")
    print(f"forward, {given.tokens} tokens    {1e3 * statistics.median(seconds[1]):14.1f} ms")
    print(f"noise on and off       {1e3 * statistics.median(seconds[0]):14.1f} ms")
    print(f"  finding the modules  {1e3 * statistics.median(seconds[2]):14.1f} ms")
    print(f"noise / forward        {100 * middle:14.2f} % ({100 * low:.2f} to {100 * high:.2f})")


if __name__ == "__main__":
    main()
