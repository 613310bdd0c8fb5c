"""Exports: a Recipe -> the settings that one quantizer, engine or trainer reads.

consumers   who reads what, and which formats they know: `consumers.json`
names       names of modules as patterns
writers     the settings

A format that a consumer does not know is an error and never replaced by another. A scale rule that
it does not use is a warning, because the choice of modules is seldom another for it.
"""

from __future__ import annotations

from srdd.documents.recipe import Recipe
from srdd.documents.settings_text import to_json, to_yaml
from srdd.recipes.exports.consumers import (
    CONSUMERS,
    EXPORTS,
    Consumer,
    consumer_of,
    rule_warnings,
)
from srdd.recipes.exports.writers import WRITERS

__all__ = ["CONSUMERS", "EXPORTS", "Consumer", "caveats", "consumer_of", "export"]


def caveats(recipe: Recipe, consumer: str) -> list[str]:
    """What a user of an export has to know: its scale rules, the consumer's notes."""
    name = CONSUMERS[consumer].writes or consumer
    return [*rule_warnings(name, recipe), *CONSUMERS[name].notes]


def export(recipe: Recipe, consumer: str) -> str:
    """The settings for a consumer, JSON or YAML, as text that ends in a newline.

    Arguments:
        recipe: what to write.
        consumer: of EXPORTS.

    Raises:
        UsageError: no such consumer, or it cannot do what the recipe says.
    """
    name = consumer_of(consumer, writing=True)
    name = CONSUMERS[name].writes or name
    settings = WRITERS[name](recipe)
    if CONSUMERS[name].form == "json":
        return to_json(settings)
    comments = [
        f"for {CONSUMERS[name].title}: {CONSUMERS[name].reads} ({CONSUMERS[name].sources[0]})",
        f"srdd recipe: of {recipe.model.name}, {recipe.bits:.3g} bits a weight on average, "
        f"predicted KL {recipe.predicted_kl:.4g} nats a token",
        f"scan {recipe.source.scan}",
        *(f"note: {text}" for text in caveats(recipe, name)),
        *(f"warning: {text}" for text in recipe.warnings),
    ]
    return to_yaml([settings], comments)
