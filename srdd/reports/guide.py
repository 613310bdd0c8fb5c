"""The guide: a scan as one Markdown document, from the answer to configurations and a plan.

The text is `templates/guide.md`; here is what it shows. Every name from the scan is escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from srdd import __version__
from srdd.documents.identity import fingerprint
from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan
from srdd.errors import SrddError, counted
from srdd.noise.exports import export
from srdd.noise.figures import KL, default_metric, default_site
from srdd.numerics.sites import SITES
from srdd.reports.answer import answer
from srdd.reports.explanations import explain
from srdd.reports.groups import Group
from srdd.reports.markdown import code, escape, filled
from srdd.reports.noise import configurations, metric_for, strategies_for
from srdd.reports.plan import plan
from srdd.reports.scan_view import MOST_ROWS, amount, scan_table, sites_and_formats
from srdd.reports.sensitivity_view import sensitivity_blocks
from srdd.reports.site_view import WORST, findings, overall, zone_table
from srdd.reports.suggestion_view import costs_table, multipliers_table
from srdd.reports.text import safe
from srdd.reports.view import Block, Column, Table, Text

MOST_MODULES = 20
"""How many modules without figures are named."""


def guide(groups: Sequence[Group]) -> str:
    """The document for one scan, ending in a line end.

    Arguments:
        groups: what to report, of one scan, at least one.
    """
    return re.sub(r"\n{3,}", "\n\n", filled("guide.md", **_content(groups))).strip() + "\n"


def noise_group(groups: Sequence[Group]) -> Group:
    """What noise is derived from: the site that noise on norms acts on, if it is among them."""
    wanted = default_site(groups[0].scan, "rmsnorm")
    return next((group for group in groups if group.site == wanted), groups[0])


def _content(groups: Sequence[Group]) -> dict[str, Any]:
    scan = groups[0].scan
    text = scan.calibration
    source = noise_group(groups)
    made, failed = configurations(source)
    main = [group for group in groups if group.operands in (None, "both")]
    return {
        "scan": scan,
        "model": scan.model,
        "measured": "; ".join(f"site {escape(g.place)} in {code(g.spec)}" for g in main),
        "amount": amount(text.prompts, text.tokens, of_rollouts=text.rollouts is not None)
        if text.prompts is not None and text.tokens is not None
        else "the scan does not say",
        "answer": [Text(sentence, "answer") for sentence in answer(groups)],
        "overview": sites_and_formats(groups),
        "cost": []
        if scan.sensitivity is None
        else sensitivity_blocks(scan, "kind", formats={group.spec for group in groups}),
        "noise_from": _noise_from(source),
        "advice": _advice(made),
        "strategies": [_strategy(source, name, made, failed) for name in strategies_for(scan)],
        "costs": costs_table(made),
        "multipliers": multipliers_table(made) if made else None,
        "places": [
            {"name": group.place, "spec": group.spec, "blocks": _place(group, groups)}
            for group in main
        ],
        "not_measured": list(_not_measured(scan)),
        "plan": _plan(scan, made, failed),
        "provenance": _provenance(scan),
    }


def _place(group: Group, groups: Sequence[Group]) -> Iterable[Block]:
    """A site in a format: what its figures say, and its tables, the long ones folded."""
    own = [other for other in groups if (other.site, other.spec) == (group.site, group.spec)]
    yield from (Text(sentence, "answer") for sentence in findings(group))
    if group.several:
        yield scan_table(own, "kind")
    elif len(group.layers) > MOST_ROWS:
        yield scan_table(own, "tensor", WORST)
    yield overall(group)
    if zones := zone_table(group):
        yield zones
    yield scan_table(own, "layer", None, details=len(group.layers) > MOST_ROWS or group.several)
    if group.several:
        yield scan_table(own, "tensor", None, details=True)


def _advice(made: Mapping[str, RinConfig]) -> list[Block]:
    if not made:
        return []
    reasons = next(iter(made.values())).recommendation.reasons
    if not reasons:
        return [Text("The layers differ enough for their ranking to matter.")]
    return [Text(f"Recommended: uniform noise first, because {'; '.join(reasons)}.")]


def _strategy(
    group: Group, name: str, made: Mapping[str, RinConfig], failed: Mapping[str, SrddError]
) -> dict[str, Any]:
    content: dict[str, Any] = {"name": name, "about": _about(name), "config": ""}
    if name in failed:
        return content | {"failure": failed[name].message}
    config = made[name]
    command = f"srdd suggest --strategy {name} --site {group.site} --format {group.spec}"
    if metric_for(group) != default_metric(group.scan, group.spec):
        command += f" --metric {metric_for(group)}"
    return content | {
        "command": command,
        "config": _configuration(config),
        "energy": f"Noise in {len(config.layers)} of {config.source.layers} layers, "
        f"{config.energy.relative_to_uniform:.3g} times the noise energy of uniform noise.",
    }


def _about(strategy: str) -> dict[str, str]:
    topic = explain(strategy)[0]
    return {"summary": topic.summary} | {title.lower(): text for title, text in topic.sections}


def _configuration(config: RinConfig) -> str:
    """The settings without their comments, which the plan holds once for all."""
    try:
        text = export(config, "guide", "yaml")
    except SrddError as error:
        return f"It cannot be written in this form: {escape(error.message, longest=2000)}.\n"
    lines = [
        line
        for line in text.splitlines()
        if not line.startswith("#") or re.match(r"# experiment \d", line)
    ]
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    return "\n".join([f"{fence}yaml", *lines, fence]) + "\n"


def _noise_from(group: Group) -> str:
    if metric_for(group) == KL:
        return f"From what quantizing each layer to {group.spec} costs the predictions (KL)."
    return f"From site {group.place} in {group.spec}, the site nearest to where the noise acts."


def _plan(scan: Scan, made: Mapping[str, RinConfig], failed: Mapping[str, SrddError]) -> str:
    """The plan of the experiment; why there is none, where there is none."""
    if not made:
        reasons = dict.fromkeys(escape(e.message, longest=2000) for e in failed.values())
        return f"There is nothing to plan: {'; '.join(reasons)}.\n"
    named = {f"{name}.yaml": _shortened(config) for name, config in made.items()}
    left_out = [f"{name}, because {error.message}" for name, error in failed.items()]
    # Its headings go one level down; a line that begins with # is always a heading of its own.
    text = plan(named, scan=scan, left_out=left_out).removeprefix("# Experiment plan\n")
    return re.sub(r"^#", "##", text, flags=re.MULTILINE)


def _shortened(config: RinConfig) -> RinConfig:
    """The configuration with names of bounded length, which a plan shows."""
    source = config.source.model_copy(update={"model": safe(config.source.model)})
    warnings = [safe(text, longest=2000) for text in config.warnings]
    return config.model_copy(update={"source": source, "warnings": warnings})


def _not_measured(scan: Scan) -> Iterable[str]:
    for site, what in SITES.items():
        if site not in scan.settings.sites:
            yield f"site {site}, {what} (`srdd scan --site {site}`)."
    for one in scan.not_measured[:MOST_MODULES]:
        where = f" at site {escape(one.site)}" if one.site else ""
        yield f"{code(one.module)}{where}: {escape(one.reason, longest=2000)}"
    if (more := len(scan.not_measured) - MOST_MODULES) > 0:
        yield f"{counted(more, 'more module')}."


def provenance(scan: Scan) -> list[tuple[str, str]]:
    """Where a scan's figures are from: name and value of what the scan tells."""
    model, text, run, settings = scan.model, scan.calibration, scan.run, scan.settings
    rows: dict[str, object] = {
        "model": model.name,
        "source": model.source,
        "revision": model.revision,
        "fingerprint of the weights": model.fingerprint,
        "architecture": model.architecture,
        "dtype": model.dtype,
        "parameters": None if model.parameters is None else f"{model.parameters:,}",
        "tokenizer": model.tokenizer,
        "calibration text": text.source,
        "fingerprint of the text": text.fingerprint,
        "prompts cut short": text.truncated,
        "prompts left out": text.left_out,
        "chat template": text.chat_template,
        "first token left out": text.skip_first_token,
        "rounding": settings.rounding,
        "seed": settings.seed,
        "thresholds": ", ".join(f"{name}={limit:g}" for name, limit in settings.thresholds),
        "device": run.device,
        "kernel": run.kernel,
        "batch size": run.batch_size,
        "software": ", ".join(f"{name} {value}" for name, value in run.versions.items()),
        "command": run.command,
        "scanned": run.started,
        "elapsed": None if run.elapsed_s is None else f"{run.elapsed_s:.1f} s",
        "fingerprint of the figures": fingerprint(scan),
        "report by": f"srdd {__version__}",
    }
    return [(name, str(value)) for name, value in rows.items() if value not in (None, "")]


def _provenance(scan: Scan) -> Table:
    columns = (Column("what", align="left"), Column("value", align="left", code=True))
    return Table("Provenance", columns, tuple(provenance(scan)))
