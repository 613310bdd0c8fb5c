"""`srdd report`: what a scan found, for a terminal, a document, a browser or a spreadsheet."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srdd.cli import console
from srdd.cli.options import Debug, Force
from srdd.cli.scans import form_of, load, newest
from srdd.errors import UsageError, unknown_name
from srdd.reports.text import safe

if TYPE_CHECKING:
    from rich.console import RenderableType

    from srdd.documents.scan import Scan
    from srdd.reports.groups import Group

FORMS = ("terminal", "markdown", "html", "csv", "tsv")
SUFFIXES = {
    ".txt": "terminal",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".csv": "csv",
    ".tsv": "tsv",
}
"""The form that the name of a file asks for."""

MOST_SCANS = 8
"""More lines than this in one chart cannot be told apart."""


def report(
    scans: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCAN",
            help="Scans by srdd or by the method's prototype; - for standard input.",
            show_default="the newest in this folder",
        ),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--as",
            metavar="NAME",
            help="terminal, markdown (the guide), html (one page with charts), csv or tsv.",
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
            show_default="standard output; html on a terminal: a file named after the scan",
        ),
    ] = None,
    force: Force = False,
    site: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="Only this site of the scans; repeat for several.",
            show_default="all",
        ),
    ] = [],  # noqa: B006 - typer copies it
    format: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[:RULE]",
            help="Only this format of the scans; repeat for several.",
            show_default="all",
        ),
    ] = [],  # noqa: B006
    by: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Sites of several tensors by layer, tensor or (terminal only) kind.",
            show_default="tensor; csv and tsv: layer",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Show what scans found: in the terminal, as a guide, as a page, or as figures.

    Needs no model. Several scans stand over each other in html, and one after the other elsewhere.
    """
    from srdd.documents.document import check_target

    form = form_of(form, output, FORMS, SUFFIXES)
    view = _view(form, by)
    if form == "html":
        from srdd.reports.html import check_extra

        check_extra()
    sources = scans or [newest()]
    if form == "html" and len(sources) > MOST_SCANS:
        raise UsageError(
            f"{len(sources)} scans in one page", f"overlay at most {MOST_SCANS}, or use --as csv"
        )
    target = _target(form, output, sources)
    if target is not None:
        check_target(target, force=force)
    content = _content(form, _read(sources), site, format, view)
    if isinstance(content, list):
        from srdd.cli.sheet import plain

        if target is None:
            console.show(*content)
        else:
            _write(target, plain(content), force)
    elif target is None:
        console.write_result(content)
    else:
        _write(target, content, force)


def _view(form: str, by: str | None) -> str:
    from srdd.reports.rows import VIEWS

    if by is None:
        return "tensor" if form == "terminal" else "layer"
    if by not in VIEWS:
        raise unknown_name("view", by, VIEWS)
    if form in ("markdown", "html"):
        raise UsageError(
            f"--by does nothing to {form}, which holds layers and tensors", "leave it out"
        )
    if by == "kind" and form != "terminal":
        raise UsageError(f"{form} has a row a layer or tensor", "use --by layer or --by tensor")
    return by


def _target(form: str, output: str | None, sources: list[str]) -> Path | None:
    """Where the report goes; None for standard output. A page of megabytes is not for a screen."""
    if output == "-":
        return None
    if output is not None:
        return Path(output)
    if form != "html" or not sys.stdout.isatty():
        return None
    first = "srdd-report" if sources[0] == "-" else Path(sources[0]).stem
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", first).strip("-.")[:80] or "srdd-report"
    return Path(f"{stem}{f'-and-{len(sources) - 1}' if sources[1:] else ''}.html")


def _read(sources: list[str]) -> list[tuple[str, Scan]]:
    """The scans, each with a name that tells them apart."""
    if sources.count("-") > 1:
        raise UsageError("standard input is named twice", "it holds one scan")
    stems = [Path(source).stem for source in sources]
    found = []
    for source, stem in zip(sources, stems, strict=True):
        name = stem if stems.count(stem) == 1 else source
        found.append(("standard input" if source == "-" else name, load(source)))
    return found


def _content(
    form: str, scans: list[tuple[str, Scan]], sites: list[str], formats: list[str], view: str
) -> bytes | list[RenderableType]:
    """The report: its bytes, or what to print on a terminal."""
    from srdd.reports.groups import groups_of

    found: list[tuple[str, list[Group]]] = [
        (name, groups_of(scan, sites, formats, _called(name, scans))) for name, scan in scans
    ]
    if form == "terminal":
        return _tables(scans, sites, formats, view)
    if form == "markdown":
        from srdd.reports.markdown import guide

        return "\n".join(guide(groups) for _, groups in found).encode()
    if form == "html":
        from srdd.reports.html import page

        return page(found).encode()
    from srdd.reports.delimited import delimited

    flat = [(name, group) for name, groups in found for group in groups]
    return delimited(flat, form, view).encode()


def _called(name: str, scans: list[tuple[str, Scan]]) -> str:
    return "the scan" if len(scans) == 1 else f"scan {name}"


def _tables(
    scans: list[tuple[str, Scan]], sites: list[str], formats: list[str], view: str
) -> list[RenderableType]:
    from rich.text import Text

    from srdd.reports.groups import narrowed
    from srdd.reports.tables import scan_tables

    parts: list[RenderableType] = []
    for number, (name, scan) in enumerate(scans):
        if len(scans) > 1:
            parts += [Text("")] if number else []
            parts.append(Text(f"scan {safe(name)}", style="bold"))
        parts += scan_tables(narrowed(scan, sites, formats), view)
    return parts


def _write(target: Path, content: bytes, force: bool) -> None:
    from srdd.documents.document import write_whole

    write_whole(target, content, force=force)
    console.say(f"wrote {safe(str(target))}")
