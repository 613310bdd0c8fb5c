"""`srdd formats`: what can be measured, and who deploys it how."""

from __future__ import annotations

from typing import Annotated

import typer

from srdd.cli import console
from srdd.errors import unknown_name

FORMS = ("table", "json")


def formats(
    form: Annotated[str, typer.Option("--as", metavar="NAME", help="table or json.")] = "table",
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.", show_default="off")
    ] = False,
) -> None:
    """List the number formats, their scale rules, and what ideal data gets in them."""
    if form not in FORMS:
        raise unknown_name("form", form, FORMS)
    from srdd.reports.format_table import describe_formats, format_tables

    if form == "json":
        import orjson

        console.write_result(orjson.dumps(describe_formats(), option=orjson.OPT_INDENT_2) + b"\n")
        return
    console.show(*format_tables())
