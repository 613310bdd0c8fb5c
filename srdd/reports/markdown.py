"""The guide: a scan as one Markdown document, from findings to configurations and a plan.

It follows the method's guide section by section, and says only what the scan's figures carry. Every
name from the scan is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence

from srdd import __version__
from srdd.documents.scan import Scan
from srdd.errors import counted
from srdd.noise import fingerprint
from srdd.numerics.sites import SITES
from srdd.reports.findings import findings
from srdd.reports.groups import Group
from srdd.reports.markdown_layers import analysis, formats_beside
from srdd.reports.markdown_noise import noise
from srdd.reports.markdown_text import code, escape, table

LONGEST = 2000
"""Characters of a sentence at most."""

MOST_MODULES = 20
"""How many modules without figures are named."""


def guide(groups: Sequence[Group]) -> str:
    """The document for one scan, ending in a line end.

    Arguments:
        groups: what to report, of one scan, at least one; the strategies start from the first.
    """
    scan, main = groups[0].scan, groups[0]
    parts = [
        f"# Quantization and noise guide: {code(scan.model.name or 'unnamed')}\n",
        _facts(groups),
        "## Executive summary\n",
        *(_summary(group, several=len(groups) > 1) for group in groups),
        "## What was measured, and what was not\n",
        _measured(groups),
        *(part for group in groups for part in analysis(group)),
        *formats_beside(groups),
        *noise(main),
        "## Caveats\n",
        _caveats(scan),
        "## Provenance\n",
        _provenance(scan),
    ]
    return "\n".join(part for part in parts if part)


def _facts(groups: Sequence[Group]) -> str:
    scan = groups[0].scan
    text = scan.calibration
    prompts = (
        f"{counted(text.prompts, 'prompt')}, {counted(text.tokens, 'token')}"
        if text.prompts is not None and text.tokens is not None
        else "the scan does not say"
    )
    lines = [
        ("Scanned", escape(scan.run.started or "the scan does not say")),
        ("Measured", "; ".join(f"site {escape(g.place)} in {code(g.spec)}" for g in groups)),
        ("Layers", str(len(scan.model.layers))),
        ("Text", prompts),
    ]
    return "".join(f"- **{name}**: {value}\n" for name, value in lines)


def _heading(group: Group) -> str:
    return f"site {escape(group.place)}, {code(group.spec)}"


def _summary(group: Group, *, several: bool) -> str:
    sentences = "".join(f"- {escape(each, longest=LONGEST)}\n" for each in findings(group))
    return (f"**At {_heading(group)}:**\n\n" if several else "") + sentences


def _measured(groups: Sequence[Group]) -> str:
    scan = groups[0].scan
    sites = dict.fromkeys(group.site for group in groups)
    lines = [
        f"- **Measured**, site {escape(site)}: {SITES.get(site, 'a site unknown to this srdd')}."
        for site in sites
    ]
    held = set(scan.settings.sites)
    lines += [
        f"- In the scan and left out of this report: site {escape(site)}."
        for site in scan.settings.sites
        if site not in sites
    ]
    lines += [
        f"- **Not measured**, site {site}: {what} (`srdd scan --site {site}`)."
        for site, what in SITES.items()
        if site not in held
    ]
    lines += [
        f"- **Not measured**, {code(one.module)}"
        + (f" at site {escape(one.site)}" if one.site else "")
        + f": {escape(one.reason, longest=LONGEST)}"
        for one in scan.not_measured[:MOST_MODULES]
    ]
    if more := len(scan.not_measured) - MOST_MODULES:
        lines += [f"- Not measured: {counted(more, 'more module')}."] if more > 0 else []
    lines += [
        "- **Not measured by any scan**: accuracy; how much error the model bears; errors that add "
        "up from layer to layer, since hooks see a forward pass in full precision.",
    ]
    return "\n".join(lines) + "\n"


def _caveats(scan: Scan) -> str:
    lines = [
        "- A threshold alone says little about a 4-bit format, since Gaussian data breaches the "
        "usual ones; read it next to the distance from the format's floor.",
        "- Relative error counts a value that became zero as exactly 100 %, so it follows the "
        "deadzone, and large values hardly enter it; SQNR is ruled by the largest values. That is "
        "why the two can rank layers differently.",
        "- Where a layer errs is not yet where noise belongs. No gain in accuracy follows from "
        "these figures; the plan above says what would show one.",
    ]
    lines += [f"- From the scan: {escape(text, longest=LONGEST)}" for text in scan.warnings]
    return "\n".join(lines) + "\n"


def _provenance(scan: Scan) -> str:
    model, text, run, settings = scan.model, scan.calibration, scan.run, scan.settings
    limits = settings.thresholds
    rows: list[tuple[str, object]] = [
        ("model", model.name),
        ("source", model.source),
        ("revision", model.revision),
        ("fingerprint of the weights", model.fingerprint),
        ("architecture", model.architecture),
        ("dtype", model.dtype),
        ("parameters", None if model.parameters is None else f"{model.parameters:,}"),
        ("tokenizer", model.tokenizer),
        ("calibration text", text.source),
        ("fingerprint of the text", text.fingerprint),
        ("prompts cut short", text.truncated),
        ("prompts left out", text.left_out),
        ("chat template", text.chat_template),
        ("first token left out", text.skip_first_token),
        ("rounding", settings.rounding),
        ("seed", settings.seed),
        (
            "thresholds",
            f"sqnr_db={limits.sqnr_db:g}, deadzone={limits.deadzone:g}, "
            f"saturation={limits.saturation:g}, relative_error={limits.relative_error:g}",
        ),
        ("device", run.device),
        ("kernel", run.kernel),
        ("batch size", run.batch_size),
        ("software", ", ".join(f"{name} {value}" for name, value in run.versions.items())),
        ("command", run.command),
        ("scanned", run.started),
        ("elapsed", None if run.elapsed_s is None else f"{run.elapsed_s:.1f} s"),
        ("fingerprint of the figures", fingerprint(scan)),
        ("report by", f"srdd {__version__}"),
    ]
    cells = [
        (name, code(str(value), longest=LONGEST))
        for name, value in rows
        if value is not None and value != ""
    ]
    unknown = [name for name, value in rows if value is None or value == ""]
    said = f"\nThe scan does not say: {', '.join(unknown)}.\n" if unknown else ""
    return table(["", ""], cells) + said
