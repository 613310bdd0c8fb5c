"""The keys of the method's guide, under `trainer.noise_injection`.

`target_layers` names the layers where not all get noise, and `target_modules` says the same to a
trainer that only knows substrings of module names. `layer_multipliers` names every layer of the
model, those without noise with 0, because the guide's injector gives a layer that is not in it
multiplier 1. Read back, this is the sigma of every layer in every stage.

The guide runs tiers whose schedules have different shapes as separate experiments; so they come as
separate documents here, which only YAML can hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srdd.documents.rin import RinConfig
from srdd.errors import UsageError
from srdd.noise.exports.forms import check_literal
from srdd.noise.exports.names import target_modules
from srdd.noise.exports.one_schedule import OneSchedule, collapse, fits
from srdd.noise.exports.whole_model import norms_only

FORMS = ("yaml", "json", "overrides")

NO_NAMES = (
    "the scan names no modules, so target_modules is left to the trainer, which then may put noise "
    "on the norm behind the last layer too"
)


def documents(config: RinConfig) -> list[Mapping[str, Any]]:
    """The settings; several where the tiers need an experiment each.

    Raises:
        UsageError: the noise is on linears.
    """
    norms_only(config, "the guide's form")
    if fits(config):
        return [_settings(config)]
    parts = [config.model_copy(update={"tiers": [tier]}) for tier in config.tiers]
    return [_settings(part) for part in parts]


def check_form(config: RinConfig, form: str) -> None:
    """Make sure that a form can hold the settings.

    Raises:
        UsageError: they are several documents, and the form is not YAML.
    """
    if form != "yaml" and not fits(config):
        raise UsageError(
            f"in the guide's form, tiers of different shapes are one experiment each, and {form} "
            "holds only one",
            "use --as yaml, or --for srdd, or give the tiers one ratio with --tier",
        )
    if config.parameters.equal_energy and not fits(config):
        raise UsageError(
            "in the guide's form, tiers of different shapes are one experiment each, and none of "
            "them has the energy that --equal-energy gives all together",
            "leave out --equal-energy, use --for srdd, or give the tiers one ratio with --tier",
        )


def notes(config: RinConfig) -> list[str]:
    """What a reader of the settings must know."""
    found = [NO_NAMES] if target_modules(config) is None else []
    if not fits(config):
        shares = ", ".join(
            f"{tier.name} {100 * share:.0f} %"
            for tier, share in zip(config.tiers, _energy_shares(config), strict=True)
        )
        found.append(
            "one document a tier, each an experiment of its own: run them apart; each has its "
            f"share of the noise energy above: {shares}"
        )
    return found


def _energy_shares(config: RinConfig) -> list[float]:
    """The share of each tier in the energy over the run; a layer of unknown size counts as 1."""
    energies = [
        sum(sigma**2 for sigma in tier.sigmas)
        * sum(
            entry.multiplier**2 * (sum(module.size for module in entry.modules) or 1)
            for entry in tier.layers
        )
        for tier in config.tiers
    ]
    return [energy / sum(energies) for energy in energies]


def _settings(config: RinConfig) -> Mapping[str, Any]:
    one = collapse(config, "the guide's form")
    modules = target_modules(config)
    check_literal([*(modules or []), *config.exclude_patterns])
    settings: dict[str, Any] = {
        "enabled": True,
        "sigma_start": one.schedule.sigma_start,
        "sigma_end": one.schedule.sigma_end,
        "num_stages": one.schedule.num_stages,
    }
    if len(one.layers) < config.source.layers:
        settings["target_layers"] = one.layers
    if modules is not None:
        settings["target_modules"] = modules
    settings["exclude_patterns"] = config.exclude_patterns
    if one.multiplier != 1:
        settings["use_variable_sigma"] = True
        settings["layer_multipliers"] = every_layer(config, one)
    return {"trainer": {"noise_injection": settings}}


def every_layer(config: RinConfig, one: OneSchedule) -> dict[int, float]:
    """The multiplier of every layer of the model, 0 for those without noise."""
    return {layer: one.multipliers.get(layer, 0.0) for layer in range(config.source.layers)}
