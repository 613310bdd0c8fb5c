"""`srdd schema`: the JSON Schema of a document, for whoever reads or writes it without srdd."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from srdd.cli import console
from srdd.errors import unknown_name

DOCUMENTS = ("scan", "rin")
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schema(
    document: Annotated[
        str, typer.Argument(metavar="NAME", help="scan, or rin (a noise configuration).")
    ],
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", show_default="off")
    ] = False,
) -> None:
    """Print the JSON Schema of a document on standard output."""
    if document not in DOCUMENTS:
        raise unknown_name("document", document, DOCUMENTS)
    import orjson

    console.write_result(orjson.dumps(json_schema(document), option=orjson.OPT_INDENT_2) + b"\n")


def json_schema(document: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of `scan` or `rin`.

    It says what a document looks like. What no schema can say, such as that layers are numbered
    in order, is checked when srdd reads one.
    """
    if document == "scan":
        from srdd.documents.scan import Scan as Model
    else:
        from srdd.documents.rin import RinConfig as Model  # type: ignore[assignment]
    return {"$schema": DIALECT, **Model.model_json_schema()}
