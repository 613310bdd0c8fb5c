"""`srdd suggest`: from a scan to a noise configuration that a trainer accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from srdd.cli import console, options
from srdd.cli.options import OUTPUT, SITE, SPEC, flag, one_of, option
from srdd.errors import UsageError, unknown_name

STRATEGY = "Strategy"
PLAN = "Plan of experiments"
LAYER_TYPE = one_of("layer type", "srdd.noise:LAYER_TYPES")


def metric(text: str) -> str:
    """A metric to rank layers by, as options.metric."""
    from srdd.noise import METRICS

    if text in METRICS:
        return text
    from srdd.numerics.metrics import metric_name

    return metric_name(text, METRICS)


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


def suggest(
    scan: Annotated[
        str | None,
        typer.Argument(
            metavar="SCAN",
            help="File of a scan, also the method's prototype's; - for standard input.",
            show_default="the newest in this folder",
        ),
    ] = None,
    strategy: Annotated[
        str, option("uniform, targeted, variable, zone, inverse, shuffled, or all.", "NAME")
    ] = "variable",
    consumer: Annotated[
        str, option("The trainer: guide, verl-rin, qerl, surogate or srdd.", "NAME", "--for")
    ] = "guide",
    site: Annotated[
        str | None,
        option(
            "Site of the scan.", "NAME", default="input where the scan has it, else output", **SITE
        ),
    ] = None,
    format: Annotated[
        str | None, option("Format of the scan.", SPEC, default="the only one")
    ] = None,
    rank_by: Annotated[
        str,
        option(
            "Rank layers by relative_error, sqnr_db, deadzone, relative_l1 or vs_floor_db.",
            "NAME",
            "--metric",
            parser=metric,
        ),
    ] = "relative_error",
    layer_type: Annotated[
        str, option("Which weights get noise: rmsnorm or linear.", "NAME", **LAYER_TYPE)
    ] = "rmsnorm",
    exclude: Annotated[
        list[str],
        option(
            "No noise on modules whose name contains this; repeatable.",
            "PATTERN",
            default="lm_head, embed_tokens, lora_",
        ),
    ] = [],
    sigma_start: Annotated[
        float, option("Sigma of the first noisy stage.", "SIGMA", panel=STRATEGY)
    ] = 0.05,
    sigma_end: Annotated[
        float, option("Sigma of the last stage.", "SIGMA", panel=STRATEGY)
    ] = 0.0005,
    num_stages: Annotated[
        int, option("Stages of the run; the first has no noise.", "N", panel=STRATEGY)
    ] = 10,
    equal_energy: Annotated[
        bool,
        flag(
            "Scale sigma so that the noise energy equals that of uniform noise.",
            "--equal-energy",
            panel=STRATEGY,
        ),
    ] = False,
    top_k: Annotated[
        int | None, option("targeted: number of layers.", "N", default="10", panel=STRATEGY)
    ] = None,
    cap: Annotated[
        float | None,
        option(
            "variable: scale multipliers so that this is the largest.",
            "FACTOR",
            default="off",
            panel=STRATEGY,
        ),
    ] = None,
    zones: Annotated[
        str | None,
        option(
            "zone: depth, breaks (natural breaks of the metric), or ranges: 0-3,4-9,10-27.",
            "ZONES",
            default="depth",
            panel=STRATEGY,
        ),
    ] = None,
    tier: Annotated[
        list[str],
        option(
            "zone: sigmas of tier high, medium or low, or NAME=none; repeatable.",
            "NAME=START:END",
            default="high=0.05:0.001, medium=0.03:0.0005, low=none",
            panel=STRATEGY,
        ),
    ] = [],
    controls: Annotated[
        bool,
        flag(
            "Also write uniform noise and the controls inverse and shuffled to -o FOLDER.",
            "--controls",
            panel=PLAN,
        ),
    ] = False,
    questions: Annotated[int, option("Questions in the evaluation.", "N", panel=PLAN)] = 1319,
    baseline: Annotated[
        float | None,
        option("Accuracy without noise.", "FRACTION", default="to fill in", panel=PLAN),
    ] = None,
    form: Annotated[
        str | None,
        option(
            "yaml, json or overrides (for Hydra, or flags for a shell).",
            "NAME",
            "--as",
            default="by the file's ending, else what the trainer reads",
            panel=OUTPUT,
        ),
    ] = None,
    output: Annotated[
        str | None,
        option(
            "Where it goes; a folder with --strategy all or --controls.",
            "FILE|FOLDER",
            "--output",
            "-o",
            default="standard output",
            panel=OUTPUT,
        ),
    ] = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Turn a scan into a noise configuration for a trainer.

    The configuration goes to standard output, a table and warnings to standard error. No
    configuration promises a gain.
    """
    from srdd.cli import experiments
    from srdd.cli.output import deliver, free_target
    from srdd.cli.scans import load
    from srdd.noise import CONTROLS, STRATEGIES
    from srdd.noise import suggest as suggest_from
    from srdd.noise.exports import export, form_of

    general: dict[str, Any] = {
        "site": site,
        "format": format,
        "metric": rank_by,
        "equal_energy": equal_energy,
        "sigma_start": sigma_start,
        "sigma_end": sigma_end,
        "num_stages": num_stages,
        "layer_type": layer_type,
        "exclude": exclude,
        "seed": seed,
    }
    known = (*STRATEGIES, *CONTROLS, "all")
    if strategy not in known:
        raise unknown_name("strategy", strategy, known)
    special: dict[str, dict[str, Any]] = {
        "targeted": {"top_k": top_k},
        "variable": {"cap": cap},
        "zone": {"zones": zones, "tiers": parse_tiers(tier)},
    }
    if strategy == "all" or controls:
        runs = experiments.runs_of(strategy, special)
        folder, form = experiments.check_folder(output, force), form_of(consumer, form)
        experiments.check_evaluation(questions, baseline)
        contents = experiments.make(
            load(scan),
            {label: {**general, **own} for label, own in runs.items()},
            consumer,
            form,
            needed=strategy != "all",
            questions=questions,
            baseline=baseline,
        )
        experiments.write_all(contents, folder, force=force)
        return
    endings = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}
    form = form_of(consumer, form or endings.get(Path(output or "").suffix.lower()))
    file = free_target(output, force=force)
    measured = load(scan)
    merged = {name: value for own in special.values() for name, value in own.items()}
    config = suggest_from(measured, strategy, **general, **merged)
    content = export(config, consumer, form).encode()
    if not quiet:
        from srdd.reports.suggestion_view import suggestion_blocks
        from srdd.reports.terminal import render

        console.show_beside(*render(suggestion_blocks(config, measured)))
    deliver(content, file, force=force)
