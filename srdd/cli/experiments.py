"""A folder of configurations to be run against each other, with the plan of the experiment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from srdd.cli import console
from srdd.cli.output import Destination
from srdd.documents.document import check_target, write_whole
from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan
from srdd.errors import OutputError, UsageError
from srdd.noise import CONTROLS, STRATEGIES, suggest
from srdd.noise.experiment import standard_error
from srdd.noise.exports import export
from srdd.reports.plan import plan
from srdd.reports.suggestion_view import costs_table
from srdd.reports.terminal import render
from srdd.reports.text import safe

PLAN = "plan.md"


def check_folder(destination: Destination) -> Path:
    """The folder to write to; it may be missing, the one around it not.

    Raises:
        UsageError: no folder is named.
        OutputError: nothing can be written there.
    """
    if destination.output is None or destination.output == "-":
        raise UsageError("this writes several files", "name a folder for them with -o FOLDER")
    folder = Path(destination.output)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file", "name a folder with -o")
    check_target(folder / PLAN if folder.is_dir() else folder, force=destination.force)
    return folder


def check_evaluation(questions: int, baseline: float | None) -> None:
    """Make sure that the plan's statistics can be computed.

    Raises:
        UsageError: the baseline is no fraction, or there are no questions.
    """
    standard_error(0.5 if baseline is None else baseline, questions)


def runs_of(strategy: str, options: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The configurations to make: all strategies, or one and uniform noise; and the controls.

    With `all`, the controls are those of `variable`.

    Arguments:
        strategy: `all`, or the name of a strategy.
        options: by strategy.

    Returns:
        The arguments of `srdd.suggest` by what a configuration is called.

    Raises:
        UsageError: a strategy that has no controls.
    """
    if strategy == "uniform" or strategy in CONTROLS:
        raise UsageError(
            f"{strategy} is itself what others are compared with",
            "use --controls with targeted, variable, zone, balanced or matched",
        )
    if strategy == "all":
        runs = {name: {"strategy": name, **options.get(name, {})} for name in STRATEGIES}
        strategy, own = "variable", dict(options["variable"])
    else:
        own = {name: value for each in options.values() for name, value in each.items()}
        runs = {"uniform": {"strategy": "uniform"}, strategy: {"strategy": strategy, **own}}
    return runs | {name: {"strategy": strategy, "control": name, **own} for name in CONTROLS}


def make(
    scan: Scan,
    runs: Mapping[str, Mapping[str, Any]],
    trainer: str,
    form: str,
    *,
    needed: bool,
    questions: int,
    baseline: float | None,
) -> dict[str, str]:
    """The contents of the files, by name: a configuration for each run, and their plan.

    Arguments:
        needed: whether a configuration that cannot be made is an error; otherwise it is left out
            with a warning.

    Raises:
        UsageError: a configuration cannot be made, or not for this trainer.
    """
    configs: dict[str, RinConfig] = {}
    contents: dict[str, str] = {}
    failures: dict[str, UsageError] = {}
    for label, arguments in runs.items():
        name = f"{label}.{form}"
        try:
            config = suggest(scan, **arguments)
            contents[name] = export(config, trainer, form)
        except UsageError as error:
            if needed:
                raise
            failures[label] = error
        else:
            configs[name] = config
    if not configs:
        raise next(iter(failures.values()))
    left_out = [f"{label}, because {error.message}" for label, error in failures.items()]
    contents[PLAN] = plan(
        configs, scan=scan, questions=questions, baseline=baseline, left_out=left_out
    )
    first = next(iter(configs.values()))
    if table := costs_table({config.label: config for config in configs.values()}):
        console.show_beside(*render([table]))
    for text in (
        *(f"left out {reason}" for reason in left_out),
        *first.recommendation.reasons,
        *first.warnings,
    ):
        console.warn(safe(text, longest=1000))
    return contents


def write_all(contents: Mapping[str, str], folder: Path, *, force: bool) -> None:
    """Write the files, none of them before all of them can be.

    Raises:
        OutputError: a file exists, or cannot be written.
    """
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot make the folder {folder}: {reason}", "name another folder with -o"
        ) from None
    for name in contents:
        check_target(folder / name, force=force)
    for name, content in contents.items():
        write_whole(folder / name, content.encode(), force=force)
    console.say(f"wrote {len(contents) - 1} configurations and {PLAN} to {safe(str(folder))}")
