"""Which modules of a model a configuration means, and whether it was made for such a model.

A configuration names modules as the scanned model did. The model at hand may be wrapped: in DDP,
compiled, with activation checkpointing, or with adapters. Names are compared without what such
wrappers put into them, and that is also the name that the noise is drawn for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from srdd.documents.rin import LayerNoise, RinConfig, Schedule
from srdd.errors import InputError, counted
from srdd.model.structure import DecoderLayer, NormModule, Structure, find_structure
from srdd.rin.schedule import sigma_at

IN_NAMES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
"""What torch.compile, FSDP, activation checkpointing and PEFT put into the names of modules."""

BEFORE_NAMES = "base_model.model."
"""What PEFT puts before them."""

CLOSEST = 8


@dataclass(frozen=True)
class Place:
    """A module that gets noise.

    Attributes:
        name: without what wrappers put into it.
        layer: index of its decoder layer.
        multiplier, schedule: of its noise.
        gain_rms: of a norm, from the configuration or else observed; None if unknown.
    """

    name: str
    layer: int
    module: nn.Module
    multiplier: float
    schedule: Schedule
    gain_rms: float | None

    def sigma(self, step: int, total_steps: int) -> float:
        """Standard deviation of its noise at a step."""
        return self.multiplier * sigma_at(self.schedule, step, total_steps)


def plain_name(name: str) -> str:
    """A module's name without what wrappers put into it."""
    kept = ".".join(part for part in name.split(".") if part not in IN_NAMES)
    return kept.removeprefix(BEFORE_NAMES)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP or DataParallel."""
    while isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    return model


def named_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by plain name; where a wrapper has the name of what it wraps, that which holds the
    weight.
    """
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        plain = plain_name(name)
        if plain not in found or module._parameters.get("weight") is not None:
            found[plain] = module
    return found


def places_of(model: nn.Module, config: RinConfig) -> tuple[Place, ...]:
    """The modules that a configuration puts noise on, by layer and name.

    Modules come by their names, or where the configuration names none, by the layer's index: then
    they are the layer's RMSNorms or linears without those that `exclude_patterns` leave out.

    Raises:
        InputError: the model has another number of layers, lacks a module, or has another kind of
            module there; or a layer has nothing that may get noise.
    """
    model = unwrapped(model)
    structure = find_structure(model)
    if len(structure.layers) != config.source.layers:
        raise InputError(
            f"the configuration is for a model of {counted(config.source.layers, 'layer')}, and "
            f"this one has {len(structure.layers)}",
            "scan this model, and make a configuration from that",
        )
    modules = named_modules(model)
    _check_names(config, modules)
    norms = {plain_name(n.name): n for layer in structure.layers for n in layer.norms}
    found = []
    for tier in config.tiers:
        for entry in tier.layers:
            for name, size, gain in _named(entry, structure, config):
                module = modules[name]
                _check_kind(name, module, config.layer_type, norms.get(name), size)
                if gain is None and name in norms:
                    gain = norms[name].gain_rms
                found.append(
                    Place(name, entry.layer, module, entry.multiplier, tier.schedule, gain)
                )
    return tuple(sorted(found, key=lambda place: (place.layer, place.name)))


def _check_names(config: RinConfig, modules: dict[str, nn.Module]) -> None:
    wanted = [plain_name(m.name) for entry in config.layers for m in entry.modules]
    missing = [name for name in wanted if name not in modules]
    if not missing:
        return
    more = f" (and {len(missing) - 1} more of its modules)" if len(missing) > 1 else ""
    with_weight = [n for n, m in modules.items() if m._parameters.get("weight") is not None]
    close = difflib.get_close_matches(missing[0], with_weight, CLOSEST, cutoff=0.0)
    raise InputError(
        f"the model has no module {missing[0]!r}, which the configuration puts noise on{more}",
        f"closest are: {', '.join(map(repr, close)) or 'none'}; scan this model, and make a "
        "configuration from that",
    )


def _named(
    entry: LayerNoise, structure: Structure, config: RinConfig
) -> Iterator[tuple[str, int | None, float | None]]:
    """Name, number of weights and gain of the modules of a layer; None where it is not said."""
    if entry.modules:
        for module in entry.modules:
            yield plain_name(module.name), module.size, module.gain_rms
        return
    layer = structure.layers[entry.layer]
    names = [
        name
        for name in map(plain_name, _candidates(layer, config.layer_type))
        if not any(pattern in name for pattern in config.exclude_patterns)
    ]
    if not names:
        kinds = sorted({f"{norm.type} ({norm.kind})" for norm in layer.norms})
        raise InputError(
            f"layer {entry.layer} is to get noise and has no {config.layer_type} that may; its "
            f"norms are: {', '.join(kinds) or 'none'}",
            "make a configuration with another --layer-type, or without this exclusion",
        )
    for name in names:
        yield name, None, None


def _candidates(layer: DecoderLayer, layer_type: str) -> list[str]:
    if layer_type == "linear":
        return [linear.name for linear in layer.linears]
    return [norm.name for norm in layer.norms if norm.kind == "rmsnorm"]


def _check_kind(
    name: str, module: nn.Module, layer_type: str, norm: NormModule | None, size: int | None
) -> None:
    weight = module._parameters.get("weight")
    if weight is None:
        raise InputError(
            f"{name!r} ({type(module).__name__}) holds no weight of its own",
            "scan the model as it is now, and make a configuration from that",
        )
    # A norm that could be watched at work is what it was seen to be; else its class has to tell.
    centred = isinstance(module, nn.LayerNorm) or (
        norm is not None and norm.kind == "layernorm" and norm.gain_rms is not None
    )
    right = weight.ndim == 2 if layer_type == "linear" else weight.ndim == 1 and not centred
    if not right:
        raise InputError(
            f"the configuration puts noise on {layer_type}, and {name!r} is a "
            f"{type(module).__name__}{' (layernorm)' if centred else ''}",
            "scan this model, and make a configuration from that",
        )
    # Meta and 4-bit weights have shapes of their own; they are refused where noise is added.
    if size is not None and weight.is_floating_point() and weight.numel() not in (size, 0):
        raise InputError(
            f"{name!r} has {counted(weight.numel(), 'weight')}, and the configuration is for "
            f"{size:,}",
            "scan this model, and make a configuration from that",
        )
