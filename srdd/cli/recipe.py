"""`srdd recipe`: a recipe for the quantizer or trainer that reads it, and checks of such files."""

from __future__ import annotations

from srdd.cli import console
from srdd.cli.options import command
from srdd.cli.output import Destination
from srdd.cli.recipe_check import Check, refuse_without_model, run_check
from srdd.errors import UsageError


@command
def recipe(
    options: Check,
    destination: Destination,
    file: str,
    consumer: str | None = None,
) -> None:
    """Write a recipe for a quantizer or trainer, or check one.

    A check resolves the names in a file, also one that srdd did not write, against a model as the
    consumer does, and loads no weights.
    """
    if options.check is not None:
        run_check(file, consumer, options, destination)
        return
    refuse_without_model(options)
    from srdd.documents.recipe import load_recipe
    from srdd.recipes.exports import EXPORTS, caveats, consumer_of, export

    if consumer is None:
        hint = f"write it with --for NAME ({', '.join(EXPORTS)}), or add --check MODEL"
        raise UsageError("what to do with the recipe was not said", hint)
    name = consumer_of(consumer, writing=True)
    destination.path()
    chosen = load_recipe(file)
    content = export(chosen, name).encode()
    for text in caveats(chosen, name):
        console.warn(text)
    destination.write(content)
