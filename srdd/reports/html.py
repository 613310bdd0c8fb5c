"""The page: scans as one HTML file that needs no network, with charts, tables and search.

Plotly draws the charts; its script stands in the file once. Everything from a scan is untrusted:
the template escapes it, the figures travel as JSON that cannot end its element, and the page's
policy runs no script but the two whose hashes it names.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import re
from collections.abc import Sequence
from importlib import resources
from typing import Any

from srdd import __version__
from srdd.documents.rin import RinConfig
from srdd.errors import InputError, SrddError, counted
from srdd.noise import fingerprint
from srdd.reports.findings import findings
from srdd.reports.groups import NAMES, Group
from srdd.reports.html_charts import COLOURS, HEATS, PROFILES, figures, multipliers, unit_of
from srdd.reports.html_series import Content
from srdd.reports.html_tables import layer_rows, tensor_rows, verdict_counts
from srdd.reports.noise import configurations
from srdd.reports.overall import overall
from srdd.reports.text import safe
from srdd.reports.verdict import STYLES

EXTRA = ("plotly", "jinja2")
CARDS = ("sqnr_db", "relative_error", "relative_l1", "deadzone", "saturation")
"""Metrics with a card; `relative_l1` only where it stands for the relative error."""

MOST_MODULES = 50
"""How many modules without figures are named."""


def check_extra() -> None:
    """Make sure that what draws the page is there.

    Raises:
        InputError: a package is missing.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"the HTML report needs {' and '.join(missing)}",
            f"pip install {' '.join(missing)}",
        )


def page(scans: Sequence[tuple[str, Sequence[Group]]]) -> str:
    """The page as text.

    Arguments:
        scans: for each scan its name and its groups, at least one of each.

    Raises:
        InputError: a package is missing, or several tensors of a layer have no sums.
    """
    check_extra()
    import orjson
    from jinja2 import Environment, StrictUndefined
    from plotly.offline import get_plotlyjs

    content = Content([name for name, _ in scans], [groups for _, groups in scans])
    made = [configurations(groups[0]) for _, groups in scans]
    plotly, style, script = get_plotlyjs(), _file("report.css"), _file("report.js")
    charts = figures(content, [configs for configs, _ in made])
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(_file("report.html"))
    return template.render(
        title=_title(content),
        heads=[_head(name, groups) for name, groups in scans],
        series=content.series,
        places=[_place(content, number, place) for number, place in enumerate(content.places)],
        profiles=[(metric, _named(metric), unit_of(metric)) for metric in PROFILES],
        heats=[
            (metric, _named(metric))
            for metric in HEATS
            if any(f"heat/{series.index}/{metric}" in charts for series in content.series)
        ],
        verdicts=list(STYLES),
        layers=layer_rows(content),
        tensors=tensor_rows(content),
        several_scans=len(scans) > 1,
        noise=[_noise(content, number, *one) for number, one in enumerate(made)],
        version=__version__,
        policy=_policy(plotly, script),
        style=style,
        script=script,
        plotly=plotly,
        # No text in it can end the element, since no tag can begin.
        charts=orjson.dumps(charts).decode().replace("<", "\\u003c"),
    )


def _file(name: str) -> str:
    return resources.files("srdd.reports").joinpath("templates", name).read_text("utf-8")


def _policy(*scripts: str) -> str:
    """The Content-Security-Policy: these scripts and no other, no request, no form, no frame."""
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    # Plotly styles its drawings through attributes, and hands pictures out as data or blob.
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _held(sentence: str) -> str:
    """A sentence whose figures stay on the line of their units."""
    return re.sub(r"(\d) (?=dB\b|%)", "\\1\u00a0", sentence)


def _named(metric: str) -> str:
    """A metric's name as a heading."""
    return NAMES[metric][0].upper() + NAMES[metric][1:]


def _title(content: Content) -> str:
    models = list(dict.fromkeys(groups[0].scan.model.name for groups in content.scans))
    return safe(models[0] or "unnamed") if len(models) == 1 else counted(len(models), "model")


def _head(name: str, groups: Sequence[Group]) -> dict[str, Any]:
    """What a scan says of itself."""
    scan = groups[0].scan
    model, text, run = scan.model, scan.calibration, scan.run
    facts = [model.architecture, model.dtype, counted(len(model.layers), "layer")]
    if text.prompts is not None and text.tokens is not None:
        facts.append(f"{counted(text.prompts, 'prompt')}, {counted(text.tokens, 'token')}")
    facts.append(f"scanned {run.started[:19].replace('T', ' ')}" if run.started else None)
    rows = {
        "model": model.name,
        "revision": model.revision,
        "weights": model.fingerprint,
        "calibration text": text.source,
        "text's fingerprint": text.fingerprint,
        "rounding": scan.settings.rounding,
        "device": run.device,
        "kernel": run.kernel,
        "software": ", ".join(f"{key} {value}" for key, value in run.versions.items()),
        "command": run.command,
        "figures' fingerprint": fingerprint(scan),
    }
    return {
        "name": safe(name),
        "facts": [safe(fact) for fact in facts if fact],
        "rows": [(key, safe(value, longest=1000)) for key, value in rows.items() if value],
        "warnings": [safe(text, longest=1000) for text in scan.warnings],
        "missing": [
            (safe(one.module), safe(one.reason, longest=500))
            for one in scan.not_measured[:MOST_MODULES]
        ],
        "more_missing": max(0, len(scan.not_measured) - MOST_MODULES),
    }


def _place(content: Content, number: int, place: str) -> dict[str, Any]:
    """What the page says about one place, besides its charts."""
    members = content.at(place)
    cards = []
    measures = {group.error for _, group in members}
    for metric in CARDS:
        if metric.startswith("relative") and metric not in measures:
            continue
        if not any(group.values(metric) for _, group in members) and metric not in measures:
            continue
        lines = []
        for series, group in members:
            (each,) = overall(group, (metric,))
            lines.append(
                {
                    "series": series,
                    "mean": each.shown(each.mean),
                    "low": each.low,
                    "high": each.high,
                    "floor": each.shown(each.floor),
                    "status": each.status,
                    "passes": bool(each.values) and not each.failing and not each.undefined,
                }
            )
        cards.append(
            {
                "name": _named(metric),
                "unit": unit_of(metric),
                "limit": each.threshold,
                "lines": lines,
            }
        )
    return {
        "number": number,
        "name": safe(place),
        "cards": cards,
        "findings": [
            (series, [_held(safe(text, longest=2000)) for text in findings(group)])
            for series, group in members
        ],
        "strips": [
            (
                series,
                [
                    (record.layer, word)
                    for record, word in zip(group.layers, group.words, strict=True)
                ],
                verdict_counts(group),
            )
            for series, group in members
        ],
    }


def _noise(
    content: Content, number: int, configs: dict[str, RinConfig], failed: dict[str, SrddError]
) -> dict[str, Any]:
    """The strategies of one scan: names, table, and why some are missing."""
    group = content.scans[number][0]
    columns = [multipliers(config) for config in configs.values()]
    advice = [reason for c in list(configs.values())[:1] for reason in c.recommendation.reasons]
    return {
        "number": number,
        "name": safe(content.names[number]),
        "from": f"site {safe(group.place)} in {safe(group.spec)}",
        "strategies": list(configs),
        "colours": [COLOURS[strategy] for strategy in configs],
        "rows": [
            (layer, [f"{value:.3g}" for value in values])
            for layer, values in enumerate(zip(*columns, strict=True))
        ],
        "reasons": [safe(reason, longest=1000) for reason in advice],
        "failed": [(name, safe(error.message, longest=500)) for name, error in failed.items()],
    }
