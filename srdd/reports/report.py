"""A scan as a report in any form: what `srdd report` and `srdd.report` share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srdd.errors import UsageError, unknown_name

if TYPE_CHECKING:
    from srdd.documents.scan import Scan
    from srdd.reports.view import Block

FORMS = ("terminal", "markdown", "html", "csv", "tsv", "json")

SUFFIXES = {
    ".txt": "terminal",
    ".md": "markdown",
    ".markdown": "markdown",
    ".html": "html",
    ".htm": "html",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
}
"""The form that the ending of a file's name asks for."""

MOST_SCANS = 8
"""Lines in one chart that can still be told apart."""


def report(
    scans: Scan | Mapping[str, Scan],
    path: str | Path | None = None,
    *,
    form: str | None = None,
    sites: Sequence[str] = (),
    formats: Sequence[str] = (),
    by: str | None = None,
    everything: bool = False,
    force: bool = False,
) -> str:
    """A scan as text: tables, Markdown, an HTML page, CSV, TSV or JSON.

    Arguments:
        scans: a scan, or several by name; html overlays them.
        path: a file to write it to as well.
        form: of FORMS; by the ending of `path` if left out, else `terminal` (tables).
        sites, formats: only these; all of the scan for none.
        by: a row for each `layer`, `tensor` or `kind` of tensor.
        everything: every row in tables, not only the 20 worst.
        force: overwrite an existing file.

    Raises:
        UsageError: no such form, site or format.
        OutputError: the file exists, or cannot be written.
    """
    from srdd.documents.document import check_target, write_whole
    from srdd.documents.scan import Scan

    form = form_of(form, path, FORMS)
    if path is not None:
        check_target(Path(path), force=force)
    named = [("", scans)] if isinstance(scans, Scan) else list(scans.items())
    made = content(named, form, sites=sites, formats=formats, by=by, everything=everything)
    if not isinstance(made, str):
        from srdd.reports.terminal import plain

        made = plain(made)
    if path is not None:
        write_whole(Path(path), made.encode(), force=force)
    return made


def form_of(form: str | None, path: str | Path | None, forms: Sequence[str]) -> str:
    """The form of a result: the one asked for, or by the name of the file, or for a terminal.

    Raises:
        UsageError: an unknown form, or a file's ending that stands for none of `forms`.
    """
    if form is not None:
        if form not in forms:
            raise unknown_name("form", form, forms)
        return form
    suffix = Path(path or "").suffix.lower()
    chosen = SUFFIXES.get(suffix, "" if suffix else "terminal")
    if chosen not in forms:
        known = ", ".join(ending for ending, one in SUFFIXES.items() if one in forms)
        raise UsageError(
            f"no output form has the file ending {suffix}",
            f"end the name in {known}, or choose a form with `form`",
        )
    return chosen


def content(
    scans: Sequence[tuple[str, Scan]],
    form: str,
    *,
    sites: Sequence[str] = (),
    formats: Sequence[str] = (),
    by: str | None = None,
    everything: bool = False,
) -> str | list[Block]:
    """The report of named scans as text, or as blocks for a terminal; arguments as `report`."""
    from srdd.reports.groups import groups_of

    if by is not None and form in ("markdown", "html"):
        raise UsageError(
            f"`by` does nothing to {form}, which holds layers and tensors", "leave it out"
        )
    if form == "html" and len(scans) > MOST_SCANS:
        raise UsageError(
            f"{len(scans)} scans in one page", f"overlay at most {MOST_SCANS}, or use `form=csv`"
        )
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
            blocks += scan_blocks(each, by or "tensor", everything=everything)
        return blocks
    if form == "markdown":
        from srdd.reports.guide import guide

        return "\n".join(guide(each) for _, each in groups)
    if form == "html":
        from srdd.reports.html_page import page

        return page(groups)
    from srdd.reports.delimited import delimited

    return delimited(
        [(name, group) for name, each in groups for group in each], form, by or "layer"
    )
