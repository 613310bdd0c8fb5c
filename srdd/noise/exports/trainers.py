"""Trainers: who reads which settings, and what these are for a configuration.

Trainers find a layer by a substring of a module's name, or by the first number behind `layers.`,
`h.`, `blocks.` or `layer.`. A substring has to end with a dot: `layers.1` is also in
`layers.10.mlp`. Read back as the trainer does, the settings give the sigma of every layer in every
stage that the configuration says, to the four decimals of its multipliers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NoReturn, TypeAlias

import orjson

from srdd.documents.rin import LayerNoise, RinConfig
from srdd.errors import UsageError
from srdd.noise.exports.forms import check_literal
from srdd.noise.exports.schedules import base_tier, one_schedule, same_shape

Settings: TypeAlias = Mapping[str, Any]


@dataclass(frozen=True)
class Trainer:
    """A trainer, or whoever else reads an export.

    Attributes:
        title: what it is called.
        reader: who reads this form: which code, branch or version.
        link: where that code is; empty for srdd itself.
        reads: what it reads.
        place: for forms, the file or command that the settings belong to.
        forms: the forms it can be written in, the default first.
        per_layer: whether layers can differ.
        notes: what a user has to know: `always`, for scans whose modules are `unnamed`, for noise
            on a `linear`.
        flags: whether its overrides are flags of a command, and not Hydra's.
    """

    title: str
    reader: str
    link: str
    reads: str
    place: Mapping[str, str]
    forms: Sequence[str]
    per_layer: bool
    notes: Mapping[str, Sequence[str]]
    flags: bool = False

    @property
    def sentence(self) -> str:
        """Who reads this form, as the first comment of an export says it."""
        where = f" ({self.link})" if self.link else ""
        return f"for {self.title}: {self.reader}{where}"

    def notes_on(self, config: RinConfig) -> list[str]:
        """The notes that hold for a configuration."""
        cases = ["always", config.layer_type, "" if _names_modules(config) else "unnamed"]
        return [note for case, notes in self.notes.items() if case in cases for note in notes]


_TABLE = orjson.loads(files("srdd.noise.exports").joinpath("trainers.json").read_bytes())

TRAINERS = {name: Trainer(**fields) for name, fields in _TABLE["trainers"].items()}
"""Every trainer by its name; the first is the default."""

OTHERS: dict[str, tuple[str, str]] = _TABLE["others"]
"""Message and hint for trainers that people ask for by another name."""


def _guide(config: RinConfig, form: str) -> list[Settings]:
    """`trainer.noise_injection` in the keys of the method's guide.

    Tiers whose schedules have different shapes are separate experiments, as in the guide.
    """
    _check_norms(config, "the guide's form")
    if one_schedule(config) is not None:
        return [_guide_settings(config)]
    if form != "yaml" or config.parameters.equal_energy:
        reason = f"{form} holds only one"
        if form == "yaml":
            reason = "none of them has the energy that `equal_energy` gives all together"
        raise UsageError(
            f"in the guide's form, tiers of different shapes are one experiment each, and {reason}",
            "use `form=yaml` without `equal_energy`, or `trainer=srdd`, or give the tiers one "
            "ratio with `tiers`",
        )
    tiers = ([tier] for tier in config.tiers)
    return [_guide_settings(config.model_copy(update={"tiers": tier})) for tier in tiers]


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


def _verl_rin(config: RinConfig, form: str) -> list[Settings]:
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
    return [{"trainer": {"noise_injection": settings}}]


def _qerl(config: RinConfig, form: str) -> list[Settings]:
    return [_uniform(config, "QeRL")]


def _surogate(config: RinConfig, form: str) -> list[Settings]:
    return [{"noise_scheduler": {"enabled": True, **_uniform(config, "Surogate")}}]


SETTINGS: dict[str, Callable[[RinConfig, str], list[Settings]]] = {
    "guide": _guide,
    "verl-rin": _verl_rin,
    "qerl": _qerl,
    "surogate": _surogate,
}
"""(configuration, form) -> the settings of a trainer, several where they need a run each.

`srdd` reads the configuration itself. UsageError where the trainer or the form cannot hold what the
configuration says.
"""


def _uniform(config: RinConfig, trainer: str) -> dict[str, Any]:
    """The schedule of the same noise on every RMSNorm of the model."""
    _check_norms(config, trainer)
    schedule, multipliers = one_schedule(config) or (None, {})
    if not schedule or len(multipliers) < config.source.layers or len({*multipliers.values()}) > 1:
        raise UsageError(
            f"{trainer} puts the same noise on every layer, and this configuration "
            f"({config.label}) does not",
            "use `strategy=uniform`, or a trainer that takes layers: guide, verl-rin or srdd",
        )
    if config.excluded:
        raise UsageError(
            f"{trainer} puts noise on every RMSNorm, and {len(config.excluded)} are excluded",
            "drop `exclude`, or choose the trainer guide, verl-rin or srdd",
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
            "use `layer_type=rmsnorm`, or `trainer=srdd`",
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
        f"give them one ratio, such as `tiers={tier.name}={a.sigma_start:.12g}:{end:.12g}`, or use "
        "`trainer=srdd`, or another strategy",
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
                    "use `trainer=srdd`, which names every module",
                )
