"""QeRL: flags of its training script, `--sigma-start --sigma-end --num-stages`.

It has no setting for layers, so it takes uniform noise only. As YAML or JSON these are the fields
of its arguments, which its parser reads from a file as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srdd.documents.rin import RinConfig
from srdd.noise.exports.whole_model import FINAL_NORM, whole_model

FORMS = ("overrides", "yaml", "json")


def documents(config: RinConfig) -> list[Mapping[str, Any]]:
    """The settings.

    Raises:
        UsageError: the noise is not the same on every norm.
    """
    return [whole_model(config, "QeRL")]


def check_form(config: RinConfig, form: str) -> None:
    """Every form can hold the settings."""


def notes(config: RinConfig) -> list[str]:
    """What a reader of the settings must know."""
    return [FINAL_NORM]
