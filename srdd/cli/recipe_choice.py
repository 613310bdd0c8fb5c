"""`srdd recipe SCAN`: the options of a choice, and what is made of a scan."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from srdd.cli import console
from srdd.cli.output import Destination
from srdd.errors import UsageError

if TYPE_CHECKING:
    from srdd.documents.recipe import Recipe
    from srdd.documents.scan import Scan
    from srdd.recipes.choosing import Question

PAGES = (".html", ".htm")
ROWS = {".csv": "csv", ".tsv": "tsv"}


@dataclass(frozen=True)
class Choice:
    """What is chosen from, and the budget; see `srdd.recipes.choosing.recipe`.

    Attributes:
        bits, max_kl: the budget.
        formats: separated by commas.
        operands: what is quantized.
        pattern: formats by hand.
        granularity: what gets one format.
        fuse: kinds or names that one kernel takes together, separated by commas.
    """

    bits: float | None = None
    max_kl: str | None = None
    formats: str | None = None
    operands: str = "both"
    pattern: list[str] = field(default_factory=list)
    granularity: str = "linear-group"
    fuse: list[str] = field(default_factory=list)

    @property
    def has_budget(self) -> bool:
        return self.bits is not None or self.max_kl is not None


def refuse_choice(choice: Choice, why: str) -> None:
    """Make sure that no option of a choice is given.

    Raises:
        UsageError: one is; `why` says why it does nothing.
    """
    plain = Choice()
    for each in fields(choice):
        if getattr(choice, each.name) != getattr(plain, each.name):
            name = f"--{each.name.replace('_', '-')}"
            raise UsageError(f"{name} does nothing {why}", "leave it out, or name a scan")


def choose(scan: Scan, choice: Choice, consumer: str | None, destination: Destination) -> None:
    """Write the recipe of a scan, or show what budgets cost where none is given.

    Raises:
        UsageError: see `srdd.recipes.choosing.recipe`; a consumer or a document without a budget.
        OutputError: the result cannot be written.
    """
    from srdd.recipes import FUSED, question, recipe_for

    ending = Path(destination.output or "").suffix.lower()
    if not choice.has_budget and (consumer or (destination.output and ending not in _CURVES)):
        raise UsageError(
            "a recipe needs a budget", "such as --bits 5, --max-kl 0.05 or --max-kl 50%"
        )
    destination.path()
    asked = question(
        scan,
        formats=[name.strip() for name in (choice.formats or "").split(",") if name.strip()],
        operands="weight" if choice.operands == "weight" else "both",
        patterns=choice.pattern,
        granularity=choice.granularity,
        fused=[names.split(",") for names in choice.fuse] or FUSED,
    )
    made = None
    if choice.has_budget:
        made = recipe_for(asked, bits=choice.bits, max_kl=choice.max_kl)
    if consumer is not None and made is not None:
        write_export(made, consumer, destination, beside=True)
    elif ending in _CURVES:
        _write_curve(asked, made, ending, destination)
    else:
        _show(asked, made, destination)


_CURVES = (*PAGES, *ROWS)


def _write_curve(
    asked: Question, made: Recipe | None, ending: str, destination: Destination
) -> None:
    from srdd.reports.recipe_page import recipe_page, tradeoff_csv

    page = ending in PAGES
    text = recipe_page(asked, made) if page else tradeoff_csv(asked, ROWS[ending], made)
    destination.write(text.encode())


def _show(asked: Question, made: Recipe | None, destination: Destination) -> None:
    """Write the document where there is one, and show tables."""
    from srdd.reports.recipe_view import recipe_blocks, tradeoff_blocks
    from srdd.reports.terminal import render

    if made is None:
        console.show(*render(tradeoff_blocks(asked)))
        return
    if destination.output == "-":
        console.show_beside(*render(recipe_blocks(made)))
        console.write_result(made.to_json())
        return
    target = destination.path() or default_name(made, datetime.now())
    try:
        made.save(target, force=destination.force)
        console.say(f"wrote {target}")
    finally:
        console.show(*render(recipe_blocks(made, str(target))))


def default_name(recipe: Recipe, now: datetime) -> Path:
    """The file a recipe goes to when none is named: after model, bits and time."""
    name = recipe.model.name
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name if name else "model").strip("-.")
    return Path(
        f"srdd-{stem[:80] or 'model'}-recipe-{recipe.bits:.2f}bits-{now:%Y%m%d-%H%M%S}.json"
    )


def write_export(
    recipe: Recipe, consumer: str, destination: Destination, *, beside: bool = False
) -> None:
    """Write what a consumer reads of a recipe.

    Arguments:
        beside: whether the recipe is shown on standard error, too.

    Raises:
        UsageError: no such consumer, or it cannot do what the recipe says.
    """
    from srdd.recipes.exports import caveats, consumer_of, export

    name = consumer_of(consumer, writing=True)
    content = export(recipe, name).encode()
    if beside:
        from srdd.reports.recipe_view import recipe_blocks
        from srdd.reports.terminal import render

        console.show_beside(*render(recipe_blocks(recipe)))
    for text in caveats(recipe, name):
        console.warn(text)
    destination.write(content)
