"""A configuration for trainers that put the same noise on every RMSNorm of the model."""

from __future__ import annotations

from srdd.documents.rin import RinConfig
from srdd.errors import UsageError
from srdd.noise.exports.one_schedule import collapse, fits

FINAL_NORM = "this trainer also puts noise on the norm behind the last layer, which has no layer"


def whole_model(config: RinConfig, consumer: str) -> dict[str, float | int]:
    """The settings `sigma_start`, `sigma_end`, `num_stages` of uniform noise.

    Raises:
        UsageError: the noise differs between layers, or spares modules, or is on linears.
    """
    norms_only(config, consumer)
    one = collapse(config, consumer) if fits(config) else None
    shared = one.multiplier if one and len(one.layers) == config.source.layers else None
    if one is None or shared is None:
        raise UsageError(
            f"{consumer} puts the same noise on every layer, and this configuration "
            f"({config.label}) does not",
            "use --strategy uniform, or a trainer that takes layers: --for guide, verl-rin or srdd",
        )
    if config.excluded:
        raise UsageError(
            f"{consumer} puts noise on every RMSNorm, and {len(config.excluded)} are excluded",
            "drop --exclude, or use --for guide, verl-rin or srdd",
        )
    schedule = one.schedule
    return {
        "sigma_start": schedule.sigma_start * shared,
        "sigma_end": schedule.sigma_end * shared,
        "num_stages": schedule.num_stages,
    }


def norms_only(config: RinConfig, consumer: str) -> None:
    """Make sure that the noise is on norms.

    Raises:
        UsageError: it is on linears, for which the trainer has no setting.
    """
    if config.layer_type != "rmsnorm":
        raise UsageError(
            f"{consumer} puts noise on RMSNorm only, and this configuration is for "
            f"{config.layer_type}",
            "use --layer-type rmsnorm, or --for verl-rin or srdd",
        )
