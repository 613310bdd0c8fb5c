"""Commands that look things up: `srdd formats`, `srdd explain`, `srdd schema`."""

from __future__ import annotations

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
    from srdd.reports.format_table import describe_formats, format_tables

    if form == "json":
        import orjson

        console.write_result(orjson.dumps(describe_formats(), option=orjson.OPT_INDENT_2) + b"\n")
        return
    console.show(*format_tables())


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
    """What the words stand for together, such as `at floor`, or else each of them."""
    from srdd.errors import UsageError
    from srdd.reports.explanations import explain as look_up

    try:
        return [look_up(" ".join(words))]
    except UsageError:
        if len(words) == 1:
            raise
    return [look_up(word) for word in words]


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
        lines = "\n" in paragraph
        parts += [Text(""), Padding(Text(paragraph), (0, 0, 0, 2)) if lines else Text(paragraph)]
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

    parts: list[RenderableType] = []
    for kind in KINDS:
        names = [topic.name for topic in topics().values() if topic.kind == kind]
        title = kind.replace("strategy", "strategie") + "s"
        parts.append(Text(title, style="bold"))
        parts.append(Padding(Text(", ".join(names)), (0, 0, 0, 2)))
    parts += [Text(""), Text("srdd explain NAME explains one; a format can have its scale rule.")]
    return parts
