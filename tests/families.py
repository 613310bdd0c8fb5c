"""Tiny, randomly initialised models of many families, with what is to be found in them.

The expectations are written down by hand from the architectures, with the sizes of `SIZES`:
a linear by (in_features, out_features), a norm by its kind.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers
from torch import nn

VOCABULARY, HIDDEN, LAYERS = 264, 64, 3

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
NO_GROUPS = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
OLD_SIZES = {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 4}

RMS, LAYER = "rmsnorm", "layernorm"

ATTENTION = {
    "self_attn.q_proj": (64, 64),
    "self_attn.k_proj": (64, 32),
    "self_attn.v_proj": (64, 32),
    "self_attn.o_proj": (64, 64),
}
MLP = {"mlp.gate_proj": (64, 96), "mlp.up_proj": (64, 96), "mlp.down_proj": (96, 64)}
NORMS = {"input_layernorm": RMS, "post_attention_layernorm": RMS}
LAYER_NORMS = dict.fromkeys(NORMS, LAYER)
SANDWICH = NORMS | {"pre_feedforward_layernorm": RMS, "post_feedforward_layernorm": RMS}
QK_NORMS = {"self_attn.q_norm": RMS, "self_attn.k_norm": RMS}
FUSED_ATTENTION = {"self_attention.query_key_value": (64, 192), "self_attention.dense": (64, 64)}
FOURFOLD_MLP = {"mlp.dense_h_to_4h": (64, 256), "mlp.dense_4h_to_h": (256, 64)}


@dataclass(frozen=True)
class Family:
    """One architecture.

    Attributes:
        config: class name of its configuration in transformers.
        options: arguments of that class.
        linears, norms: those of the first layer, by their names inside it.
        decoder: name of the list of layers.
        other_norms: names of the norms outside the layers.
        adds_one: its norms store the gain minus one.
        alike: all layers have the linears of the first.
    """

    config: str
    options: dict[str, Any]
    linears: dict[str, tuple[int, int]] = field(default_factory=lambda: ATTENTION | MLP)
    norms: dict[str, str] = field(default_factory=lambda: NORMS)
    decoder: str = "model.layers"
    other_norms: tuple[str, ...] = ("model.norm",)
    adds_one: bool = False
    alike: bool = True


FAMILIES = {
    "llama": Family("LlamaConfig", SIZES),
    "qwen2": Family("Qwen2Config", SIZES),
    "qwen3": Family("Qwen3Config", SIZES | {"head_dim": 16}, norms=NORMS | QK_NORMS),
    "mistral": Family("MistralConfig", SIZES),
    "gemma2": Family("Gemma2Config", SIZES | {"head_dim": 16}, norms=SANDWICH, adds_one=True),
    "gemma3_text": Family(
        "Gemma3TextConfig", SIZES | {"head_dim": 16}, norms=SANDWICH | QK_NORMS, adds_one=True
    ),
    "phi3": Family(
        "Phi3Config",
        SIZES,
        linears={
            "self_attn.qkv_proj": (64, 128),
            "self_attn.o_proj": (64, 64),
            "mlp.gate_up_proj": (64, 192),
            "mlp.down_proj": (96, 64),
        },
    ),
    "gpt2": Family(
        "GPT2Config",
        OLD_SIZES,
        linears={
            "attn.c_attn": (64, 192),
            "attn.c_proj": (64, 64),
            "mlp.c_fc": (64, 256),
            "mlp.c_proj": (256, 64),
        },
        norms={"ln_1": LAYER, "ln_2": LAYER},
        decoder="transformer.h",
        other_norms=("transformer.ln_f",),
    ),
    "gpt_neox": Family(
        "GPTNeoXConfig",
        NO_GROUPS,
        linears={
            "attention.query_key_value": (64, 192),
            "attention.dense": (64, 64),
            "mlp.dense_h_to_4h": (64, 96),
            "mlp.dense_4h_to_h": (96, 64),
        },
        norms=LAYER_NORMS,
        decoder="gpt_neox.layers",
        other_norms=("gpt_neox.final_layer_norm",),
    ),
    "opt": Family(
        "OPTConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "ffn_dim": 96,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 4,
            "word_embed_proj_dim": HIDDEN,
            "max_position_embeddings": 256,
        },
        linears={
            "self_attn.q_proj": (64, 64),
            "self_attn.k_proj": (64, 64),
            "self_attn.v_proj": (64, 64),
            "self_attn.out_proj": (64, 64),
            "fc1": (64, 96),
            "fc2": (96, 64),
        },
        norms={"self_attn_layer_norm": LAYER, "final_layer_norm": LAYER},
        decoder="model.decoder.layers",
        other_norms=("model.decoder.final_layer_norm",),
    ),
    "falcon": Family(
        "FalconConfig",
        {key: value for key, value in NO_GROUPS.items() if key != "intermediate_size"},
        linears={
            "self_attention.query_key_value": (64, 96),
            "self_attention.dense": (64, 64),
            **FOURFOLD_MLP,
        },
        norms={"input_layernorm": LAYER},
        decoder="transformer.h",
        other_norms=("transformer.ln_f",),
    ),
    "bloom": Family(
        "BloomConfig",
        {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 4},
        linears=FUSED_ATTENTION | FOURFOLD_MLP,
        norms=LAYER_NORMS,
        decoder="transformer.h",
        other_norms=("transformer.word_embeddings_layernorm", "transformer.ln_f"),
    ),
    "mixtral": Family(
        "MixtralConfig", SIZES | {"num_local_experts": 4}, linears=ATTENTION | {"mlp.gate": (64, 4)}
    ),
    "qwen2_moe": Family(
        "Qwen2MoeConfig",
        SIZES
        | {
            "num_experts": 4,
            "moe_intermediate_size": 32,
            "shared_expert_intermediate_size": 48,
        },
        linears=ATTENTION
        | {
            "mlp.gate": (64, 4),
            "mlp.shared_expert.gate_proj": (64, 48),
            "mlp.shared_expert.up_proj": (64, 48),
            "mlp.shared_expert.down_proj": (48, 64),
            "mlp.shared_expert_gate": (64, 1),
        },
    ),
    "cohere": Family("CohereConfig", SIZES, norms={"input_layernorm": LAYER}),
    "olmo2": Family(
        "Olmo2Config",
        SIZES,
        norms={"post_attention_layernorm": RMS, "post_feedforward_layernorm": RMS} | QK_NORMS,
    ),
    "mamba": Family(
        "MambaConfig",
        {"vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS},
        linears={
            "mixer.in_proj": (64, 256),
            "mixer.x_proj": (128, 36),
            "mixer.dt_proj": (4, 128),
            "mixer.out_proj": (128, 64),
        },
        norms={"norm": RMS},
        decoder="backbone.layers",
        other_norms=("backbone.norm_f",),
    ),
    "gptj": Family(
        "GPTJConfig",
        OLD_SIZES | {"rotary_dim": 8},
        linears={
            "attn.q_proj": (64, 64),
            "attn.k_proj": (64, 64),
            "attn.v_proj": (64, 64),
            "attn.out_proj": (64, 64),
            "mlp.fc_in": (64, 256),
            "mlp.fc_out": (256, 64),
        },
        norms={"ln_1": LAYER},
        decoder="transformer.h",
        other_norms=("transformer.ln_f",),
    ),
    "gpt_oss": Family(
        "GptOssConfig",
        SIZES | {"num_local_experts": 4, "head_dim": 16},
        linears=ATTENTION | {"mlp.router": (64, 4)},
    ),
    "deepseek_v3": Family(
        "DeepseekV3Config",
        SIZES
        | {
            "num_key_value_heads": 4,
            "n_routed_experts": 4,
            "moe_intermediate_size": 32,
            "q_lora_rank": 32,
            "kv_lora_rank": 16,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 16,
            "n_group": 1,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "first_k_dense_replace": 1,
        },
        linears=MLP
        | {
            "self_attn.q_a_proj": (64, 32),
            "self_attn.q_b_proj": (32, 64),
            "self_attn.kv_a_proj_with_mqa": (64, 24),
            "self_attn.kv_b_proj": (16, 96),
            "self_attn.o_proj": (64, 64),
        },
        norms=NORMS | {"self_attn.q_a_layernorm": RMS, "self_attn.kv_a_layernorm": RMS},
        alike=False,
    ),
}

TUPLES = ("falcon", "bloom", "gptj")
"""Families whose decoder layers return a tuple."""


def new(name: str, **changes: Any) -> nn.Module:
    """A new model of a family in float32, the same at every call."""
    family = FAMILIES[name]
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, family.config)(**(special | family.options | changes))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.requires_grad_(False)
    result: nn.Module = model.eval()
    return result


@cache
def shared(name: str) -> nn.Module:
    """The same for tests that leave it as it is."""
    return new(name)
