"""Commands that look things up: `srdd formats`, `srdd explain`, `srdd schema`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srdd.cli import console, options
from srdd.cli.options import OUTPUT

if TYPE_CHECKING:
    from rich.console import RenderableType

    from srdd.reports.explanations import Topic

DOCUMENTS = ("scan", "rin", "evaluation", "comparison")
TABLE_OR_JSON = options.one_of("form", ("table", "json"))


def formats(
    form: Annotated[
        str, options.option("table or json.", "NAME", "--as", panel=OUTPUT, **TABLE_OR_JSON)
    ] = "table",
    debug: options.Debug = False,
) -> None:
    """List number formats, their scale rules and Gaussian floors."""
    from srdd.reports.formats_view import describe_formats, formats_blocks
    from srdd.reports.terminal import render

    if form == "json":
        import orjson

        console.write_result(orjson.dumps(describe_formats(), option=orjson.OPT_INDENT_2) + b"\n")
        return
    console.show(*render(formats_blocks()))


def json_schema(document: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a document."""
    from srdd.documents import comparison, evaluation, rin, scan
    from srdd.documents.document import Document

    documents: dict[str, type[Document]] = {
        "scan": scan.Scan,
        "rin": rin.RinConfig,
        "evaluation": evaluation.Evaluation,
        "comparison": comparison.Comparison,
    }
    return documents[document].json_schema()


def schema(
    document: Annotated[
        str,
        typer.Argument(
            metavar="NAME",
            help="scan, rin (a noise configuration), evaluation or comparison.",
            **options.one_of("document", DOCUMENTS),
        ),
    ],
    debug: options.Debug = False,
) -> None:
    """Print the JSON Schema of a document."""
    import orjson

    console.write_result(orjson.dumps(json_schema(document), option=orjson.OPT_INDENT_2) + b"\n")


def explain(
    name: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME",
            help="Metrics, formats, scale rules, strategies, sites or verdicts, such as sqnr_db, "
            "mxfp4:even or 'at floor'.",
            show_default="list all",
        ),
    ] = None,
    debug: options.Debug = False,
) -> None:
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
            topic = look_up(" ".join(words[:end]))
        except UsageError:
            if end == 1:
                raise
        else:
            return [topic, *_topics(words[end:])]
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
        names = ", ".join(topic.name for topic in topics().values() if topic.kind == kind)
        yield Text(kind.replace("strategy", "strategie") + "s", style="bold")
        yield textwrap.fill(names, console.width(), initial_indent="  ", subsequent_indent="  ")
    yield ""
    yield "srdd explain NAME explains one; a format can have its scale rule."
