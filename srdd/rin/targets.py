"""Which weights of a model a configuration means, and whether it was made for such a model.

A configuration names modules as the scanned model did, and stacked experts by their parameter. The
model at hand may be wrapped: in DDP, compiled, with activation checkpointing, or with adapters.
Names are compared without what such wrappers put into them, and that is also the name that the
noise is drawn for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from srdd.documents.rin import LayerNoise, RinConfig, Schedule
from srdd.errors import InputError, counted
from srdd.model.kinds import kind_of
from srdd.model.linears import stacked_in
from srdd.model.structure import DecoderLayer, NormModule, find_structure
from srdd.rin.schedule import sigma_at

IN_NAMES = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
"""What torch.compile, FSDP, activation checkpointing and PEFT put into the names of modules."""

BEFORE_NAMES = "base_model.model."
"""What PEFT puts before them."""

CLOSEST = 8
RESCAN = "scan this model, and make a configuration from that"


@dataclass(frozen=True)
class Target:
    """A weight that gets noise.

    Attributes:
        name: of its module, or of the parameter of stacked experts, without what wrappers put in.
        layer: index of its decoder layer.
        module, key: the module that holds it, and the name of the parameter there.
        multiplier, schedule: of its noise.
        gain_rms: of a norm, from the configuration or else observed; None if unknown.
    """

    name: str
    layer: int
    module: nn.Module
    key: str
    multiplier: float
    schedule: Schedule
    gain_rms: float | None

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter as the module has it now."""
        parameter = self.module._parameters[self.key]
        assert parameter is not None
        return parameter

    def sigma(self, step: int, total_steps: int) -> float:
        """Standard deviation of its noise at a step."""
        return self.multiplier * sigma_at(self.schedule, step, total_steps)


@dataclass(frozen=True)
class Targets:
    """The weights that get noise, by layer and name, and the names of those left out."""

    noisy: tuple[Target, ...]
    left_out: tuple[str, ...]


def plain_name(name: str) -> str:
    """A module's name without what wrappers put into it."""
    kept = ".".join(part for part in name.split(".") if part not in IN_NAMES)
    return kept.removeprefix(BEFORE_NAMES)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DDP or DataParallel."""
    while isinstance(model, (nn.parallel.DistributedDataParallel, nn.DataParallel)):
        model = model.module
    return model


def _weights(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """Where each weight lies, by the plain name of its module or of its stacked parameter.

    Where a wrapper has the name of what it wraps, it is that which holds the weight. A module
    without a weight is there, too, for errors to name.
    """
    places: dict[str, tuple[nn.Module, str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        plain = plain_name(name)
        if plain not in places or module._parameters.get("weight") is not None:
            places[plain] = (module, "weight")
        for key, _ in stacked_in(module):
            places[f"{plain}.{key}"] = (module, key)
    return places


def targets_of(model: nn.Module, config: RinConfig) -> Targets:
    """The weights that a configuration puts noise on.

    They come by the names of their modules, or where the configuration names none, by the layer's
    index: then they are the layer's RMSNorms, or its linears and stacked experts without routers,
    and without those that `exclude_patterns` leave out.

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
            RESCAN,
        )
    places = _weights(model)
    _check_names(config, places)
    norms = {plain_name(n.name): n for layer in structure.layers for n in layer.norms}
    noisy, left_out = [], []
    for tier in config.tiers:
        for entry in tier.layers:
            candidates = _candidates(structure.layers[entry.layer], config.layer_type)
            named = list(_named(entry, structure.layers[entry.layer], candidates, config))
            left_out += [name for name in candidates if name not in {each[0] for each in named}]
            for name, size, gain in named:
                module, key = places[name]
                _check_kind(name, module, key, config.layer_type, norms.get(name), size)
                if gain is None and name in norms:
                    gain = norms[name].gain_rms
                noisy.append(
                    Target(name, entry.layer, module, key, entry.multiplier, tier.schedule, gain)
                )
    noisy.sort(key=lambda target: (target.layer, target.name))
    return Targets(tuple(noisy), tuple(left_out))


def _check_names(config: RinConfig, places: dict[str, tuple[nn.Module, str]]) -> None:
    wanted = [plain_name(m.name) for entry in config.layers for m in entry.modules]
    missing = [name for name in wanted if name not in places]
    if not missing:
        return
    more = f" (and {len(missing) - 1} more of its modules)" if len(missing) > 1 else ""
    known = [n for n, (module, key) in places.items() if module._parameters.get(key) is not None]
    close = difflib.get_close_matches(missing[0], known, CLOSEST, cutoff=0.0)
    raise InputError(
        f"the model has no module {missing[0]!r}, which the configuration puts noise on{more}",
        f"closest are: {', '.join(map(repr, close)) or 'none'}; {RESCAN}",
    )


def _candidates(layer: DecoderLayer, layer_type: str) -> list[str]:
    """Plain names of the layer's RMSNorms, or of its linears and stacked experts."""
    if layer_type == "rmsnorm":
        return [plain_name(norm.name) for norm in layer.norms if norm.kind == "rmsnorm"]
    stacks = [
        f"{name}.{key}"
        for name in layer.stacked
        for key, _ in stacked_in(layer.module.get_submodule(name.removeprefix(f"{layer.name}.")))
    ]
    return [plain_name(name) for name in (*(each.name for each in layer.linears), *stacks)]


def _named(
    entry: LayerNoise, layer: DecoderLayer, candidates: list[str], config: RinConfig
) -> Iterator[tuple[str, int | None, float | None]]:
    """Name, number of weights and gain of what gets noise in a layer; None where it is not said."""
    if entry.modules:
        for module in entry.modules:
            yield plain_name(module.name), module.size, module.gain_rms
        return
    names = [
        name
        for name in candidates
        if not any(pattern in name for pattern in config.exclude_patterns)
        and not (config.layer_type == "linear" and kind_of(name) == "router")
    ]
    if not names:
        kinds = sorted({f"{norm.type} ({norm.kind})" for norm in layer.norms})
        raise InputError(
            f"layer {entry.layer} is to get noise and has no {config.layer_type} that may; its "
            f"norms are: {', '.join(kinds) or 'none'}",
            "make a configuration with another `layer_type`, or without this exclusion",
        )
    for name in names:
        yield name, None, None


def _check_kind(
    name: str,
    module: nn.Module,
    key: str,
    layer_type: str,
    norm: NormModule | None,
    size: int | None,
) -> None:
    weight = module._parameters.get(key)
    if weight is None:
        raise InputError(
            f"{name!r} ({type(module).__name__}) holds no weight of its own",
            "scan the model as it is now, and make a configuration from that",
        )
    # A norm that could be watched at work is what it was seen to be; else its class has to tell.
    centred = isinstance(module, nn.LayerNorm) or (
        norm is not None and norm.kind == "layernorm" and norm.gain_rms is not None
    )
    axes = (2, 3) if layer_type == "linear" else (1,)
    if weight.ndim not in axes or (layer_type == "rmsnorm" and centred):
        raise InputError(
            f"the configuration puts noise on {layer_type}, and {name!r} is a "
            f"{type(module).__name__}{' (layernorm)' if centred else ''}",
            RESCAN,
        )
    # Meta and 4-bit weights have shapes of their own; they are refused where noise is added.
    if size is not None and weight.is_floating_point() and weight.numel() not in (size, 0):
        raise InputError(
            f"{name!r} has {counted(weight.numel(), 'weight')}, and the configuration is for "
            f"{size:,}",
            RESCAN,
        )
