"""The table of trainers: who reads which settings, and what these are for a configuration.

Trainers find a layer by a substring of a module's name, or by the first number behind `layers.`,
`h.`, `blocks.` or `layer.`. A substring has to end with a dot: `layers.1` is also in
`layers.10.mlp`. Read back as the trainer does, the settings give the sigma of every layer in every
stage that the configuration says, to the four decimals of its multipliers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from srdd.documents.rin import LayerNoise, RinConfig
from srdd.errors import UsageError
from srdd.noise.exports.forms import check_literal
from srdd.noise.exports.schedules import (
    collapse,
    energy_shares,
    norms_only,
    share_schedule,
    uniform,
)

Settings: TypeAlias = Mapping[str, Any]

FINAL_NORM = "this trainer also puts noise on the norm behind the last layer, which has no layer"


@dataclass(frozen=True)
class Trainer:
    """A trainer, or whoever else reads an export.

    Attributes:
        name: the word for it in flags and code.
        title: what it is called.
        reader: who reads this form: which code, branch or version.
        link: where that code is; empty for srdd itself.
        reads: what it reads.
        forms: the forms it can be written in, the default first.
        per_layer: whether layers can differ.
        settings: (configuration, form) -> the settings, several where they need a run each, and
            notes on them. UsageError where the trainer or the form cannot hold them. None where the
            form is the RinConfig document itself.
    """

    name: str
    title: str
    reader: str
    link: str
    reads: str
    forms: tuple[str, ...]
    per_layer: bool
    settings: Callable[[RinConfig, str], tuple[list[Settings], list[str]]] | None

    @property
    def sentence(self) -> str:
        """Who reads this form, as the first comment of an export says it."""
        where = f" ({self.link})" if self.link else ""
        return f"for {self.title}: {self.reader}{where}"


def _guide(config: RinConfig, form: str) -> tuple[list[Settings], list[str]]:
    """`trainer.noise_injection` in the keys of the method's guide.

    `target_layers` names the layers where not all get noise, and `target_modules` says the same by
    substrings of module names. `layer_multipliers` names every layer of the model, those without
    noise with 0, because the guide's injector gives a layer that is not in it multiplier 1. Tiers
    whose schedules have different shapes are separate experiments, as in the guide.
    """
    name = "the guide's form"
    norms_only(config, name)
    if share_schedule(config):
        parts, notes = [config], []
    else:
        if form != "yaml" or config.parameters.equal_energy:
            why = f"{form} holds only one"
            if form == "yaml":
                why = "none of them has the energy that --equal-energy gives all together"
            raise UsageError(
                f"in {name}, tiers of different shapes are one experiment each, and {why}",
                f"{'leave out --equal-energy' if form == 'yaml' else 'use --as yaml'}, or use "
                "--for srdd, or give the tiers one ratio with --tier",
            )
        parts = [config.model_copy(update={"tiers": [tier]}) for tier in config.tiers]
        shares = ", ".join(
            f"{tier.name} {100 * share:.0f} %"
            for tier, share in zip(config.tiers, energy_shares(config), strict=True)
        )
        notes = [
            "one document a tier, each an experiment of its own; shares of the noise energy above: "
            + shares
        ]
    if _target_modules(config) is None:
        notes.append(
            "the scan names no modules, so target_modules is left to the trainer, which may then "
            "put noise on the norm behind the last layer, too"
        )
    return [_guide_settings(part, name) for part in parts], notes


def _guide_settings(config: RinConfig, name: str) -> Settings:
    one = collapse(config, name)
    settings = _common(config, name)
    if len(one.multipliers) < config.source.layers:
        settings["target_layers"] = list(one.multipliers)
    settings |= _patterns(config)
    if one.shared != 1:
        settings["use_variable_sigma"] = True
        settings["layer_multipliers"] = {
            layer: one.multipliers.get(layer, 0.0) for layer in range(config.source.layers)
        }
    return {"trainer": {"noise_injection": settings}}


def _verl_rin(config: RinConfig, form: str) -> tuple[list[Settings], list[str]]:
    """`trainer.noise_injection` with the layers under `layer_sigma_config`.

    A layer that `layer_multipliers` does not name takes `default_multiplier`, here 0, and so does
    the norm behind the last layer. `target_layers` and `use_variable_sigma` would be ignored, so
    they are not written.
    """
    one = collapse(config, "verl-rin")
    _check_indices(config, "verl-rin")
    settings = _common(config, "verl-rin") | {"layer_types": [config.layer_type]}
    settings |= _patterns(config)
    settings["layer_sigma_config"] = {
        "enabled": True,
        "default_multiplier": 0.0,
        "layer_multipliers": one.multipliers,
    }
    notes = [
        "default_multiplier 0 holds for every layer that is not named, and for the norm behind the "
        "last layer",
        "overrides are merged into the trainer's file: layer_multipliers that it has for other "
        "layers stay",
    ]
    if _target_modules(config) is None:
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


def _qerl(config: RinConfig, form: str) -> tuple[list[Settings], list[str]]:
    return [uniform(config, "QeRL")], [FINAL_NORM]


def _surogate(config: RinConfig, form: str) -> tuple[list[Settings], list[str]]:
    settings = {"noise_scheduler": {"enabled": True, **uniform(config, "Surogate")}}
    return [settings], [FINAL_NORM, "it finds norms by their names, and leaves out q_norm, k_norm"]


def _common(config: RinConfig, name: str) -> dict[str, Any]:
    schedule = collapse(config, name).schedule
    return {
        "enabled": True,
        "sigma_start": schedule.sigma_start,
        "sigma_end": schedule.sigma_end,
        "num_stages": schedule.num_stages,
    }


def _patterns(config: RinConfig) -> dict[str, Any]:
    modules = _target_modules(config)
    check_literal([*(modules or []), *config.exclude_patterns])
    targets = {} if modules is None else {"target_modules": modules}
    return targets | {"exclude_patterns": config.exclude_patterns}


def _target_modules(config: RinConfig) -> list[str] | None:
    """For each layer that gets noise a substring of its modules' names; None if they are unknown.

    The last two parts of the layer's name will do, such as `layers.14.`: what stands before them
    differs between a trainer and its inference engine. Where that would fit another layer's module
    too, it is the whole name.
    """
    layers = config.layers
    if any(entry.name is None for entry in layers):
        return None
    return [_substring(entry, layers) for entry in layers]


def _substring(entry: LayerNoise, layers: Sequence[LayerNoise]) -> str:
    name = entry.name or ""
    short = ".".join(name.split(".")[-2:]) + "."
    fitting = {other.layer for other in layers for m in other.modules if short in m.name}
    return short if fitting <= {entry.layer} else name + "."


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


TRAINERS: dict[str, Trainer] = {
    each.name: each
    for each in (
        Trainer(
            "guide",
            "the method's guide",
            "no public trainer reads these keys without changes to its code; to run it on verl use "
            "--for verl-rin, on TRL --for srdd",
            "",
            "trainer.noise_injection: target_layers, layer_multipliers",
            ("yaml", "json", "overrides"),
            True,
            _guide,
        ),
        Trainer(
            "verl-rin",
            "verl with noise injection for each layer",
            "the fork of verl by zhshgmail, as of January 2026; upstream verl has no such keys",
            "https://github.com/zhshgmail/verl",
            "trainer.noise_injection: layer_sigma_config",
            ("yaml", "json", "overrides"),
            True,
            _verl_rin,
        ),
        Trainer(
            "qerl",
            "QeRL",
            "flags of its training script (arXiv 2510.11696, October 2025)",
            "https://github.com/NVlabs/QeRL",
            "--sigma-start, --sigma-end, --num-stages",
            ("overrides", "yaml", "json"),
            False,
            _qerl,
        ),
        Trainer(
            "surogate",
            "Surogate",
            "its GRPO training, surogate/grpo/noise_scheduler.py",
            "https://github.com/invergent-ai/surogate",
            "noise_scheduler of the training YAML",
            ("yaml", "json"),
            False,
            _surogate,
        ),
        Trainer(
            "srdd",
            "srdd's injector and callback",
            "srdd.rin.noisy and srdd.rin.RinCallback, for TRL, the Trainer of transformers, and "
            "loops of your own",
            "",
            "the whole RinConfig document",
            ("json",),
            True,
            None,
        ),
    )
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
