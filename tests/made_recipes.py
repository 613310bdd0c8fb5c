"""Recipes made up for tests: two layers, four linears each, one of them in three formats."""

from __future__ import annotations

from typing import Any

FORMATS = {"mxfp4:floor": 4.25, "mxfp8_e4m3:floor": 8.25, "bf16": 16.0}
"""Candidates with their bits a weight: elements of 4 and 8 bits, 8 bits of scale for 32."""

SIZES = {"self_attn.q_proj": 100, "self_attn.k_proj": 50, "mlp.up_proj": 400, "mlp.down_proj": 400}
KINDS = {"q_proj": "q", "k_proj": "k", "up_proj": "up", "down_proj": "down"}


def content() -> dict[str, Any]:
    """A recipe as a JSON object: all in mxfp4 but the first `down_proj`, in bf16."""
    modules = []
    for layer in range(2):
        for name, size in SIZES.items():
            kept = (layer, name) == (0, "mlp.down_proj")
            own = name.rpartition(".")[2]
            group = "self_attn.q_proj+k_proj" if own in ("q_proj", "k_proj") else name
            modules.append(
                {
                    "module": f"model.layers.{layer}.{name}",
                    "layer": layer,
                    "kind": KINDS[own],
                    "parameters": size,
                    "format": "bf16" if kept else "mxfp4:floor",
                    "operands": None if kept else "both",
                    "kl": 0.0 if kept else size / 1000,
                    "group": f"model.layers.{layer}.{group}",
                    "pinned": False,
                    "why": "chosen",
                }
            )
    kept_bits = sum(m["parameters"] * FORMATS[m["format"]] for m in modules)
    return {
        "kind": "srdd.recipe",
        "schema_version": 1,
        "model": {"name": "made/up", "fingerprint": "f" * 64, "architecture": "MadeForCausalLM"},
        "source": {
            "scan": "5" * 64,
            "method": "estimate",
            "tokens": 1000,
            "holds": True,
            "check": "the estimate agrees with direct measurement",
        },
        "budget": {"bits": 7.0, "max_kl": None},
        "granularity": "linear-group",
        "bits": kept_bits / sum(m["parameters"] for m in modules),
        "predicted_kl": sum(m["kl"] for m in modules),
        "predicted_interval": [1.4, 1.6],
        "all_low_kl": 1.9,
        "formats": list(FORMATS),
        "modules": modules,
        "left_out": [],
        "warnings": [],
    }
