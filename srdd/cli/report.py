"""`srdd report`: a scan as tables, a document, a page or a spreadsheet."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from srdd.cli import options
from srdd.cli.options import OUTPUT, SITE, SPEC, VIEW, option
from srdd.errors import UsageError
from srdd.reports.report import FORMS


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
            "A row for each layer, tensor or kind of tensor.",
            "NAME",
            default="tensor; csv, tsv, json: layer",
            panel=OUTPUT,
            **VIEW,
        ),
    ] = None,
    form: Annotated[
        str | None,
        options.form("terminal, markdown, html (a page with charts), csv, tsv or json.", FORMS),
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
    from srdd.cli.output import deliver, free_target
    from srdd.reports.report import content, form_of

    form = form_of(form, output, FORMS)
    sources = scans or [reading.newest()]
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
    made = content(named, form, sites=site, formats=format, by=by, everything=everything)
    deliver(made, target, force=force)


def _page_name(sources: list[str]) -> str:
    first = "srdd-report" if sources[0] == "-" else Path(sources[0]).stem
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", first).strip("-.")[:80] or "srdd-report"
    return f"{stem}{f'-and-{len(sources) - 1}' if sources[1:] else ''}.html"
