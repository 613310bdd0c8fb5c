"""`srdd suggest`: from a scan to a noise configuration that a trainer accepts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srdd.cli import console
from srdd.cli.options import Debug
from srdd.cli.scans import load
from srdd.errors import UsageError, unknown_name
from srdd.reports.text import safe

if TYPE_CHECKING:
    from srdd.documents.rin import RinConfig
    from srdd.documents.scan import Scan


def parse_tiers(given: list[str]) -> dict[str, tuple[float, float] | None] | None:
    """`NAME=START:END` or `NAME=none` settings; None for none given.

    Raises:
        UsageError: one of them is neither.
    """
    found: dict[str, tuple[float, float] | None] = {}
    for setting in given:
        name, equals, value = setting.partition("=")
        start, colon, end = value.partition(":")
        try:
            if not equals or not (colon or value == "none"):
                raise ValueError
            found[name] = (float(start), float(end)) if colon else None
        except ValueError:
            raise UsageError(
                f"--tier {setting!r} is no schedule", "write high=0.05:0.001, or low=none"
            ) from None
    return found or None


def suggest(
    scan: Annotated[
        str | None,
        typer.Argument(
            help="A scan by srdd or by the method's prototype; - for standard input.",
            show_default="the newest in this folder",
        ),
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="uniform, targeted, variable, zone, inverse, shuffled, or all.")
    ] = "variable",
    metric: Annotated[
        str,
        typer.Option(
            help="Rank layers by relative_error, sqnr_db, deadzone, relative_l1 or vs_floor_db.",
        ),
    ] = "relative_error",
    site: Annotated[
        str | None,
        typer.Option(help="Which site of the scan.", show_default="input where the scan has it"),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Which format of the scan, if it holds several.",
            show_default="the only one",
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(help="targeted: how many layers.", show_default="10"),
    ] = None,
    top_fraction: Annotated[
        float | None,
        typer.Option(help="targeted: which share of the layers instead.", show_default="off"),
    ] = None,
    direction: Annotated[
        str | None,
        typer.Option(
            help="variable: proportional (more noise on worse layers) or inverse (less).",
            show_default="proportional",
        ),
    ] = None,
    cap: Annotated[
        float | None,
        typer.Option(
            help="variable: divide multipliers so that the largest is this.",
            show_default="off",
        ),
    ] = None,
    clip: Annotated[
        tuple[float, float] | None,
        typer.Option(
            metavar="LOW HIGH",
            help="variable: keep multipliers between these.",
            show_default="off",
        ),
    ] = None,
    zones: Annotated[
        str | None,
        typer.Option(
            help="zone: depth, breaks (natural breaks of the metric), or ranges as 0-3,4-9,10-27.",
            show_default="depth",
        ),
    ] = None,
    tier: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=START:END",
            help="zone: sigmas of tier high, medium or low, or NAME=none; repeat for several.",
            show_default="high=0.05:0.001, medium=0.03:0.0005, low=none",
        ),
    ] = [],  # noqa: B006 - typer copies it
    sigma_start: Annotated[float, typer.Option(help="Sigma at the first noisy stage.")] = 0.05,
    sigma_end: Annotated[float, typer.Option(help="Sigma at the last stage.")] = 0.0005,
    num_stages: Annotated[
        int,
        typer.Option(help="Stages that the run is cut into; the first is clean."),
    ] = 10,
    layer_type: Annotated[str, typer.Option(help="Noise on rmsnorm or linear.")] = "rmsnorm",
    exclude: Annotated[
        list[str],
        typer.Option(
            metavar="PATTERN",
            help="Spare modules whose name contains this; repeat for several.",
            show_default="lm_head, embed_tokens, lora_",
        ),
    ] = [],  # noqa: B006
    equal_energy: Annotated[
        bool,
        typer.Option(
            "--equal-energy",
            help="Scale sigma so that the noise energy is uniform's.",
            show_default="off",
        ),
    ] = False,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls",
            help="Also write uniform noise and the controls inverse and shuffled; needs -o FOLDER.",
            show_default="off",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the shuffled control.")] = 0,
    consumer: Annotated[
        str,
        typer.Option(
            "--for",
            help="The trainer: guide, verl-rin, qerl, surogate or srdd.",
        ),
    ] = "guide",
    form: Annotated[
        str | None,
        typer.Option(
            "--as",
            help="yaml, json or overrides (of Hydra, or flags, for a shell).",
            show_default="by the name of the file, or what the trainer reads",
        ),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE|FOLDER",
            help="Where it goes; a folder with --strategy all or --controls.",
            show_default="standard output",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite existing files.", show_default="off")
    ] = False,
    questions: Annotated[
        int,
        typer.Option(help="Evaluation questions, for the plan."),
    ] = 1319,
    baseline: Annotated[
        float | None,
        typer.Option(
            help="Accuracy without noise as a fraction, for the plan.",
            show_default="to fill in",
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Turn a scan into a noise configuration for a trainer.

    The configuration goes to standard output; the table and the warnings to standard
    error. No configuration promises a gain.
    """
    from srdd.documents.document import check_target
    from srdd.noise import CONTROLS, STRATEGIES
    from srdd.noise.exports import form_of

    if strategy not in (*STRATEGIES, *CONTROLS, "all"):
        raise unknown_name("strategy", strategy, (*STRATEGIES, *CONTROLS, "all"))
    general: dict[str, Any] = {
        "site": site,
        "format": format,
        "metric": metric,
        "equal_energy": equal_energy,
        "sigma_start": sigma_start,
        "sigma_end": sigma_end,
        "num_stages": num_stages,
        "layer_type": layer_type,
        "exclude": exclude,
        "seed": seed,
    }
    special: dict[str, dict[str, Any]] = {
        "targeted": {"top_k": top_k, "top_fraction": top_fraction},
        "variable": {"direction": direction, "cap": cap, "clip": clip},
        "zone": {"zones": zones, "tiers": parse_tiers(tier)},
    }
    if strategy == "all" or controls:
        from srdd.cli import experiments

        target = experiments.Target(
            experiments.check_folder(output, force), consumer, form_of(consumer, form), force
        )
        runs = experiments.runs_of(strategy, special)
        experiments.check_evaluation(questions, baseline)
        experiments.write(load(scan), runs, general, target, questions, baseline)
        return
    form = form_of(consumer, form or _form_by_name(output))
    if output not in (None, "-"):
        check_target(Path(output), force=force)
    found = load(scan)
    from srdd.noise import suggest as suggest_from

    merged = {name: value for own in special.values() for name, value in own.items()}
    config = suggest_from(found, strategy, **general, **merged)
    _deliver(config, found, consumer, form, output, force)


def _form_by_name(output: str | None) -> str | None:
    """The form that the name of the file asks for, if it does."""
    suffix = Path(output or "").suffix.lower()
    return {".yaml": "yaml", ".yml": "yaml", ".json": "json"}.get(suffix)


def _deliver(
    config: RinConfig, scan: Scan, consumer: str, form: str, output: str | None, force: bool
) -> None:
    from srdd.documents.document import write_whole
    from srdd.noise.exports import export
    from srdd.reports.rin_table import rin_tables

    content = export(config, consumer, form).encode()
    console.show_beside(*rin_tables(config, scan))
    if output in (None, "-"):
        console.write_result(content)
        return
    write_whole(Path(output), content, force=force)
    console.say(f"wrote {safe(output)}")
