"""`srdd compare`: two scans against each other, and gates for a CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srdd.cli import console
from srdd.cli.options import Debug, Force
from srdd.cli.scans import form_of, load
from srdd.errors import UsageError
from srdd.reports.text import safe

if TYPE_CHECKING:
    from rich.console import RenderableType

    from srdd.comparison import Comparison, Gate, Outcome

FORMS = ("terminal", "markdown", "json", "csv")
SUFFIXES = {
    ".txt": "terminal",
    ".md": "markdown",
    ".markdown": "markdown",
    ".json": "json",
    ".csv": "csv",
}
"""The form that the name of a file asks for."""


def compare(
    old: Annotated[
        str, typer.Argument(metavar="OLD", help="The scan to compare with; - for standard input.")
    ],
    new: Annotated[
        str, typer.Argument(metavar="NEW", help="The scan to judge; the same file for two formats.")
    ],
    old_format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:RULE]",
            help="Which format of OLD.",
            show_default="each that both hold, or the only one",
        ),
    ] = None,
    new_format: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:RULE]",
            help="Which format of NEW.",
            show_default="each that both hold, or the only one",
        ),
    ] = None,
    site: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Only this site; repeat for several.",
            show_default="all that both hold",
        ),
    ] = [],  # noqa: B006 - typer copies it
    metric: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Show and rank layers by sqnr_db, deadzone, saturation, clipping_share, "
            "relative_error or relative_l1; json and csv hold all.",
        ),
    ] = "sqnr_db",
    fail_on: Annotated[
        list[str],
        typer.Option(
            metavar="GATE",
            help="Exit with 1 where this is true, such as 'sqnr_db < -0.5' (NEW - OLD in a layer), "
            "'overall relative_error > 2%' (all layers together) or 'new.sqnr_db < 15' (NEW's "
            "own); repeat for several.",
            show_default="none",
        ),
    ] = [],  # noqa: B006
    count_unsure: Annotated[
        bool,
        typer.Option(
            "--count-unsure",
            help="Let gates count what may be chance, too.",
            show_default="off",
        ),
    ] = False,
    form: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="terminal, markdown (fits a pull-request comment), json or csv.",
            show_default="by the name of the file, else terminal",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where it goes; - for standard output.",
            show_default="standard output",
        ),
    ] = None,
    force: Force = False,
    debug: Debug = False,
) -> None:
    """Compare two scans, layer by layer: better, worse, or no difference seen.

    Checkpoints, formats or scale rules; intervals come from the prompts, paired where both scans
    have the same. Needs no model.
    """
    from srdd.documents.document import check_target

    form = form_of(form, output, FORMS, SUFFIXES)
    if output not in (None, "-"):
        check_target(Path(output), force=force)
    gates = [_gate(text) for text in fail_on]
    _check_two(old, new, old_format, new_format)
    first, second = load(old), load(new)
    from srdd.comparison import compare_scans, judge

    found = compare_scans(
        first,
        second,
        metric=metric,
        sites=site,
        old_format=old_format,
        new_format=new_format,
        names=(_called(old), _called(new)),
    )
    outcomes = [judge(found, gate, count_unsure=count_unsure) for gate in gates]
    _deliver(found, outcomes, form, output, force)
    if form != "terminal" or output not in (None, "-"):
        _tell(outcomes)
    if not all(one.passed for one in outcomes):
        raise typer.Exit(1)


def _called(source: str) -> str:
    return "standard input" if source == "-" else safe(source)


def _check_two(old: str, new: str, old_format: str | None, new_format: str | None) -> None:
    """A scan cannot be held against itself, but two of its formats can."""
    if old == new == "-":
        raise UsageError("standard input is named twice", "name the file of one of the scans")
    two_formats = None not in (old_format, new_format) and old_format != new_format
    if two_formats or "-" in (old, new):
        return
    if Path(old).exists() and Path(new).exists() and Path(old).samefile(new):
        raise UsageError(
            f"OLD and NEW are the same file, {old}",
            "name another scan, or two of its formats with --old-format and --new-format",
        )


def _gate(text: str) -> Gate:
    from srdd.comparison import parse_gate

    gate = parse_gate(text)
    if gate.warning is not None:
        console.warn(gate.warning)
    return gate


def _deliver(
    found: Comparison, outcomes: list[Outcome], form: str, output: str | None, force: bool
) -> None:
    from srdd.documents.document import write_whole

    content = _content(found, outcomes, form)
    if output in (None, "-"):
        if isinstance(content, list):
            console.show(*content)
        else:
            console.write_result(content)
        return
    if isinstance(content, list):
        from srdd.cli.sheet import plain

        content = plain(content)
    write_whole(Path(output), content, force=force)
    console.say(f"wrote {safe(output)}")


def _content(found: Comparison, outcomes: list[Outcome], form: str) -> bytes | list[RenderableType]:
    """The comparison: its bytes, or what to print on a terminal."""
    if form == "markdown":
        from srdd.reports.compare_markdown import compare_markdown

        return compare_markdown(found, outcomes).encode()
    if form == "terminal":
        from srdd.reports.compare_table import compare_tables

        return compare_tables(found, outcomes)
    from srdd.reports.compare_data import compare_csv, compare_data

    if form == "csv":
        return compare_csv(found).encode()
    import orjson

    return orjson.dumps(compare_data(found, outcomes), option=orjson.OPT_INDENT_2) + b"\n"


def _tell(outcomes: list[Outcome]) -> None:
    """What became of the gates, for whoever reads the log of a CI."""
    if not outcomes:
        return
    from srdd.reports.compare_cells import outcome

    for one in outcomes:
        sentence = f"gate {one.gate.text!r} {outcome(one)}"
        if one.passed:
            console.say(sentence)
        else:
            console.warn(sentence)
