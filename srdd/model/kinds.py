"""Kinds of tensors: what a linear does, from the name of its module.

Architectures call the same thing differently: the query projection is `q_proj`, `query` or `wq`. A
name that is not known is its own kind, so that different things are never pooled.
"""

from __future__ import annotations

_NAMES = {
    "q": ("q_proj", "query", "wq", "q_a_proj", "q_b_proj"),
    "k": ("k_proj", "key", "wk"),
    "v": ("v_proj", "value", "wv"),
    "qkv": ("qkv_proj", "query_key_value", "c_attn", "Wqkv", "qkv"),
    "kv": ("kv_a_proj_with_mqa", "kv_b_proj"),
    "gate": ("gate_proj", "w1"),
    "up": ("up_proj", "fc1", "fc_in", "c_fc", "dense_h_to_4h", "w3"),
    "gate_up": ("gate_up_proj", "gate_and_up"),
    "down": ("down_proj", "fc2", "fc_out", "dense_4h_to_h", "w2"),
    "o": ("o_proj", "out_proj", "dense", "wo"),
    "router": ("router", "gate", "shared_expert_gate"),
}
_KIND_OF = {name: kind for kind, names in _NAMES.items() for name in names}

ORDER = ("q", "k", "v", "qkv", "kv", "o", "router", "gate", "up", "gate_up", "down")
"""The order in which a layer uses them."""


def kind_of(tensor: str) -> str:
    """The kind of a module by its full name, such as `down` for `model.layers.3.mlp.down_proj`.

    GPT-2 calls two projections `c_proj`; the part of the layer decides.
    """
    parts = tensor.split(".")
    last = parts[-1]
    if last == "c_proj":
        return "down" if "mlp" in parts else "o"
    return _KIND_OF.get(last, last)


def kinds_of(tensors: list[str]) -> str:
    """The kinds of modules that read one tensor, such as `q,k,v`."""
    return ",".join(dict.fromkeys(kind_of(tensor) for tensor in tensors))
