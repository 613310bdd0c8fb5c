"""`srdd suggest`: from a scan to a noise configuration that a trainer accepts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from srdd.cli import console
from srdd.cli.options import command
from srdd.cli.output import Destination, show
from srdd.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """Options that every strategy has, named as `srdd.suggest` names them."""

    site: str | None = None
    format: str | None = None
    metric: str | None = None
    layer_type: str = "rmsnorm"
    exclude: list[str] = field(default_factory=list)
    sigma_start: float | None = None
    sigma_end: float | None = None
    num_stages: int = 10
    target_kl: float | None = None
    match_quantization: float | None = None
    equal_energy: bool = False
    equal_kl: bool = False
    seed: int = 0


def parse_tiers(settings: list[str]) -> dict[str, tuple[float, float] | None] | None:
    """`NAME=START:END` or `NAME=none` settings; None for no setting.

    Raises:
        UsageError: one of them is neither.
    """
    tiers: dict[str, tuple[float, float] | None] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        start, colon, end = value.partition(":")
        try:
            if not equals or not (colon or value == "none"):
                raise ValueError
            tiers[name] = (float(start), float(end)) if colon else None
        except ValueError:
            raise UsageError(
                f"--tier {setting!r} is no schedule", "write high=0.05:0.001, or low=none"
            ) from None
    return tiers or None


@command
def suggest(
    settings: Settings,
    destination: Destination,
    scan: str | None = None,
    strategy: str = "variable",
    consumer: str = "guide",
    top_k: int | None = None,
    cap: float | None = None,
    zones: str | None = None,
    tier: list[str] = [],
    controls: bool = False,
    questions: int | None = None,
    baseline: float | None = None,
    form: str | None = None,
    as_json: bool = False,
) -> None:
    """Turn a scan into a noise configuration for a trainer.

    The configuration goes to standard output, a table and warnings to standard error. No
    configuration promises a gain.
    """
    from srdd.cli import experiments
    from srdd.cli.scans import load
    from srdd.noise import suggest as suggest_from
    from srdd.noise.experiment import QUESTIONS
    from srdd.noise.exports import export, form_of
    from srdd.reports.suggestion_view import suggestion_blocks
    from srdd.reports.terminal import render

    general = asdict(settings)
    special: dict[str, dict[str, Any]] = {
        "targeted": {"top_k": top_k},
        "variable": {"cap": cap},
        "zone": {"zones": zones, "tiers": parse_tiers(tier)},
    }
    if as_json and (strategy == "all" or controls or destination.output in (None, "-")):
        raise UsageError(
            "--json prints the table of one configuration, which goes to a file",
            "name the file with -o, and choose one strategy without --controls",
        )
    if strategy == "all" or controls:
        runs = experiments.runs_of(strategy, special)
        folder, form = experiments.check_folder(destination), form_of(consumer, form)
        questions = QUESTIONS if questions is None else questions
        experiments.check_evaluation(questions, baseline)
        contents = experiments.make(
            load(scan),
            {label: general | own for label, own in runs.items()},
            consumer,
            form,
            needed=strategy != "all",
            questions=questions,
            baseline=baseline,
        )
        experiments.write_all(contents, folder, force=destination.force)
        return
    for name, value in (("--questions", questions), ("--baseline", baseline)):
        if value is not None:
            raise UsageError(f"{name} has no effect without a plan", "add --strategy all")
    endings = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
    suffix = Path(destination.output or "").suffix.lower()
    form = form_of(consumer, form or endings.get(suffix))
    destination.path()
    measured = load(scan)
    own = {name: value for each in special.values() for name, value in each.items()}
    config = suggest_from(measured, strategy, **general, **own)
    content = export(config, consumer, form).encode()
    blocks = suggestion_blocks(config, measured)
    if as_json:
        show(blocks, as_json=True)
    else:
        console.show_beside(*render(blocks))
    destination.write(content)
