"""A folder of configurations to be run against each other, with the plan of the experiment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from srdd.cli import console
from srdd.documents.document import check_target, write_whole
from srdd.documents.rin import RinConfig
from srdd.documents.scan import Scan
from srdd.errors import OutputError, UsageError
from srdd.noise import CONTROLS, STRATEGIES, suggest
from srdd.noise.experiment import standard_error
from srdd.noise.exports import export, form_of
from srdd.reports.plan import plan
from srdd.reports.text import safe

SUFFIXES = {"yaml": ".yaml", "json": ".json", "overrides": ".overrides"}
PLAN = "plan.md"


@dataclass(frozen=True)
class Target:
    """Where the files go, and for which trainer in which form."""

    folder: Path
    consumer: str
    form: str
    force: bool

    @classmethod
    def checked(cls, output: str | None, consumer: str, form: str | None, force: bool) -> Target:
        """A target that can be written to; the folder may be missing, the one around it not.

        Raises:
            UsageError: no folder is named, or the trainer does not read this form.
            OutputError: nothing can be written there.
        """
        if output in (None, "-"):
            raise UsageError("this writes several files", "name a folder for them with -o FOLDER")
        folder = Path(str(output))
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file", "name a folder with -o")
        check_target(folder / PLAN if folder.is_dir() else folder, force=force)
        return cls(folder, consumer, form_of(consumer, form), force)


@dataclass(frozen=True)
class Run:
    """A configuration to make.

    Attributes:
        label: what it is called.
        strategy: the strategy behind it.
        control: which control of it, if any.
        options: those of its strategy.
        may_fail: whether the others are written when it cannot be made.
    """

    label: str
    strategy: str
    control: str | None
    options: Mapping[str, Any]
    may_fail: bool


def check_evaluation(questions: int, baseline: float | None) -> None:
    """Make sure that the plan's statistics can be computed.

    Raises:
        UsageError: the baseline is no fraction, or there are no questions.
    """
    standard_error(0.5 if baseline is None else baseline, questions)


def runs_of(strategy: str, options: Mapping[str, Mapping[str, Any]]) -> list[Run]:
    """The configurations to make: all strategies, or one and uniform noise; and the controls.

    With `all`, the controls are those of `variable`, and a strategy that cannot be made is left
    out.

    Arguments:
        strategy: `all`, or the name of a strategy.
        options: by strategy.

    Raises:
        UsageError: a strategy that has no controls.
    """
    if strategy == "all":
        runs = [Run(name, name, None, options.get(name, {}), True) for name in STRATEGIES]
        own = options["variable"]
        return [*runs, *(Run(control, "variable", control, own, True) for control in CONTROLS)]
    if strategy == "uniform" or strategy in CONTROLS:
        raise UsageError(
            f"{strategy} is itself what others are compared with",
            "use --controls with targeted, variable or zone",
        )
    merged = {name: value for own in options.values() for name, value in own.items()}
    return [
        Run("uniform", "uniform", None, {}, False),
        Run(strategy, strategy, None, merged, False),
        *(Run(control, strategy, control, merged, False) for control in CONTROLS),
    ]


def write(
    scan: Scan,
    runs: list[Run],
    general: Mapping[str, Any],
    target: Target,
    questions: int,
    baseline: float | None,
) -> None:
    """Make the configurations and write them with their plan.

    Nothing is written before everything has been made.

    Raises:
        UsageError: a configuration cannot be made, or not for this trainer.
        OutputError: a file exists, or cannot be written.
    """
    configs: dict[str, RinConfig] = {}
    contents: dict[str, str] = {}
    failures: dict[str, UsageError] = {}
    for run in runs:
        name = f"{run.label}{SUFFIXES[target.form]}"
        try:
            config = suggest(scan, run.strategy, control=run.control, **general, **run.options)
            contents[name] = export(config, target.consumer, target.form)
        except UsageError as error:
            if not run.may_fail:
                raise
            failures[run.label] = error
        else:
            configs[name] = config
    if not configs:
        raise next(iter(failures.values()))
    left_out = [f"{label}, because {error.message}" for label, error in failures.items()]
    contents[PLAN] = plan(configs, questions=questions, baseline=baseline, left_out=left_out)
    _write_all(contents, target)
    for text in left_out:
        console.warn(f"left out {safe(text, longest=1000)}")
    first = next(iter(configs.values()))
    for text in (*first.recommendation.reasons, *first.warnings):
        console.warn(safe(text, longest=1000))
    console.say(f"wrote {len(configs)} configurations and {PLAN} to {safe(str(target.folder))}")


def _write_all(contents: Mapping[str, str], target: Target) -> None:
    try:
        target.folder.mkdir(exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(
            f"cannot make the folder {target.folder}: {reason}", "name another folder with -o"
        ) from None
    for name in contents:
        check_target(target.folder / name, force=target.force)
    for name, content in contents.items():
        write_whole(target.folder / name, content.encode(), force=target.force)
