"""Commands that look things up: `srdd formats`, `srdd explain`, `srdd schema`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

from srdd.cli import console
from srdd.cli.options import command
from srdd.cli.output import show

if TYPE_CHECKING:
    from rich.console import RenderableType

    from srdd.reports.explanations import Topic

DOCUMENTS = {
    "scan": "srdd.documents.scan:Scan",
    "rin": "srdd.documents.rin:RinConfig",
    "recipe": "srdd.documents.recipe:Recipe",
    "evaluation": "srdd.documents.evaluation:Evaluation",
    "comparison": "srdd.documents.comparison:Comparison",
    "oscillation": "srdd.documents.oscillation:Oscillation",
}


@command
def formats(form: str = "table", as_json: bool = False) -> None:
    """List number formats, their scale rules and Gaussian floors."""
    from srdd.reports.formats_view import describe_formats, formats_blocks

    if form == "json":
        import orjson

        console.write_result(orjson.dumps(describe_formats(), option=orjson.OPT_INDENT_2) + b"\n")
        return
    show(formats_blocks(), as_json=as_json)


def json_schema(document: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a document."""
    module, _, name = DOCUMENTS[document].partition(":")
    described: dict[str, Any] = getattr(import_module(module), name).json_schema()
    return described


@command
def schema(document: str) -> None:
    """Print the JSON Schema of a document."""
    import orjson

    console.write_result(orjson.dumps(json_schema(document), option=orjson.OPT_INDENT_2) + b"\n")


@command
def explain(name: list[str] | None = None) -> None:
    """Explain a term: formula, unit, range, how to read it, pitfalls."""
    if not name:
        console.show(*_list())
        return
    for number, topic in enumerate(_topics(name)):
        if number:
            console.show("")
        console.show(*_page(topic))


def _topics(words: list[str]) -> list[Topic]:
    """What the words stand for, as many of them together as there is a term for (`at floor`).

    Raises:
        UsageError: a word stands for nothing, alone or with those after it.
    """
    from srdd.errors import UsageError
    from srdd.reports.explanations import explain as look_up

    for end in range(len(words), 0, -1):
        try:
            named = look_up(" ".join(words[:end]))
        except UsageError:
            if end == 1:
                raise
        else:
            return [*named, *_topics(words[end:])]
    return []


def _page(topic: Topic) -> Iterable[RenderableType]:
    from rich.text import Text

    yield Text.assemble((topic.name, "bold underline"), f" ({topic.kind})")
    yield textwrap.fill(topic.summary, console.width())
    for paragraph in topic.text:
        yield ""
        # What stands on several lines, such as a grammar, keeps them.
        if "\n" in paragraph:
            yield textwrap.indent(paragraph, "  ")
        else:
            yield textwrap.fill(paragraph, console.width())
    if not topic.sections:
        return
    yield ""
    indent = max(len(title) for title, _ in topic.sections) + 2
    for title, text in topic.sections:
        lines = textwrap.wrap(text, console.width() - indent) or [""]
        yield Text.assemble((title.ljust(indent), "bold"), lines[0])
        yield from (" " * indent + line for line in lines[1:])


def _list() -> Iterable[RenderableType]:
    from rich.text import Text

    from srdd.reports.explanations import KINDS, topics

    for kind in KINDS:
        names = ", ".join(topic.name for topic in topics() if topic.kind == kind)
        yield Text(kind.replace("strategy", "strategie") + "s", style="bold")
        yield textwrap.fill(names, console.width(), initial_indent="  ", subsequent_indent="  ")
    yield ""
    yield "srdd explain NAME explains one; a format can have its scale rule."
