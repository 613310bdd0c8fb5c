"""Trainers: who reads which settings, and what these are for a configuration.

Trainers find a layer by a substring of a module's name, or by the first number behind `layers.`,
`h.`, `blocks.` or `layer.`. A substring has to end with a dot: `layers.1` is also in
`layers.10.mlp`. Read back as the trainer does, the settings give the sigma of every layer in every
stage that the configuration says, to the four decimals of its multipliers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NoReturn, TypeAlias

import orjson

from srdd.documents.rin import LayerNoise, RinConfig
from srdd.errors import UsageError
from srdd.noise.exports.forms import check_literal
from srdd.noise.exports.schedules import base_tier, energy_shares, one_schedule, same_shape

Settings: TypeAlias = Mapping[str, Any]
Export: TypeAlias = tuple[list[Settings], list[str]]
"""Settings, several where they need a run each, and notes on them."""

FINAL_NORM = "this trainer also puts noise on the norm behind the last layer, which has no layer"


@dataclass(frozen=True)
class Trainer:
    """A trainer, or whoever else reads an export.

    Attributes:
        title: what it is called.
        reader: who reads this form: which code, branch or version.
        link: where that code is; empty for srdd itself.
        reads: what it reads.
        forms: the forms it can be written in, the default first.
        per_layer: whether layers can differ.
    """

    title: str
    reader: str
    link: str
    reads: str
    forms: tuple[str, ...]
    per_layer: bool

    @property
    def sentence(self) -> str:
        """Who reads this form, as the first comment of an export says it."""
        where = f" ({self.link})" if self.link else ""
        return f"for {self.title}: {self.reader}{where}"


TRAINERS = {
    name: Trainer(**fields)
    for name, fields in orjson.loads(
        files("srdd.noise.exports").joinpath("trainers.json").read_bytes()
    ).items()
}
"""Every trainer by its name; the first is the default."""

OTHER_NAMES = {
    "verl": (
        "verl itself has no setting for noise",
        "use --for verl-rin, for the fork of verl that has it: https://github.com/zhshgmail/verl",
    ),
    "trl": ("TRL has no setting for noise", "use --for srdd, and srdd.rin.RinCallback in training"),
}
"""Trainers that people ask for by another name: what to tell them."""


def _guide(config: RinConfig, form: str) -> Export:
    """`trainer.noise_injection` in the keys of the method's guide.

    Tiers whose schedules have different shapes are separate experiments, as in the guide.
    """
    _check_norms(config, "the guide's form")
    parts, notes = [config], []
    if one_schedule(config) is None:
        if form != "yaml" or config.parameters.equal_energy:
            one = f"{form} holds only one"
            energy = "none of them has the energy that --equal-energy gives all together"
            raise UsageError(
                "in the guide's form, tiers of different shapes are one experiment each, and "
                + (energy if form == "yaml" else one),
                "use --as yaml without --equal-energy, or --for srdd, or give the tiers one ratio "
                "with --tier",
            )
        parts = [config.model_copy(update={"tiers": [tier]}) for tier in config.tiers]
        shares = energy_shares(config).items()
        notes.append(
            "one document a tier, each an experiment of its own; shares of the noise energy above: "
            + ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares)
        )
    if not _names_modules(config):
        notes.append(
            "the scan names no modules, so target_modules is left to the trainer, which may then "
            "put noise on the norm behind the last layer, too"
        )
    return [_guide_settings(part) for part in parts], notes


def _guide_settings(config: RinConfig) -> Settings:
    """The settings of tiers that share a schedule.

    `target_layers` names the layers where not all get noise, and `target_modules` says the same by
    substrings of module names. `layer_multipliers` names every layer of the model, those without
    noise with 0, because the guide's injector gives a layer that is not in it multiplier 1.
    """
    schedule, multipliers = one_schedule(config) or _refuse_shapes(config, "the guide's form")
    settings: dict[str, Any] = {"enabled": True, **schedule.model_dump()}
    if len(multipliers) < config.source.layers:
        settings["target_layers"] = list(multipliers)
    settings |= _patterns(config)
    if set(multipliers.values()) != {1.0}:
        settings["use_variable_sigma"] = True
        settings["layer_multipliers"] = {
            layer: multipliers.get(layer, 0.0) for layer in range(config.source.layers)
        }
    return {"trainer": {"noise_injection": settings}}


def _verl_rin(config: RinConfig, form: str) -> Export:
    """`trainer.noise_injection` with the layers under `layer_sigma_config`.

    A layer that `layer_multipliers` does not name takes `default_multiplier`, here 0, and so does
    the norm behind the last layer. `target_layers` and `use_variable_sigma` would be ignored, so
    they are not written.
    """
    schedule, multipliers = one_schedule(config) or _refuse_shapes(config, "verl-rin")
    _check_indices(config, "verl-rin")
    settings = {
        "enabled": True,
        **schedule.model_dump(),
        "layer_types": [config.layer_type],
        **_patterns(config),
        "layer_sigma_config": {
            "enabled": True,
            "default_multiplier": 0.0,
            "layer_multipliers": multipliers,
        },
    }
    notes = [
        "default_multiplier 0 holds for every layer that is not named, and for the norm behind the "
        "last layer",
        "overrides are merged into the trainer's file: layer_multipliers that it has for other "
        "layers stay",
    ]
    if not _names_modules(config):
        notes.append(
            "the scan names no modules, so target_modules is left to the trainer: in a mixture of "
            "experts it then spares the norms before the router"
        )
    if config.layer_type == "linear":
        notes.append(
            "which linears get noise is this trainer's choice: in a mixture of experts, check that "
            "it spares routers and reaches stacked experts, or use --for srdd"
        )
    return [{"trainer": {"noise_injection": settings}}], notes


def _qerl(config: RinConfig, form: str) -> Export:
    return [_uniform(config, "QeRL")], [FINAL_NORM]


def _surogate(config: RinConfig, form: str) -> Export:
    settings = {"noise_scheduler": {"enabled": True, **_uniform(config, "Surogate")}}
    return [settings], [FINAL_NORM, "it finds norms by their names, and leaves out q_norm, k_norm"]


SETTINGS: dict[str, Callable[[RinConfig, str], Export]] = {
    "guide": _guide,
    "verl-rin": _verl_rin,
    "qerl": _qerl,
    "surogate": _surogate,
}
"""(configuration, form) -> the settings of a trainer; `srdd` reads the configuration itself.

UsageError where the trainer or the form cannot hold what the configuration says.
"""


def _uniform(config: RinConfig, trainer: str) -> dict[str, Any]:
    """The schedule of the same noise on every RMSNorm of the model."""
    _check_norms(config, trainer)
    schedule, multipliers = one_schedule(config) or (None, {})
    if not schedule or len(multipliers) < config.source.layers or len({*multipliers.values()}) > 1:
        raise UsageError(
            f"{trainer} puts the same noise on every layer, and this configuration "
            f"({config.label}) does not",
            "use --strategy uniform, or a trainer that takes layers: --for guide, verl-rin or srdd",
        )
    if config.excluded:
        raise UsageError(
            f"{trainer} puts noise on every RMSNorm, and {len(config.excluded)} are excluded",
            "drop --exclude, or use --for guide, verl-rin or srdd",
        )
    return schedule.scaled(multipliers[0]).model_dump()


def _names_modules(config: RinConfig) -> bool:
    return all(entry.name is not None for entry in config.layers)


def _patterns(config: RinConfig) -> dict[str, list[str]]:
    """Which modules get noise and which do not, as substrings of their names."""
    patterns = {"exclude_patterns": config.exclude_patterns}
    if _names_modules(config):
        targets = [_substring(entry, config) for entry in config.layers]
        patterns = {"target_modules": targets} | patterns
    check_literal([text for texts in patterns.values() for text in texts])
    return patterns


def _substring(entry: LayerNoise, config: RinConfig) -> str:
    """What is in the names of a layer's modules.

    The last two parts of the layer's name will do, such as `layers.14.`: what stands before them
    differs between a trainer and its inference engine. Where that would fit another layer's module
    too, it is the whole name.
    """
    name = entry.name or ""
    short = ".".join(name.split(".")[-2:]) + "."
    fitting = {other.layer for other in config.layers for m in other.modules if short in m.name}
    return short if fitting <= {entry.layer} else name + "."


def _check_norms(config: RinConfig, trainer: str) -> None:
    if config.layer_type != "rmsnorm":
        raise UsageError(
            f"{trainer} puts noise on RMSNorm only, and this configuration is for "
            f"{config.layer_type}",
            "use --layer-type rmsnorm, or --for srdd",
        )


def _refuse_shapes(config: RinConfig, trainer: str) -> NoReturn:
    base = base_tier(config)
    tier = next(t for t in config.tiers if not same_shape(t.schedule, base.schedule))
    a, b = tier.schedule, base.schedule
    end = a.sigma_start * (b.sigma_end / b.sigma_start)
    raise UsageError(
        f"{trainer} has one schedule for all layers, and tier {tier.name} falls from "
        f"{a.sigma_start:g} to {a.sigma_end:g} while tier {base.name} falls from "
        f"{b.sigma_start:g} to {b.sigma_end:g}",
        f"give them one ratio, such as --tier {tier.name}={a.sigma_start:.12g}:{end:.12g}, or use "
        "--for srdd, or another strategy",
    )


_INDEX = re.compile(r"(?:^|\.)(?:layers|h|blocks|layer)\.(\d+)", re.ASCII)


def _check_indices(config: RinConfig, trainer: str) -> None:
    """Make sure that a trainer reads the index of every layer from the names of its modules.

    Raises:
        UsageError: it would read another one or none, and use the default multiplier.
    """
    for entry in config.layers:
        for module in entry.modules:
            match = _INDEX.search(module.name)
            if match is None or int(match[1]) != entry.layer:
                raise UsageError(
                    f"{trainer} cannot tell the layer of {module.name!r}: it looks for a number "
                    "behind layers., h., blocks. or layer.",
                    "use --for srdd, which names every module",
                )
