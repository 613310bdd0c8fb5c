"""srdd's own injector and callback, for TRL, the HF Trainer and what builds on it.

They read the RinConfig document itself, so nothing is lost: `srdd.load_rin` gives back the same
configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srdd.documents.rin import RinConfig

FORMS = ("json",)


def documents(config: RinConfig) -> list[Mapping[str, Any]]:
    """The document."""
    return [config.model_dump(mode="json")]


def check_form(config: RinConfig, form: str) -> None:
    """Its only form can hold it."""


def notes(config: RinConfig) -> list[str]:
    """Nothing: the document says all of it."""
    return []
