"""Consumers: who reads which file, which formats they know, and how they are checked against.

`consumers.json` holds the facts, with their sources. A format has there, for both operands and for
the weight alone, the settings that mean it to the consumer, and the scale rules that the consumer
can be told or always uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import orjson

from srdd.documents.recipe import KEPT, Module, Recipe
from srdd.errors import UsageError, unknown_name
from srdd.numerics.formats import FORMATS, FormatSpec, parse_spec


@dataclass(frozen=True)
class Consumer:
    """Who reads an export.

    Attributes:
        title: what it is called.
        reads: what it reads.
        sources: where that is documented.
        checked: the version that its rules were checked with.
        form: json or yaml.
        fuses: whether it multiplies q, k and v, gate and up, or experts in one product.
        ordered: whether the order of entries decides where several match.
        usual: patterns that stand in its files whether or not a model has such modules.
        formats: name of a format -> `rules`, `both`, `weight`; empty for one that is only checked.
        notes: what a user has to know.
        writes: the consumer whose files it reads, where they are another's.
    """

    title: str
    reads: str
    sources: Sequence[str]
    checked: str
    form: str
    fuses: bool
    ordered: bool
    usual: Sequence[str]
    notes: Sequence[str]
    formats: Mapping[str, Mapping[str, Any]]
    writes: str | None = field(default=None)


_TABLE = orjson.loads(files("srdd.recipes.exports").joinpath("consumers.json").read_bytes())

CONSUMERS = {name: Consumer(**fields) for name, fields in _TABLE["consumers"].items()}
"""Every consumer by its name."""

OTHERS: dict[str, tuple[str, str]] = _TABLE["others"]
"""Message and hint for what people ask for by another name."""

EXPORTS = tuple(name for name, each in CONSUMERS.items() if each.formats or each.writes)
"""Consumers that a recipe can be written for; the others' files can be checked."""


def consumer_of(name: str, *, writing: bool = False) -> str:
    """Give `name` back if it is a consumer.

    Arguments:
        writing: whether a recipe is to be written for it.

    Raises:
        UsageError: it is none, or nothing can be written for it.
    """
    known = EXPORTS if writing else tuple(CONSUMERS)
    if name in known:
        return name
    if name in OTHERS:
        raise UsageError(*OTHERS[name])
    if name in CONSUMERS:
        raise UsageError(
            f"no recipe can be written for {name}; its files can be checked",
            f"choose from: {', '.join(known)}",
        )
    raise unknown_name("consumer", name, known)


def settings_of(consumer: str, module: Module) -> Any:
    """A consumer's settings for the format of a module, with the scale rule in place of `$RULE`.

    Raises:
        UsageError: it does not know the format; the error names the nearest that it knows.
    """
    spec = parse_spec(module.format)
    known = CONSUMERS[consumer].formats
    operands = module.operands or "both"
    settings = known.get(spec.format.name, {}).get(operands)
    if settings is None:
        wanted = f"{spec.format.name} for {_words(operands)}"
        near = ", then ".join(
            f"{name} for {_words(o)}" for name, o in nearest(consumer, module)[:3]
        )
        raise UsageError(
            f"{CONSUMERS[consumer].title} has no {wanted}, which {module.module} is in",
            f"the nearest that it has: {near}; scan and choose with that, or keep such linears in "
            f"{KEPT}",
        )
    return _with_rule(settings, spec)


def _words(operands: str) -> str:
    return "weight and input" if operands == "both" else "the weight alone"


def _with_rule(settings: Any, spec: FormatSpec) -> Any:
    if isinstance(settings, Mapping):
        return {key: _with_rule(value, spec) for key, value in settings.items()}
    return spec.scale_rule.upper() if settings == "$RULE" else settings


def nearest(consumer: str, module: Module) -> list[tuple[str, str]]:
    """Formats and operands that a consumer knows, closest to a module's first.

    Closest are those for the same operands, then those with the same elements, bits and block.
    """
    wanted = parse_spec(module.format).format

    def distance(choice: tuple[str, str]) -> tuple[bool, bool, float, int]:
        name, operands = choice
        other = FORMATS[name]
        bits = abs(other.bits_per_value - wanted.bits_per_value)
        grid = other.element.name != wanted.element.name
        return operands != (module.operands or "both"), grid, bits, abs(other.block - wanted.block)

    known = CONSUMERS[consumer].formats.items()
    choices = [(name, each) for name, own in known for each in ("both", "weight") if each in own]
    return sorted(choices, key=distance)


def rule_warnings(consumer: str, recipe: Recipe) -> list[str]:
    """Scale rules of a recipe that a consumer does not use, one sentence for each format."""
    warnings = []
    for text in dict.fromkeys(m.format for m in recipe.modules if m.format != KEPT):
        spec = parse_spec(text)
        rules = (
            CONSUMERS[consumer].formats.get(spec.format.name, {}).get("rules", [spec.scale_rule])
        )
        if spec.scale_rule not in rules:
            warnings.append(
                f"{CONSUMERS[consumer].title} computes scales of {spec.format.name} by the rule "
                f"{' or '.join(rules)}; the recipe was chosen with {spec.scale_rule}, and its "
                f"costs are of {text}"
            )
    return warnings
