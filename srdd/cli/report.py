"""`srdd report`: a scan as tables, a document, a page or a spreadsheet."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srdd.cli import options
from srdd.cli.options import OUTPUT, SITE, SPEC, VIEW, option
from srdd.errors import UsageError

if TYPE_CHECKING:
    from srdd.documents.scan import Scan
    from srdd.reports.view import Block

FORMS = ("terminal", "markdown", "html", "csv", "tsv")

MOST_SCANS = 8
"""Lines in one chart that can still be told apart."""


def report(
    scans: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="SCAN",
            help="Files of scans, also the method's prototype's; - for standard input.",
            show_default="the newest in this folder",
        ),
    ] = None,
    site: Annotated[
        list[str], option("Only this site; repeatable.", "NAME", default="all of the scan", **SITE)
    ] = [],
    format: Annotated[
        list[str], option("Only this format; repeatable.", SPEC, default="all of the scan")
    ] = [],
    by: Annotated[
        str | None,
        option(
            "A row for each layer, tensor or (terminal only) kind of tensor.",
            "NAME",
            default="tensor; csv and tsv: layer",
            panel=OUTPUT,
            **VIEW,
        ),
    ] = None,
    form: Annotated[
        str | None,
        options.form("terminal, markdown, html (a page with charts), csv or tsv.", FORMS),
    ] = None,
    output: Annotated[
        str | None,
        option(
            "Where the report goes; - for standard output.",
            "FILE",
            "--output",
            "-o",
            default="standard output; html on a terminal: a file named after the scan",
            panel=OUTPUT,
        ),
    ] = None,
    everything: options.All = False,
    force: options.Force = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show a scan in the terminal, as Markdown, HTML or CSV.

    Needs no model. html overlays several scans; the other forms print one after the other.
    """
    from srdd.cli import scans as reading
    from srdd.cli.output import deliver, form_of, free_target

    form = form_of(form, output, FORMS)
    view = _view(form, by)
    sources = scans or [reading.newest()]
    if form == "html" and len(sources) > MOST_SCANS:
        raise UsageError(
            f"{len(sources)} scans in one page", f"overlay at most {MOST_SCANS}, or use --as csv"
        )
    if sources.count("-") > 1:
        raise UsageError("standard input is named twice", "it holds one scan")
    if form == "html" and output is None and sys.stdout.isatty():
        output = _page_name(sources)  # megabytes are not for a screen
    target = free_target(output, force=force)
    stems = [Path(source).stem for source in sources]
    named = [
        (
            "standard input" if source == "-" else stem if stems.count(stem) == 1 else source,
            reading.load(source),
        )
        for source, stem in zip(sources, stems, strict=True)
    ]
    deliver(_content(form, named, site, format, view, everything), target, force=force)


def _view(form: str, by: str | None) -> str:
    if by is not None and form in ("markdown", "html"):
        raise UsageError(
            f"--by does nothing to {form}, which holds layers and tensors", "leave it out"
        )
    if by == "kind" and form != "terminal":
        raise UsageError(f"{form} has a row a layer or tensor", "use --by layer or --by tensor")
    return by or ("tensor" if form == "terminal" else "layer")


def _page_name(sources: list[str]) -> str:
    first = "srdd-report" if sources[0] == "-" else Path(sources[0]).stem
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", first).strip("-.")[:80] or "srdd-report"
    return f"{stem}{f'-and-{len(sources) - 1}' if sources[1:] else ''}.html"


def _content(
    form: str,
    scans: list[tuple[str, Scan]],
    sites: list[str],
    formats: list[str],
    view: str,
    everything: bool,
) -> bytes | list[Block]:
    """The report: its bytes, or what to print on a terminal."""
    from srdd.reports.groups import groups_of

    groups = [
        (name, groups_of(scan, sites, formats, "the scan" if len(scans) == 1 else f"scan {name}"))
        for name, scan in scans
    ]
    if form == "terminal":
        from srdd.reports.scan_view import scan_blocks
        from srdd.reports.view import Text

        blocks: list[Block] = []
        for name, each in groups:
            blocks += [Text(f"scan {name}", "heading")] if len(groups) > 1 else []
            blocks += scan_blocks(each, view, everything=everything)
        return blocks
    if form == "markdown":
        from srdd.reports.guide import guide

        return "\n".join(guide(each) for _, each in groups).encode()
    if form == "html":
        from srdd.reports.html_page import page

        return page(groups).encode()
    from srdd.reports.delimited import delimited

    flat = [(name, group) for name, each in groups for group in each]
    return delimited(flat, form, view).encode()
