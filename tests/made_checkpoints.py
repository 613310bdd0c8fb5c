"""Checkpoints made up by the names of their tensors, and modules of the same names."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import nn

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
NORMS = ("input_layernorm", "post_attention_layernorm")
SIDE = 32


def dense(layers: Iterable[int]) -> list[str]:
    """Names of the linears in the layers of a Llama."""
    return [f"model.layers.{n}.{name}" for n in layers for name in (*ATTENTION, *MLP)]


def experts(layers: Iterable[int], count: int) -> list[str]:
    """Names of the linears in the layers of a Qwen3-MoE, routers among them."""
    names = []
    for n in layers:
        names += [f"model.layers.{n}.{name}" for name in ATTENTION]
        names.append(f"model.layers.{n}.mlp.gate")
        for expert in range(count):
            names += [f"model.layers.{n}.mlp.experts.{expert}.{m[4:]}" for m in MLP]
    return names


def write_checkpoint(
    folder: Path,
    linears: Iterable[str],
    *,
    layers: Iterable[int],
    architecture: str = "LlamaForCausalLM",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    side: int = SIDE,
) -> str:
    """Write config.json and model.safetensors: these linears, norms, an embedding and a head."""
    tensors = {f"{name}.weight": (side, side) for name in linears}
    for n in layers:
        tensors |= {f"model.layers.{n}.{name}.weight": (side,) for name in NORMS}
    tensors |= {"model.norm.weight": (side,), "lm_head.weight": (64, side)}
    tensors |= {"model.embed_tokens.weight": (64, side), **(shapes or {})}
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": [architecture], "model_type": "llama", "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config))
    arrays = {name: np.zeros(shape, np.float16) for name, shape in tensors.items()}
    save_file(arrays, str(folder / "model.safetensors"))
    return str(folder)


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(SIDE))


def modules_of(roles: Mapping[str, str]) -> nn.Module:
    """A module with submodules of these names: `norm`, `embedding`, and linears for other roles."""
    root = nn.Module()
    for name, role in roles.items():
        *parents, last = name.split(".")
        place = root
        for part in parents:
            if part not in place._modules:
                place.add_module(part, nn.Module())
            place = place.get_submodule(part)
        made = {"norm": RMSNorm, "embedding": lambda: nn.Embedding(64, SIDE)}
        linear = nn.Linear(SIDE, SIDE, bias=False, dtype=torch.bfloat16)
        place.add_module(last, made[role]() if role in made else linear)
    return root
