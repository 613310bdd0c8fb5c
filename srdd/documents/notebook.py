"""A scan as a small HTML table, for notebooks."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from srdd.documents.scan import Scan

HEADS = ("site", "operands", "format", "tensors", "lowest SQNR, dB", "in layer", "median SQNR, dB")


def scan_html(scan: Scan) -> str:
    """What was measured, and a row for each site, format and choice of operands."""
    model, text = scan.model, scan.calibration
    facts = [model.name, f"{len(model.layers)} layers"]
    if text.prompts is not None:
        facts.append(f"{text.prompts:,} prompts, {text.tokens or 0:,} tokens")
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADS)
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in _rows(scan)
    )
    notes = "".join(f"<li>{escape(warning)}</li>" for warning in scan.warnings)
    return (
        f"<p><b>Scan</b> of {escape(', '.join(facts))}</p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        + (f"<ul>{notes}</ul>" if notes else "")
    )


def _rows(scan: Scan) -> Iterator[tuple[str, ...]]:
    groups: dict[tuple[str, str, str], list[tuple[float, int]]] = {}
    for record in scan.records:
        key = record.site, str(record.operands or ""), f"{record.format}:{record.scale_rule}"
        figures = groups.setdefault(key, [])
        if record.metrics.sqnr_db is not None:
            figures.append((record.metrics.sqnr_db, record.layer))
    for key, figures in groups.items():
        shown = ["-", "-", "-"]
        if figures:
            (lowest, layer), (median, _) = min(figures), sorted(figures)[len(figures) // 2]
            shown = [f"{lowest:.2f}", str(layer), f"{median:.2f}"]
        yield (*key, str(len(figures)), *shown)
