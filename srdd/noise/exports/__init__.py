"""Exports: a RinConfig -> the settings that one trainer accepts.

trainers    who reads what: the table of trainers, and their settings
schedules   a configuration as one schedule with a multiplier for each layer
forms       Hydra overrides and flags, beside YAML and JSON

A trainer that cannot do what a configuration says gets an error and never a part of it. Comments in
YAML and behind overrides name the reader, the source and the warnings; in JSON only the `srdd`
document holds these.
"""

from __future__ import annotations

from srdd.documents.rin import RinConfig
from srdd.documents.settings_text import to_json, to_yaml
from srdd.errors import UsageError, unknown_name
from srdd.noise.exports import forms
from srdd.noise.exports.schedules import energy_shares
from srdd.noise.exports.trainers import OTHERS, SETTINGS, TRAINERS
from srdd.noise.recommendation import summary

FORMS = ("yaml", "json", "overrides")

__all__ = ["FORMS", "TRAINERS", "export", "form_of"]


def form_of(trainer: str, form: str | None = None) -> str:
    """The form that settings for a trainer are written in, its default for None.

    Raises:
        UsageError: no such trainer, or it does not take that form.
    """
    if trainer in OTHERS:
        raise UsageError(*OTHERS[trainer])
    if trainer not in TRAINERS:
        raise unknown_name("trainer", trainer, TRAINERS)
    known = TRAINERS[trainer].forms
    if form is None:
        return known[0]
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    if form not in known:
        raise UsageError(f"{trainer} takes no {form}", f"choose from: {', '.join(known)}")
    return form


def export(config: RinConfig, trainer: str = "guide", form: str | None = None) -> str:
    """The settings for a trainer, as text that ends in a newline.

    Arguments:
        config: what to write.
        trainer: of TRAINERS.
        form: of FORMS; the trainer's default if left out.

    Raises:
        UsageError: no such trainer or form, or it cannot do what the configuration says.
        InputError: a name of a module cannot be written in that form.
    """
    form = form_of(trainer, form)
    if trainer not in SETTINGS:
        return config.to_json().decode()
    documents = SETTINGS[trainer](config, form)
    if form == "json":
        return to_json(documents[0])
    notes = TRAINERS[trainer].notes_on(config)
    if len(documents) > 1:
        shares = ", ".join(f"{name} {100 * s:.0f} %" for name, s in energy_shares(config).items())
        each = "one document a tier, each an experiment of its own"
        notes = [f"{each}; shares of the noise energy above: {shares}", *notes]
    about = TRAINERS[trainer]
    comments = [about.sentence, f"where: {about.place[form]}", *_source(config)]
    comments += [f"note: {note}" for note in notes]
    if form == "yaml":
        return to_yaml(documents, comments)
    write = forms.to_flags if about.flags else forms.to_overrides
    return write(documents[0], comments)


def _source(config: RinConfig) -> list[str]:
    """Where a configuration comes from, how strong its noise is, and its warnings."""
    source, energy = config.source, config.energy
    lines = [
        f"srdd suggest: from a scan of {source.model} ({source.site}, "
        f"{source.format}:{source.scale_rule}, by {source.metric})",
        summary(config),
        f"scan {source.scan}",
        f"noise energy {energy.first_stage:.4g} at the first noisy stage; over the run "
        f"{energy.relative_to_uniform:.3g} times that of uniform noise",
    ]
    if config.kl is not None and config.kl.quantization:
        kl = config.kl
        lines.append(
            f"predicted to cost {kl.first:.3g} nats a token at the first noisy stage, "
            f"{100 * kl.first / kl.quantization:.3g} % of what quantizing all linears costs"
        )
    noise = [e.signal_to_noise_db for e in config.layers if e.signal_to_noise_db is not None]
    quantization = [e.sqnr_db for e in config.layers if e.sqnr_db is not None]
    if noise and quantization:
        lines.append(
            f"signal to noise {_range(noise)} dB at the first noisy stage, beside a quantization "
            f"SQNR of {_range(quantization)} dB"
        )
    return [*lines, *(f"warning: {text}" for text in config.warnings)]


def _range(values: list[float]) -> str:
    low, high = f"{min(values):.1f}", f"{max(values):.1f}"
    return low if low == high else f"{low} to {high}"
