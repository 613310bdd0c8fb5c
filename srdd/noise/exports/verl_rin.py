"""verl with the public RIN branch (zhshgmail/verl, January 2026).

Its keys stand under `trainer.noise_injection`, the layers under `layer_sigma_config`. One schedule
serves all layers. A layer that `layer_multipliers` does not name takes `default_multiplier`, here
0, and so does the norm behind the last layer. `target_layers` and `use_variable_sigma` would be
ignored, so they are not written. `target_modules` are substrings of module names; without them a
mixture of experts gets noise on fewer norms than were named. Read back, this is the sigma of every
layer in every stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srdd.documents.rin import RinConfig
from srdd.noise.exports.forms import check_literal
from srdd.noise.exports.names import check_indices, target_modules
from srdd.noise.exports.one_schedule import collapse

FORMS = ("yaml", "json", "overrides")

DEFAULT = (
    "default_multiplier 0 holds for every layer that is not named, and for the norm behind the "
    "last layer"
)
MERGED = (
    "overrides are merged into the trainer's file: layer_multipliers that it has for other layers "
    "stay"
)
NO_NAMES = (
    "the scan names no modules, so target_modules is left to the trainer: in a mixture of experts "
    "it then spares the norms before the router"
)


def documents(config: RinConfig) -> list[Mapping[str, Any]]:
    """The settings.

    Raises:
        UsageError: the tiers cannot share a schedule, or the trainer could not tell the layers.
    """
    one = collapse(config, "verl-rin")
    check_indices(config, "verl-rin")
    modules = target_modules(config)
    check_literal([*(modules or []), *config.exclude_patterns])
    settings: dict[str, Any] = {
        "enabled": True,
        "sigma_start": one.schedule.sigma_start,
        "sigma_end": one.schedule.sigma_end,
        "num_stages": one.schedule.num_stages,
        "layer_types": [config.layer_type],
    }
    if modules is not None:
        settings["target_modules"] = modules
    settings["exclude_patterns"] = config.exclude_patterns
    settings["layer_sigma_config"] = {
        "enabled": True,
        "default_multiplier": 0.0,
        "layer_multipliers": one.multipliers,
    }
    return [{"trainer": {"noise_injection": settings}}]


def check_form(config: RinConfig, form: str) -> None:
    """Every form can hold the settings."""


def notes(config: RinConfig) -> list[str]:
    """What a reader of the settings must know."""
    return [DEFAULT, MERGED, *([NO_NAMES] if target_modules(config) is None else [])]
