"""`srdd report`: a scan as tables, a document, a page or a spreadsheet."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from pathlib import Path

from srdd.cli.options import command
from srdd.cli.output import Destination
from srdd.errors import UsageError
from srdd.reports.report import FORMS


@command
def report(
    destination: Destination,
    scans: list[str] | None = None,
    site: list[str] = [],
    format: list[str] = [],
    by: str | None = None,
    form: str | None = None,
    everything: bool = False,
    as_json: bool = False,
) -> None:
    """Show a scan in the terminal, as Markdown, HTML or CSV.

    Needs no model. html overlays several scans; the other forms print one after the other.
    """
    from srdd.cli import scans as reading
    from srdd.reports.report import content, form_of

    if as_json and form not in (None, "terminal"):
        raise UsageError("--json and --as exclude each other", "leave one of them out")
    form = "terminal" if as_json else form_of(form, destination.output, FORMS)
    sources = scans or [reading.newest()]
    if sources.count("-") > 1:
        raise UsageError("standard input is named twice", "it holds one scan")
    if form == "html" and destination.output is None and sys.stdout.isatty():
        # Megabytes are not for a screen.
        destination = replace(destination, output=_page_name(sources))
    destination.path()
    stems = [Path(source).stem for source in sources]
    named = [
        (
            "standard input" if source == "-" else stem if stems.count(stem) == 1 else source,
            reading.load(source),
        )
        for source, stem in zip(sources, stems, strict=True)
    ]
    made = content(named, form, sites=site, formats=format, by=by, everything=everything)
    destination.write(made.encode() if isinstance(made, str) else made, as_json=as_json)


def _page_name(sources: list[str]) -> str:
    first = "srdd-report" if sources[0] == "-" else Path(sources[0]).stem
    stem = re.sub(r"[^A-Za-z0-9._+-]+", "-", first).strip("-.")[:80] or "srdd-report"
    return f"{stem}{f'-and-{len(sources) - 1}' if sources[1:] else ''}.html"
