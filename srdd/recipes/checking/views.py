"""The modules of a checkpoint under the names that a consumer knows them by.

    stored      model.layers.0.mlp.experts.7.gate_proj     (files; vLLM, llm-compressor)
    stacked     model.layers.0.mlp.experts.gate_up_proj    (transformers 5 in memory)
    megatron    decoder.layers.0.mlp.experts.linear_fc1    (Megatron-Core)

Every module says which stored ones it stands for, so that two consumers can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

from srdd.model.inventory import QUANTIZABLE, Inventory, Role, StoredModule
from srdd.model.kinds import kind_of
from srdd.recipes.megatron_names import megatron_name

_EXPERT = re.compile(r"^(?P<experts>.*\.experts)\.(?:(?P<number>\d+)\.)?(?P<last>[^.]+)$")
_CONV1D = ("c_attn", "c_proj", "c_fc", "q_attn")
_CLASSES: Mapping[Role, str] = {"norm": "RMSNorm", "embedding": "Embedding", "other": "Module"}
_SHARDS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))
"""Linears of one parent that an engine multiplies in one product."""


@dataclass(frozen=True)
class ViewedModule:
    """A module as a consumer sees it.

    Attributes:
        name: what the consumer's patterns are matched against.
        role: what it is for.
        layer: the number of its decoder layer.
        type: its class, as far as names and shapes tell.
        group: what is multiplied in one kernel has the same, such as the experts of a layer.
        stored: the names in the checkpoint of what it stands for.
    """

    name: str
    role: Role
    layer: int | None
    type: str
    group: str | None
    stored: tuple[str, ...]

    @property
    def quantizable(self) -> bool:
        """Whether a recipe is about it."""
        return self.role in QUANTIZABLE


View = Callable[[Inventory], tuple[ViewedModule, ...]]


def stored(inventory: Inventory) -> tuple[ViewedModule, ...]:
    """Names as in the files; experts that are stacked there are taken apart."""
    return tuple(
        ViewedModule(name, each.role, each.layer, _type(each), _group(name), (each.name,))
        for each in inventory.modules
        for name in _apart(each)
    )


def stacked(inventory: Inventory) -> tuple[ViewedModule, ...]:
    """Names as transformers 5 has them in memory: a tensor for all experts of a layer."""
    members: dict[str, list[StoredModule]] = {}
    for each in inventory.modules:
        members.setdefault(_stacked_name(each), []).append(each)
    return tuple(
        ViewedModule(
            name,
            parts[0].role,
            parts[0].layer,
            "Experts" if parts[0].role == "expert" else _type(parts[0]),
            _group(name),
            tuple(part.name for part in parts),
        )
        for name, parts in members.items()
    )


def megatron(inventory: Inventory) -> tuple[ViewedModule, ...]:
    """Names as in a Megatron-Core GPT model, of what it makes of this checkpoint.

    Only layers that take a precision are there: embeddings, norms, routers and the head do not.
    Linears without a known counterpart keep the name that they are stored by.
    """
    members: dict[str, list[StoredModule]] = {}
    for each in inventory.modules:
        if each.role in QUANTIZABLE:
            members.setdefault(megatron_name(each.name) or each.name, []).append(each)
    return tuple(
        ViewedModule(
            name,
            parts[0].role,
            parts[0].layer,
            "TELinear",
            f"{name.rpartition('.')[0]} (experts)" if parts[0].role == "expert" else None,
            tuple(part.name for part in parts),
        )
        for name, parts in members.items()
    )


def _type(module: StoredModule) -> str:
    if module.role in _CLASSES:
        return _CLASSES[module.role]
    return "Conv1D" if module.name.rpartition(".")[2] in _CONV1D else "Linear"


def _apart(module: StoredModule) -> Iterator[str]:
    """The names of the linears in a stacked weight; otherwise the module's own."""
    found = _EXPERT.match(module.name)
    if not found or found["number"] or module.role != "expert":
        yield module.name
        return
    parts = ("gate_proj", "up_proj") if kind_of(module.name) == "gate_up" else (found["last"],)
    for number in range(module.shape[0] if module.shape else 1):
        for part in parts:
            yield f"{found['experts']}.{number}.{part}"


def _stacked_name(module: StoredModule) -> str:
    found = _EXPERT.match(module.name) if module.role in ("expert", "router") else None
    if found is None:
        return module.name.replace(".block_sparse_moe.gate", ".mlp.gate")
    last = "down_proj" if kind_of(module.name) == "down" else "gate_up_proj"
    return f"{found['experts'].replace('.block_sparse_moe.', '.mlp.')}.{last}"


@lru_cache(maxsize=1 << 16)
def _group(name: str) -> str | None:
    """The kernel that a linear is multiplied in, where it is not alone."""
    found = _EXPERT.match(name)
    if found:
        return found["experts"]
    parent, _, last = name.rpartition(".")
    for shards in _SHARDS:
        if last in shards:
            return f"{parent}.{'+'.join(shards)}"
    return None


def groups(modules: Iterable[ViewedModule]) -> dict[str, list[int]]:
    """Group -> the places of its modules; groups of one are left out."""
    found: dict[str, list[int]] = {}
    for place, each in enumerate(modules):
        if each.group and each.quantizable:
            found.setdefault(each.group, []).append(place)
    return {name: places for name, places in found.items() if len(places) > 1}
