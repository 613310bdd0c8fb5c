"""The sensitivity of a scan: estimated, checked by direct measurement, and written down.

estimate ──► a few tensors and the whole, measured directly ──► section of the Scan
or every tensor, measured directly          ──┘
"""

from __future__ import annotations

import copy
import os

import numpy as np
import torch
from torch import nn

from srdd.documents import sensitivity as schema
from srdd.documents import sensitivity_figures as figures
from srdd.errors import UsageError
from srdd.measurement.listener import Listener
from srdd.measurement.plan import Plan
from srdd.measurement.sensitivity import Sensitivity, measure_sensitivity
from srdd.model.running import device_of
from srdd.model.structure import Structure, find_structure
from srdd.prompts.batches import TokenizedPrompts
from srdd.simulation.direct import Change, Sums, measure_directly


def sensitivity_of(
    model: nn.Module,
    structure: Structure,
    tokenized: TokenizedPrompts,
    plan: Plan,
    *,
    pad: int,
    listener: Listener,
) -> schema.Sensitivity:
    """What quantizing each linear costs, as the plan wants it.

    Raises:
        UsageError, InputError: as srdd.measurement.sensitivity and srdd.simulation.direct.
    """
    estimate = measure_sensitivity(
        model,
        structure,
        tokenized,
        plan.specs,
        selection=plan.selection,
        samples=plan.kl_samples,
        pad=pad,
        rounding=plan.rounding,
        batch_size=plan.batch_size,
        skip_first_token=plan.skip_first_token,
        seed=plan.seed,
        listener=listener,
    )
    direct = plan.kl == "direct"
    changes = _changes(estimate, plan, len(estimate.changes) if direct else plan.kl_check)
    if plan.rounding != "even" and changes:
        listener.warn("the sensitivity was not checked: simulation rounds to even only")
        changes = []
    measured: dict[Change, Sums] = {}
    measured_in = None
    if changes:
        try:
            reference = in_float32(model)
            measured_in = dtype_of(reference)
            if measured_in != "float32":
                listener.warn(
                    f"direct measurement is in {measured_in}, since memory has no room for a copy "
                    "in float32: its own rounding adds to the cost of small changes"
                )
            measured = measure_directly(
                reference,
                structure if reference is model else find_structure(reference),
                tokenized,
                changes,
                selection=plan.selection,
                pad=pad,
                batch_size=plan.batch_size,
                skip_first_token=plan.skip_first_token,
                listener=listener,
            )
        except UsageError as error:
            if direct:
                raise
            listener.warn(f"the sensitivity was not checked: {error}")
    document = _document(estimate, measured, direct=direct, measured_in=measured_in)
    if not direct:
        for spec in plan.formats:
            holds, sentence = figures.verdict(document, spec)
            if holds is False:
                listener.warn(f"sensitivity in {spec}: {sentence}")
    return document


def _changes(estimate: Sensitivity, plan: Plan, count: int) -> list[Change]:
    """All linears together, and `count` of them spread over the ranking, in each format."""
    changes = []
    for spec in plan.specs if count else ():
        names = [t for t, s, operands in estimate.changes if (s, operands) == (spec, "both")]
        names.sort(key=lambda name: -estimate.kl((name, spec, "both")))
        places = np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).round())
        changes.append(Change(None, 0, str(spec), "both"))
        for place in places.astype(int):
            layer = estimate.layers[names[place]] or 0
            changes.append(Change(names[place], layer, str(spec), "both"))
    return changes


def in_float32(model: nn.Module) -> nn.Module:
    """The model that changes are measured on: a copy in float32 where memory has room for one.

    In 16 bits, any change makes every later rounding fall otherwise, which can cost as much as
    quantizing a tensor. A model in float32, on several devices or offloaded is given back as it is.
    """
    devices = {parameter.device for parameter in model.parameters()}
    if dtype_of(model) == "float32" or len(devices) > 1 or hasattr(model, "hf_device_map"):
        return model
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if 2 * size > _free_bytes(device_of(model)):
        return model
    return copy.deepcopy(model).float()


def dtype_of(model: nn.Module) -> str:
    """The type of its floating-point weights; the first one's where they differ."""
    types = [p.dtype for p in model.parameters() if p.is_floating_point()]
    return str(next((t for t in types if t != torch.float32), torch.float32)).split(".")[1]


def _free_bytes(device: torch.device) -> int:
    """Memory that is free on a device; 0 where that is unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu" or not hasattr(os, "sysconf"):
        return 0
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _document(
    estimate: Sensitivity,
    measured: dict[Change, Sums],
    *,
    direct: bool,
    measured_in: str | None,
) -> schema.Sensitivity:
    tokens = estimate.tokens
    order = {tensor: place for place, tensor in enumerate(estimate.layers)}
    changed = [
        schema.Changed(
            **figures.figure(sums / 2, tokens),
            layer=estimate.layers[tensor] or 0,
            tensor=tensor,
            format=str(spec),
            operands=operands,
        )
        for (tensor, spec, operands), sums in estimate.changes.items()
    ]
    together = [
        schema.Joint(
            **figures.figure(sums / 2, tokens),
            scope=scope,
            name=name,
            format=str(spec),
            operands=operands,
        )
        for ((scope, name), spec, operands), sums in estimate.joint.items()
    ]
    nats: dict[tuple[str, str, str], Sums] = {
        (c.tensor, c.format, c.operands): np.array(c.nats) for c in changed
    }
    checks = [
        figures.checked(
            change.tensor,
            change.format,
            change.operands,
            _estimated(change, nats),
            sums,
            tokens,
        )
        for change, sums in measured.items()
    ]
    if direct:
        changed = [
            schema.Changed(
                **figures.figure(sums, tokens),
                layer=change.layer,
                tensor=change.tensor,
                format=change.format,
                operands=change.operands,
            )
            for change, sums in measured.items()
            if change.tensor is not None
        ]
        checks = [check for check in checks if check.tensor is None]
    return schema.Sensitivity(
        method="direct" if direct else "estimate",
        samples=estimate.samples,
        tokens=[int(count) for count in tokens],
        changes=sorted(changed, key=lambda change: order[change.tensor]),
        joint=[] if direct else together,
        noise=[
            schema.NoiseCost(
                **figures.figure(sums / 2, tokens),
                layer=estimate.layers[tensor],
                tensor=tensor,
                parameter="norm" if tensor in estimate.norms else "linear",
                magnitudes=estimate.magnitudes.get(tensor),
            )
            for tensor, sums in estimate.noise.items()
            if np.isfinite(sums).all()
        ],
        checks=checks,
        measured_in=measured_in,
        not_measured=dict(estimate.unusable),
    )


def _estimated(change: Change, nats: dict[tuple[str, str, str], Sums]) -> Sums:
    """The estimate of a change; of all tensors together, the sum."""
    if change.tensor is not None:
        return nats[change.tensor, change.format, change.operands]
    chosen = [
        sums
        for (_, spec, operands), sums in nats.items()
        if (spec, operands) == (change.format, change.operands)
    ]
    total: Sums = np.sum(chosen, axis=0)
    return total
