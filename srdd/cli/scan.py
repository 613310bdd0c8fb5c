"""`srdd scan`: measure a model, show the result and write it."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from srdd.cli import console, loading, ranks
from srdd.cli.dry_run import show_forecast
from srdd.cli.loading import ModelOptions, PromptOptions, RunOptions
from srdd.cli.options import command
from srdd.cli.output import Destination, show
from srdd.cli.rollouts import RolloutOptions
from srdd.errors import OutputError, UsageError

if TYPE_CHECKING:
    from srdd.documents.scan import Scan


def default_name(model: str, formats: list[str], now: datetime) -> Path:
    """The file a scan goes to when none is named: after model, format and time."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name if model else "model").strip("-.")
    spec = formats[0].replace(":", "-") + (f"-and-{len(formats) - 1}" if formats[1:] else "")
    return Path(f"srdd-{stem[:80] or 'model'}-{spec}-{now:%Y%m%d-%H%M%S}.json")


def parse_thresholds(settings: list[str]) -> dict[str, float]:
    """`METRIC=VALUE` settings by metric; the last of several for one metric counts.

    Raises:
        UsageError: no such metric, or no number.
    """
    from srdd.numerics.metrics import FIGURES, metric_name

    thresholds = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            thresholds[metric_name(name, FIGURES)] = float(value)
        except ValueError:
            raise UsageError(
                f"--threshold {setting!r} has no number", f"write --threshold {name}=0.1"
            ) from None
    return thresholds


@command
def scan(
    model: ModelOptions,
    prompts: PromptOptions,
    responses: RolloutOptions,
    options: RunOptions,
    destination: Destination,
    format: list[str] = ["mxfp4"],
    site: list[str] = ["output", "input"],
    threshold: list[str] = [],
    kl: bool = False,
    kl_direct: bool = False,
    by: str = "tensor",
    everything: bool = False,
    as_json: bool = False,
    kl_samples: int | None = None,
    kl_check: int | None = None,
    dry_run: bool = False,
    rounding: str = "even",
    skip_first_token: bool = False,
    seed: int = 0,
) -> None:
    """Measure where quantization hurts a model, in one pass.

    Prints tables and writes the scan as JSON.
    """
    from srdd.measurement.plan import Plan

    plan = Plan.of(
        formats=format,
        sites=site,
        rounding=rounding,
        skip_first_token=skip_first_token,
        thresholds=parse_thresholds(threshold),
        seed=seed,
        kl="direct" if kl_direct else kl,
        kl_samples=kl_samples,
        kl_check=kl_check,
        **options.settings(),
    )
    named = destination.output is not None
    if not named:
        name = str(default_name(model.model, plan.formats, datetime.now()))
        destination = replace(destination, output=name)
    target = destination.path()
    prompt_set = responses.read(prompts) if plan.needs_prompts else None
    source = model.find(needs_tokenizer=plan.needs_prompts)
    if dry_run:
        show_forecast(source, plan, prompt_set)
        return
    server = responses.find_server()
    settings = {**vars(plan), "model": model.model, "dtype": model.dtype, "device": model.device}
    work = loading.work(_kept_as(target, model.model, plan.formats, named), settings)
    loaded, reader, origin = source.load()
    from srdd.measurement.scanner import measure_model

    with loading.progress(work) as listener:
        if prompt_set is not None:
            prompt_set = responses.own(
                loaded,
                reader,
                prompt_set,
                name=model.model,
                target=target,
                seed=seed,
                options=options,
                server=server,
                listener=listener,
            )
        result = measure_model(loaded, reader, prompt_set, plan, listener, origin)
    if ranks.RANK:
        work.finish()
        return
    if target is None:
        console.write_result(result.to_json())
        return
    target = _write(result, target, destination.force, named, by, everything, as_json)
    console.say(f"wrote {target}")
    if target.is_file():
        _say_next(result, target)
    work.finish()


def _kept_as(target: Path | None, model: str, formats: list[str], named: bool) -> Path | None:
    """What the file is named after that keeps an unfinished scan: in any run the same."""
    if target is None or named:
        return target
    name = default_name(model, formats, datetime.now())
    return target.with_name(re.sub(r"-\d{8}-\d{6}$", "", name.stem))


def _write(
    result: Scan, target: Path, force: bool, named: bool, by: str, everything: bool, as_json: bool
) -> Path:
    """Write the scan, show its tables, and give back where it went."""
    from srdd.reports.groups import groups_of
    from srdd.reports.scan_view import scan_blocks
    from srdd.reports.view import Text

    try:
        return _save(result, target, force, named)
    finally:  # it may have taken hours: where it cannot be written, at least it is shown
        blocks = scan_blocks(groups_of(result), by, everything=everything)
        said = {Text(warning, "warning") for warning in result.warnings}  # while measuring
        show([block for block in blocks if block not in said], as_json=as_json)


def _save(result: Scan, target: Path, force: bool, named: bool) -> Path:
    """Write the scan and give back where it went.

    A name that we chose ourselves, and that another scan took meanwhile, gets a number.
    """
    stem = target.stem
    for number in range(2, 100):
        try:
            result.save(target, force=force)
        except OutputError:
            if named or not target.exists():
                raise
            target = target.with_name(f"{stem}+{number}.json")
        else:
            return target
    raise OutputError(f"{target} exists already", "name another file with -o")


def _say_next(result: Scan, target: Path) -> None:
    """Name the commands that go on from here, as they would work."""
    where = "" if target.parent == Path() else f" {shlex.quote(str(target))}"
    steps = [f"`srdd report{where} --as markdown` writes a report"]
    norms = any(norm.kind == "rmsnorm" for layer in result.model.layers for norm in layer.norms)
    ranked = {"output", "input"} & set(result.settings.sites)
    formats = result.settings.formats
    if norms and ranked and len(formats) == 1:
        steps.insert(0, f"`srdd suggest{where}` makes a noise configuration")
    model = shlex.quote(result.model.name)
    named = "".join(f" --format {spec}" for spec in formats)
    steps.append(f"`srdd eval {model}{named}` measures what it costs in predictions")
    for step in steps:
        console.say(f"next: {step}")
