"""`srdd scan`: measure a model, show the result and write it."""

from __future__ import annotations

import re
import shlex
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from srdd.cli import console, loading, options
from srdd.cli.options import ADVANCED, OUTPUT, SITE, SPEC, VIEW, flag, option
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
    thresholds = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            thresholds[options.metric(name)] = float(value)
        except ValueError:
            raise UsageError(
                f"--threshold {setting!r} has no number", f"write --threshold {name}=0.1"
            ) from None
    return thresholds


THRESHOLDS = "sqnr_db=20, deadzone=0.05, saturation=0.01, relative_error=0.1"
ROUNDING = options.one_of("rounding", "srdd.numerics.formats:ROUNDINGS")


def scan(
    model: options.Model,
    format: Annotated[
        list[str],
        option("Number format, optionally with a scale rule; repeatable.", SPEC),
    ] = ["mxfp4"],
    site: Annotated[
        list[str],
        option("Measure output, input, weight or linear (W4A4); repeatable.", "NAME", **SITE),
    ] = ["output", "input"],
    threshold: Annotated[
        list[str],
        option("Flag layers beyond it; repeatable.", "METRIC=VALUE", default=THRESHOLDS),
    ] = [],
    kl: Annotated[
        bool,
        flag("Also estimate what quantizing each linear costs the predictions.", "--kl"),
    ] = False,
    kl_samples: Annotated[
        int, option("Samples of labels for each prompt, for --kl.", "N", panel=ADVANCED)
    ] = 4,
    kl_check: Annotated[
        int,
        option("Measure so many estimates directly, and the whole model.", "N", panel=ADVANCED),
    ] = 8,
    kl_direct: Annotated[
        bool,
        flag(
            "Measure each linear's cost on its own instead: slow, resumable.",
            "--kl-direct",
        ),
    ] = False,
    prompts: options.Prompts = None,
    prompt_column: options.PromptColumn = None,
    limit: options.Limit = None,
    skip: options.Skip = 0,
    max_length: options.MaxLength = None,
    apply_chat_template: options.ChatTemplate = None,
    include: options.Include = [],
    exclude: options.Exclude = [],
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.Pickle = False,
    output: Annotated[
        str | None,
        option(
            "Where the scan is written; - for standard output.",
            "FILE",
            "--output",
            "-o",
            default="named after model, format and time",
            panel=OUTPUT,
        ),
    ] = None,
    force: options.Force = False,
    by: Annotated[
        str, option("A row for each layer, tensor or kind of tensor.", "NAME", panel=OUTPUT, **VIEW)
    ] = "tensor",
    everything: options.All = False,
    quiet: options.Quiet = False,
    batch_size: options.BatchSize = "auto",
    rounding: Annotated[
        str,
        option("even, half-away, toward-zero or stochastic.", "NAME", panel=ADVANCED, **ROUNDING),
    ] = "even",
    skip_first_token: Annotated[
        bool,
        flag("Leave out the first token of each prompt.", "--skip-first-token", panel=ADVANCED),
    ] = False,
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Measure where quantization hurts a model, in one pass.

    Prints tables and writes the scan as JSON.
    """
    from srdd.cli.output import free_target
    from srdd.measurement.plan import Plan

    plan = Plan.of(
        formats=format,
        sites=site,
        include=include,
        exclude=exclude,
        rounding=rounding,
        max_length=max_length,
        batch_size=batch_size,
        apply_chat_template=apply_chat_template,
        skip_first_token=skip_first_token,
        thresholds=parse_thresholds(threshold),
        seed=seed,
        kl="direct" if kl_direct else kl,
        kl_samples=kl_samples,
        kl_check=kl_check,
    )
    name = output or str(default_name(model, plan.formats, datetime.now()))
    target = free_target(name, force=force)
    prompt_set = None
    if plan.needs_prompts:
        prompt_set = loading.read_prompts(prompts, limit, skip, prompt_column)
    source = loading.find_source(
        model,
        revision=revision,
        tokenizer=tokenizer,
        allow_pickle=allow_pickle,
        needs_tokenizer=plan.needs_prompts,
    )
    loaded, reader, origin = source.load(
        dtype=dtype,
        device=device,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    from srdd.measurement.scanner import measure_model

    journal = _journal(target, model, plan.formats) if kl_direct else None
    with loading.progress() as listener:
        result = measure_model(loaded, reader, prompt_set, plan, listener, origin, journal)
    if target is None:
        console.write_result(result.to_json())
        return
    _deliver(result, target, force=force, named=output is not None, by=by, everything=everything)
    if journal is not None:
        journal.unlink(missing_ok=True)  # what it kept is in the scan now


def _journal(target: Path | None, model: str, formats: list[str]) -> Path:
    """Where a direct measurement keeps what is finished: beside the scan, in any run the same."""
    stem = re.sub(r"-\d{8}-\d{6}$", "", default_name(model, formats, datetime.now()).stem)
    return (target.parent if target is not None else Path()) / f"{stem}.kl.partial"


def _deliver(
    result: Scan, target: Path, *, force: bool, named: bool, by: str, everything: bool
) -> None:
    from srdd.reports.groups import groups_of
    from srdd.reports.scan_view import scan_blocks
    from srdd.reports.terminal import render

    try:
        target = _save(result, target, force, named)
    finally:  # it may have taken hours: where it cannot be written, at least it is shown
        console.show(*render(scan_blocks(groups_of(result), by, everything=everything)))
    console.say(f"wrote {target}")
    if target.is_file():
        _say_next(result, target)


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
