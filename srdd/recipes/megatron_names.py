"""What Megatron-Core calls the linears of transformers."""

from __future__ import annotations

import re

_PARTS = {
    "q_proj": "linear_qkv",
    "k_proj": "linear_qkv",
    "v_proj": "linear_qkv",
    "qkv_proj": "linear_qkv",
    "o_proj": "linear_proj",
    "gate_proj": "linear_fc1",
    "up_proj": "linear_fc1",
    "gate_up_proj": "linear_fc1",
    "w1": "linear_fc1",
    "w3": "linear_fc1",
    "down_proj": "linear_fc2",
    "w2": "linear_fc2",
    "q_a_proj": "linear_q_down_proj",
    "q_b_proj": "linear_q_up_proj",
    "kv_a_proj_with_mqa": "linear_kv_down_proj",
    "kv_b_proj": "linear_kv_up_proj",
}
"""Last part of a name of transformers -> of Megatron-Core's `self_attention` and `mlp`."""

_LAYERS = re.compile(r"^(?:.*\.)?(?:layers|h)\.(?P<layer>\d+)\.(?P<rest>.+)$")
_BLOCKS = {"self_attn": "self_attention", "mlp": "mlp", "block_sparse_moe": "mlp"}
_EXPERTS = {
    "experts": "experts",
    "shared_experts": "shared_experts",
    "shared_expert": "shared_experts",
}


def megatron_name(name: str) -> str | None:
    """What Megatron-Core calls a linear of transformers, None where that is not known.

    `model.layers.3.mlp.experts.7.gate_proj` is in `decoder.layers.3.mlp.experts.linear_fc1`.
    """
    found = _LAYERS.match(name)
    if not found:
        return None
    block, *inner, last = (*found["rest"].split("."), "")[:-1]
    inner = [part for part in inner if not part.isdecimal()]
    if block not in _BLOCKS or last not in _PARTS or any(part not in _EXPERTS for part in inner):
        return None
    parts = (_BLOCKS[block], *(_EXPERTS[part] for part in inner), _PARTS[last])
    return ".".join(("decoder.layers", found["layer"], *parts))
