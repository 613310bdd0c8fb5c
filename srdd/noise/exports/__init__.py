"""Exports: a RinConfig -> the settings that one trainer accepts.

    guide      the keys of the method's guide           yaml, json, overrides   layers
    verl-rin   verl with the public RIN branch          yaml, json, overrides   layers
    qerl       QeRL                                     overrides, yaml, json   uniform only
    surogate   Surogate                                 yaml, json              uniform only
    srdd       srdd's injector, for TRL and HF Trainer  json                    layers and tiers

The first form is the default. A trainer that cannot do what a configuration says gets an error and
never a part of it. Comments in YAML and behind overrides say where it comes from and what speaks
against using it; in JSON only the `srdd` document holds that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from srdd.documents.rin import RinConfig
from srdd.errors import UsageError, unknown_name
from srdd.noise.exports import forms, guide, qerl, srdd_json, surogate, verl_rin

FORMS = ("yaml", "json", "overrides")


class Consumer(Protocol):
    """What a module of this package provides for one trainer."""

    @property
    def FORMS(self) -> tuple[str, ...]:  # noqa: N802 - it is the module's constant
        """The forms it can be written in, the default first."""

    def documents(self, config: RinConfig) -> list[Mapping[str, Any]]:
        """The settings; several where they need a run each. UsageError if it cannot do that."""

    def check_form(self, config: RinConfig, form: str) -> None:
        """UsageError if the form cannot hold these settings."""

    def notes(self, config: RinConfig) -> list[str]:
        """What a reader of the settings must know about this trainer."""


CONSUMERS: dict[str, Consumer] = {
    "guide": guide,
    "verl-rin": verl_rin,
    "qerl": qerl,
    "surogate": surogate,
    "srdd": srdd_json,
}


def form_of(consumer: str, form: str | None = None) -> str:
    """The form that settings for a consumer are written in, its default for None.

    Raises:
        UsageError: no such consumer, or it does not take that form.
    """
    if consumer not in CONSUMERS:
        raise unknown_name("trainer", consumer, CONSUMERS)
    known = CONSUMERS[consumer].FORMS
    if form is None:
        return known[0]
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    if form not in known:
        raise UsageError(f"{consumer} takes no {form}", f"choose from: {', '.join(known)}")
    return form


def export(config: RinConfig, consumer: str = "guide", form: str | None = None) -> str:
    """The settings for a consumer, as text that ends in a newline.

    Arguments:
        config: what to write.
        consumer: of CONSUMERS.
        form: of FORMS; the consumer's default if left out.

    Raises:
        UsageError: no such consumer or form, or the consumer cannot do what the configuration says.
        InputError: a name of a module cannot be written in that form.
    """
    form = form_of(consumer, form)
    target = CONSUMERS[consumer]
    target.check_form(config, form)
    documents = target.documents(config)
    if target is srdd_json:
        return config.to_json().decode()
    if form == "json":
        return forms.to_json(documents[0])
    said = [*comments(config), *(f"note: {note}" for note in target.notes(config))]
    if form == "yaml":
        later = [([f"experiment {n} of {len(documents)}"], d) for n, d in enumerate(documents, 1)]
        return forms.to_yaml([(said, documents[0])] if len(later) == 1 else _headed(said, later))
    if target is qerl:
        return forms.to_flags(documents[0], said)
    return forms.to_overrides(documents[0], said)


def _headed(
    said: list[str], parts: list[tuple[list[str], Mapping[str, Any]]]
) -> list[tuple[list[str], Mapping[str, Any]]]:
    (first, settings), *rest = parts
    return [([*said, *first], settings), *rest]


def comments(config: RinConfig) -> list[str]:
    """Where a configuration comes from, how strong its noise is, and what speaks against it."""
    source, energy = config.source, config.energy
    name = config.strategy if config.control is None else f"{config.control} {config.strategy}"
    found = [
        f"srdd suggest: {name}, from a scan of {source.model} ({source.site}, "
        f"{source.format}:{source.scale_rule}, by {source.metric})",
        f"scan {source.scan}",
        f"noise energy {energy.first_stage:.4g} at the first noisy stage; over the run "
        f"{energy.relative_to_uniform:.3g} times that of uniform noise",
    ]
    noise = [e.signal_to_noise_db for e in config.layers if e.signal_to_noise_db is not None]
    quantization = [e.sqnr_db for e in config.layers if e.sqnr_db is not None]
    if noise and quantization:
        found.append(
            f"signal to noise {_range(noise)} dB at the first noisy stage, beside a quantization "
            f"SQNR of {_range(quantization)} dB"
        )
    advice = config.recommendation
    found += [f"recommended: {advice.strategy}; {reason}" for reason in advice.reasons]
    return [*found, *(f"warning: {text}" for text in config.warnings)]


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"
