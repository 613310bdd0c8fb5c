"""`srdd explain`: what a metric, format, strategy or verdict means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from srdd.cli import console

if TYPE_CHECKING:
    from rich.console import RenderableType

    from srdd.reports.explanations import Topic


def explain(
    name: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="A metric, format, scale rule, strategy, site or verdict, such as sqnr_db, "
            "mxfp4:even or at floor.",
            show_default="list them all",
        ),
    ] = None,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", show_default="off")
    ] = False,
) -> None:
    """Explain a word: formula, unit, range, how to read it, what misleads, and where it is from."""
    from srdd.reports.explanations import explain as look_up

    if name:
        console.show(*_page(look_up(" ".join(name))))
    else:
        console.show(*_list())


def _page(topic: Topic) -> list[RenderableType]:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    parts: list[RenderableType] = [
        Text.assemble((topic.name, "bold underline"), f" ({topic.kind})"),
        Text(topic.summary),
    ]
    for paragraph in topic.text:
        # What stands on several lines, such as a grammar, keeps them.
        kept = "\n" in paragraph
        parts += [Text(""), Padding(Text(paragraph), (0, 0, 0, 2)) if kept else Text(paragraph)]
    if topic.sections:
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for title, text in topic.sections:
            table.add_row(Text(title, style="bold"), Text(text))
        parts += [Text(""), table]
    return parts


def _list() -> list[RenderableType]:
    from rich.padding import Padding
    from rich.text import Text

    from srdd.reports.explanations import KINDS, topics

    found = list(topics().values())
    parts: list[RenderableType] = []
    for kind in KINDS:
        names = [topic.name for topic in found if topic.kind == kind]
        title = kind.replace("strategy", "strategie") + "s"
        parts.append(Text(title, style="bold"))
        parts.append(Padding(Text(", ".join(names)), (0, 0, 0, 2)))
    parts += [Text(""), Text("srdd explain NAME tells about one; a format may have its rule.")]
    return parts
