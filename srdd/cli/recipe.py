"""`srdd recipe`: which linears to keep in more bits, for whom, and checks of such files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from srdd.cli.options import command
from srdd.cli.output import Destination
from srdd.cli.recipe_check import Check, refuse_without_model, run_check
from srdd.cli.recipe_choice import Choice, choose, refuse_choice, write_export
from srdd.errors import UsageError

if TYPE_CHECKING:
    from srdd.documents.recipe import Recipe
    from srdd.documents.scan import Scan


@command
def recipe(
    choice: Choice,
    options: Check,
    destination: Destination,
    file: str | None = None,
    consumer: str | None = None,
) -> None:
    """Choose which linears to keep in more bits.

    From a scan made with --kl: the least predicted KL for --bits, or the fewest bits for --max-kl;
    without either, what budgets cost. With a recipe as FILE, show it or write it for a quantizer or
    trainer. With --check, resolve the names in any such file against a model as its consumer does;
    no weights are loaded.
    """
    if options.check is not None:
        if file is None:
            raise UsageError("--check needs a file", "name a recipe, or what a consumer reads")
        refuse_choice(choice, "with --check")
        run_check(file, consumer, options, destination)
        return
    refuse_without_model(options)
    if consumer is not None:
        from srdd.recipes.exports import consumer_of

        consumer_of(consumer, writing=True)
    source = _read(file)
    if source.kind == "srdd.scan":
        choose(source, choice, consumer, destination)
        return
    refuse_choice(choice, "with a recipe")
    if consumer is not None:
        write_export(source, consumer, destination)
        return
    from srdd.reports.recipe_view import recipe_blocks

    destination.write(recipe_blocks(source, None if file == "-" else file))


def _read(file: str | None) -> Scan | Recipe:
    """The scan or recipe in a file; the newest scan in this folder for None."""
    from srdd.cli import scans
    from srdd.documents.document import load_object, parse_object
    from srdd.documents.recipe import Recipe
    from srdd.documents.scan import Scan

    if file is None:
        return scans.load(None)
    if file != "-" and not Path(file).is_file():
        return scans.load(file)  # it says what is wrong
    name = "standard input" if file == "-" else file
    found = parse_object(sys.stdin.buffer.read(), name) if file == "-" else load_object(Path(file))
    if found.get("kind") == "srdd.recipe":
        return Recipe.from_object(found, name)
    return Scan.from_object(found, name)
