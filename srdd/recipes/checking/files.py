"""A file as a consumer reads it: one of its own, or a recipe of srdd, which is exported first."""

from __future__ import annotations

import json

from srdd.documents.recipe import Recipe, load_recipe
from srdd.errors import UsageError
from srdd.recipes.checking.reading import READERS, Rules, read_content
from srdd.recipes.exports import CONSUMERS, EXPORTS, export

KIND = "srdd.recipe"


def read_rules(path: str, consumer: str) -> Rules:
    """The entries of a file, of any form that `consumer` takes.

    Raises:
        InputError: it cannot be read, or is not what the consumer reads.
        UsageError: it is a recipe of srdd, and cannot be written for the consumer.
    """
    content = read_content(path)
    if content.get("kind") == KIND:
        recipe: Recipe = load_recipe(path)
        if consumer not in EXPORTS:
            raise UsageError(
                f"{path} is a recipe of srdd, which is not written for {consumer}",
                f"export it for one of: {', '.join(EXPORTS)}; and name that file",
            )
        content = _parsed(export(recipe, consumer), consumer)
    return READERS[consumer](content, path)


def _parsed(text: str, consumer: str) -> dict[str, object]:
    import yaml

    form = CONSUMERS[CONSUMERS[consumer].writes or consumer].form
    content: dict[str, object] = json.loads(text) if form == "json" else yaml.safe_load(text)
    return content
