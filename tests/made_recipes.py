"""Recipes made up for tests: two layers, four linears each, one of them in three formats."""

from __future__ import annotations

from typing import Any

import families
from torch import nn

from srdd.documents.recipe import Recipe
from srdd.model.fingerprint import fingerprint

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
        "cross_fit_kl": 1.6,
        "cross_fit_interval": [1.5, 1.7],
        "all_low_kl": 1.9,
        "formats": list(FORMATS),
        "modules": modules,
        "comparisons": [
            {
                "name": "down_proj in bf16",
                "bits": 6.5,
                "kl": 2.0,
                "recipe_kl": 1.75,
                "difference": -0.25,
                "difference_interval": [-0.5, 0.125],
            }
        ],
        "left_out": [],
        "warnings": [],
    }


ATTENTION = ("q", "k", "v", "o")
MLP = ("gate", "up", "down")


def for_llama(
    model: nn.Module,
    formats: dict[str, str],
    operands: str = "both",
    costs: dict[str, float] | None = None,
    **changes: Any,
) -> Recipe:
    """A recipe for the linears of a llama: the formats of some, mxfp4 for the others."""
    costs = {"mxfp4:floor": 2e-5, "mxfp8_e4m3:floor": 1e-6, "bf16": 0.0} if costs is None else costs
    modules: list[dict[str, Any]] = []
    for layer in range(families.LAYERS):
        for kind in (*ATTENTION, *MLP):
            part = "self_attn" if kind in ATTENTION else "mlp"
            name = f"model.layers.{layer}.{part}.{kind}_proj"
            own = formats.get(name, "mxfp4:floor")
            modules.append(
                {
                    "module": name,
                    "layer": layer,
                    "kind": kind,
                    "parameters": model.get_submodule(name).weight.numel(),
                    "format": own,
                    "operands": None if own == "bf16" else operands,
                    "kl": costs[own],
                    "group": name,
                    "pinned": False,
                    "why": "chosen by hand",
                }
            )
    count = sum(each["parameters"] for each in modules)
    content = {
        "kind": "srdd.recipe",
        "schema_version": 1,
        "model": {"name": "llama", "fingerprint": fingerprint(model), "architecture": None},
        "source": {
            "scan": "5" * 64,
            "method": "estimate",
            "tokens": 100,
            "holds": None,
            "check": "the estimate was not checked",
        },
        "budget": {"bits": 16.0, "max_kl": None},
        "granularity": "tensor",
        "bits": sum(FORMATS[m["format"]] * m["parameters"] for m in modules) / count,
        "predicted_kl": sum(m["kl"] for m in modules),
        "predicted_interval": [0.0, 1.0],
        "all_low_kl": len(modules) * costs["mxfp4:floor"],
        "formats": list(FORMATS),
        "modules": modules,
        "left_out": [],
        "warnings": [],
    }
    return Recipe.from_object(content | changes, "it")
