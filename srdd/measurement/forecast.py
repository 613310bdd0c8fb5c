"""What a scan would take, from config.json and the headers of the weights' files alone.

Counts are exact; what they cost is an estimate. Nothing here imports torch.

    operations   2 for each weight of a linear and token that meet in a forward pass, and for the
                 query and key, and the probability and value, that meet in attention. The estimate
                 of the sensitivity takes two forward passes and, for each sample of labels, a
                 backward pass of as many; for each format a product with the weights' errors
    memory       weights in the type they are loaded in; what one batch holds at a time; the copy in
                 float32 on which estimates are checked
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from srdd.documents.records import REPLICATES
from srdd.measurement.plan import Plan
from srdd.model.inventory import QUANTIZABLE, Inventory, StoredModule
from srdd.model.kinds import kind_of

BATCH_TOKENS = 4096
"""Tokens of an automatic batch; see srdd.prompts.batches.AUTO_TOKENS."""

SHARING = (("q", "k", "v"), ("gate", "up"))
"""Kinds that read one tensor, which is measured once."""

RECORD_BYTES, REPLICATE_BYTES, FIGURE_BYTES = 1250, 80, 11
"""Of a record in the file, of each of its groups of prompts, and of one in a figure of sensitivity.
Measured on a scan of the demo model with every site and `--kl`."""

DTYPE_BYTES = {"float32": 4, "float64": 8}
"""Bytes of a value by type; 2 where it is not here."""


@dataclass(frozen=True)
class Forecast:
    """What a scan would measure and take.

    Attributes:
        layers, linears, parameters: of the model; stacked experts are one linear, and parameters
            are those of linears in decoder layers.
        prompts, tokens: of the calibration text; tokens are estimated where `counted` is false.
        records, document_bytes: of the scan's file.
        operations: floating-point operations, by what they are for.
        values: numbers to quantize.
        memory_bytes: by what it is for.
        free_bytes: memory that is free on this machine; None where that is unknown.
    """

    layers: int
    linears: int
    parameters: int
    prompts: int
    tokens: int
    counted: bool
    records: int
    document_bytes: int
    operations: Mapping[str, float]
    values: int
    memory_bytes: Mapping[str, int]
    free_bytes: int | None

    @property
    def fits(self) -> bool:
        """Whether it fits into the memory that is free here, as far as that is known."""
        return self.free_bytes is None or sum(self.memory_bytes.values()) <= self.free_bytes

    def seconds(self, operations_a_second: float, values_a_second: float) -> float:
        """How long it takes on a machine of this speed, without loading the model."""
        return sum(self.operations.values()) / operations_a_second + self.values / values_a_second


def forecast(
    inventory: Inventory,
    config: Mapping[str, Any],
    plan: Plan,
    lengths: Sequence[int],
    *,
    counted: bool,
    dtype: str,
) -> Forecast:
    """What a scan would take.

    Arguments:
        inventory: of the model's files.
        config: the model's config.json; of a model of several parts, its `text_config`.
        lengths: tokens of each prompt.
        counted: whether these were counted and not estimated.
        dtype: the type that weights are loaded in.
    """
    linears = [
        each
        for each in inventory.modules
        if each.layer is not None and each.role in (*QUANTIZABLE, "router")
    ]
    chosen = [each for each in linears if plan.selection.takes(each.name)]
    names = _linears(chosen)
    layers = 1 + max((each.layer for each in linears if each.layer is not None), default=-1)
    tokens = sum(lengths)
    active = _active_experts(config)
    weights = sum(_met(each, active) for each in linears)
    hidden = int(config.get("hidden_size") or config.get("n_embd") or 0)
    head = hidden * int(config.get("vocab_size") or 0)
    formats = len(plan.specs)

    attention = 4.0 * layers * hidden * sum(length * length for length in lengths) / 2
    forward = 2.0 * weights * tokens + attention
    operations: dict[str, float] = {}
    if {"output", "input", "linear"} & set(plan.sites):
        operations["forward pass"] = forward
    met = sum(_met(each, active) for each in chosen)
    if "linear" in plan.sites:
        operations["products of site linear"] = 2.0 * met * tokens * (1 + 3 * formats)
    if plan.kl is not None:
        whole = forward + 2.0 * head * tokens
        operations["sensitivity"] = (2 + plan.kl_samples) * whole + 2.0 * met * tokens * formats
        checks = len(names) if plan.kl == "direct" else min(plan.kl_check, len(names))
        if checks:
            operations["direct measurement"] = formats * (1.5 + checks / 2) * whole + 2 * whole

    records = _records(names, layers, plan)
    groups = min(REPLICATES, len(lengths)) if lengths else 1
    size = 0
    for site, count in records.items():
        size += count * (RECORD_BYTES + (0 if site == "weight" else REPLICATE_BYTES * groups))
    if plan.kl is not None:
        figures = 3 * formats * (len(names) + layers + 8) + len(names) + 2 * layers + 1
        size += figures * (100 + FIGURE_BYTES * groups)

    return Forecast(
        layers=layers,
        linears=len(names),
        parameters=sum(math.prod(each.shape or (0,)) for each in chosen),
        prompts=len(lengths),
        tokens=tokens,
        counted=counted,
        records=sum(records.values()),
        document_bytes=size,
        operations=operations,
        values=_values(chosen, layers, hidden, tokens, plan, active),
        memory_bytes=_memory(inventory, config, plan, lengths, linears, layers, hidden, dtype),
        free_bytes=_free_bytes(),
    )


def _active_experts(config: Mapping[str, Any]) -> float:
    """The share of a layer's experts that a token meets."""
    count = (
        config.get("num_local_experts")
        or config.get("num_experts")
        or config.get("n_routed_experts")
    )
    chosen = config.get("num_experts_per_tok")
    return chosen / count if count and chosen else 1.0


def _met(each: StoredModule, active: float) -> float:
    """The weights of a module that a token meets."""
    return math.prod(each.shape or (0,)) * (active if each.role == "expert" else 1.0)


def _reads(each: StoredModule, active: float) -> float:
    """The values that a module reads of a token."""
    *stacked, _, width = (0, *(each.shape or (0, 0)))
    return width * max(1, math.prod(stacked[1:])) * (active if each.role == "expert" else 1.0)


def _linears(chosen: Sequence[StoredModule]) -> list[str]:
    """Their names in the loaded model, which stacks experts that are stored one by one."""
    names: dict[str, None] = {}
    for each in chosen:
        block, numbered, _ = re.sub(r"(\.experts)\.\d+\.\w+$", r"\1|.", each.name).partition("|")
        name = each.name
        if numbered:
            name = f"{block}.{'down' if kind_of(name) == 'down' else 'gate_up'}_proj"
        names[name] = None
    return list(names)


def _inputs(names: Sequence[str]) -> int:
    """How many different tensors they read; see SHARING."""
    first = {kind: kinds[0] for kinds in SHARING for kind in kinds}
    kinds = [(name.rpartition(".")[0], kind_of(name)) for name in names]
    return len({(block, first.get(kind, kind)) for block, kind in kinds})


def _records(names: Sequence[str], layers: int, plan: Plan) -> dict[str, int]:
    formats = len(plan.specs)
    counts = {
        "output": layers,
        "input": _inputs(names),
        "weight": len(names),
        "linear": 3 * len(names),
    }
    return {site: formats * counts[site] for site in plan.sites}


def _values(
    chosen: Sequence[StoredModule],
    layers: int,
    hidden: int,
    tokens: int,
    plan: Plan,
    active: float,
) -> int:
    """Numbers that are quantized, in all formats."""
    total = 0.0
    names = _linears(chosen)
    share = _inputs(names) / len(names) if names else 0.0
    read = sum(_reads(each, active) for each in chosen)
    if "output" in plan.sites:
        total += layers * hidden * tokens
    if "input" in plan.sites:
        total += share * read * tokens
    if "weight" in plan.sites:
        total += sum(math.prod(each.shape or (0,)) for each in chosen)
    if "linear" in plan.sites:
        total += 2 * read * tokens
    if plan.kl is not None:
        total += 2 * read * tokens
    return round(total * len(plan.specs))


def _memory(
    inventory: Inventory,
    config: Mapping[str, Any],
    plan: Plan,
    lengths: Sequence[int],
    linears: Sequence[StoredModule],
    layers: int,
    hidden: int,
    dtype: str,
) -> dict[str, int]:
    parameters = sum(math.prod(each.shape) for each in inventory.modules if each.shape)
    each_value = DTYPE_BYTES.get(dtype, 2)
    memory = {"weights": parameters * each_value}
    if not lengths:
        return memory
    longest = max(lengths)
    batch = max(longest, BATCH_TOKENS) if plan.batch_size == "auto" else longest * plan.batch_size
    batch = min(batch, sum(lengths)) if plan.batch_size == "auto" else batch
    first = [each for each in linears if each.layer == 0 and each.role != "expert"]
    widths = sum(sum((each.shape or (0, 0))[-2:]) for each in first)
    memory["a batch"] = batch * (4 * hidden + widths) * max(each_value, 4)
    if plan.kl is not None:
        vocabulary = int(config.get("vocab_size") or 0)
        logits = min(batch * vocabulary, max(1 << 27, longest * vocabulary))
        memory["logits"] = logits * (each_value + 4)
        memory["hidden states between layers"] = batch * hidden * layers * each_value
        if (plan.kl_check or plan.kl == "direct") and each_value != 4:
            memory["copy in float32 for checks"] = 4 * parameters
    return memory


def _free_bytes() -> int | None:
    if not hasattr(os, "sysconf") or "SC_AVPHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
