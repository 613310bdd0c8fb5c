"""The strategies as Markdown, each with the configuration that `srdd suggest` writes; and the plan.

Nothing here promises a gain: what would count as one is said in the plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from srdd.documents.rin import RinConfig
from srdd.errors import SrddError
from srdd.noise import METRICS
from srdd.noise.exports import export
from srdd.reports.groups import Group
from srdd.reports.markdown_text import code, escape
from srdd.reports.noise import IDEAS, configurations
from srdd.reports.plan import plan
from srdd.reports.text import safe

LONGEST = 2000


def noise(group: Group) -> Iterable[str]:
    """A section on each strategy with its configuration, and one with the plan."""
    made, failed = configurations(group)
    yield from _strategies(group, made, failed)
    yield _experiment(made, failed)


def _strategies(
    group: Group, made: Mapping[str, RinConfig], failed: Mapping[str, SrddError]
) -> Iterable[str]:
    yield "## Noise configurations\n"
    yield (
        f"From site {escape(group.site)} in {code(group.spec)}, in the keys of the method's guide, "
        "as `srdd suggest` writes them. What speaks against using them stands under "
        "Experiment plan.\n"
    )
    if made:
        yield _recommendation(next(iter(made.values())))
    for number, (name, idea) in enumerate(IDEAS.items(), 1):
        yield f"### Strategy {number}: {name} ({idea.title})\n"
        yield f"**Concept**: {idea.concept}\n"
        if name in failed:
            yield f"**No configuration**: {escape(failed[name].message, longest=LONGEST)}.\n"
            continue
        config = made[name]
        command = f"srdd suggest --strategy {name} --site {group.site} --format {group.spec}"
        if group.error != METRICS[0]:
            command += f" --metric {group.error}"
        yield f"**Configuration** ({code(command)}):\n"
        yield _configuration(config)
        if name == "variable":
            yield _rounded(config)
        yield _list("For it", idea.pros)
        yield _list("Against it", idea.cons)
        times = config.energy.relative_to_uniform
        yield (
            f"**Noise**: {len(config.layers)} of {config.source.layers} layers; "
            f"{times:.3g} times the noise energy of uniform noise.\n"
        )
        yield "**Expected effect**: none is promised; see the plan.\n"


def _recommendation(config: RinConfig) -> str:
    reasons = config.recommendation.reasons
    if not reasons:
        return (
            "**Recommended**: the layers differ enough for their ranking to matter. Run a strategy "
            "against uniform noise and its controls.\n"
        )
    said = "; ".join(escape(reason, longest=LONGEST) for reason in reasons)
    return f"**Recommended**: uniform noise first, because {said}.\n"


def _list(title: str, items: Iterable[str]) -> str:
    return f"**{title}**:\n\n" + "".join(f"- {item}\n" for item in items)


def _rounded(config: RinConfig) -> str:
    """The multipliers as the guide prints them."""
    values = ", ".join(f"{entry.layer}: {entry.multiplier:.2f}" for entry in config.layers)
    return f"Multipliers to two decimals: {values}.\n"


def _configuration(config: RinConfig) -> str:
    """The settings without their comments, which the plan holds once for all."""
    try:
        text = export(config, "guide", "yaml")
    except SrddError as error:
        return f"It cannot be written in this form: {escape(error.message, longest=LONGEST)}.\n"
    lines = [
        line
        for line in text.splitlines()
        if not line.startswith("#") or re.match(r"# experiment \d", line)
    ]
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    return "\n".join([f"{fence}yaml", *lines, fence]) + "\n"


def _experiment(made: Mapping[str, RinConfig], failed: Mapping[str, SrddError]) -> str:
    """The plan of the experiment; why there is none, where there is none."""
    if not made:
        reasons = "; ".join(
            dict.fromkeys(escape(e.message, longest=LONGEST) for e in failed.values())
        )
        return f"## Experiment plan\n\nThere is nothing to plan: {reasons}.\n"
    named = {f"{name}.yaml": _shortened(config) for name, config in made.items()}
    left_out = [f"{name}, because {error.message}" for name, error in failed.items()]
    # Its headings go one level down; a line that begins with # is always a heading of its own.
    return re.sub(r"^#", "##", plan(named, left_out=left_out), flags=re.MULTILINE)


def _shortened(config: RinConfig) -> RinConfig:
    """The configuration with names of bounded length, which a plan shows."""
    source = config.source.model_copy(update={"model": safe(config.source.model)})
    warnings = [safe(text, longest=LONGEST) for text in config.warnings]
    return config.model_copy(update={"source": source, "warnings": warnings})
