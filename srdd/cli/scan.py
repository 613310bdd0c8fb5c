"""`srdd scan`: measure a model and show what came out."""

from __future__ import annotations

import re
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srdd.cli import console, options
from srdd.cli.inputs import Display, read_prompts, recorded
from srdd.errors import OutputError, UsageError, unknown_name

if TYPE_CHECKING:
    from srdd.documents.scan import Scan


def default_name(model: str, formats: list[str], now: datetime) -> Path:
    """The file a scan goes to when none is named: after model, format and time."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name if model else "model").strip("-.")
    spec = formats[0].replace(":", "-") + (f"-and-{len(formats) - 1}" if formats[1:] else "")
    return Path(f"srdd-{stem[:80] or 'model'}-{spec}-{now:%Y%m%d-%H%M%S}.json")


def parse_thresholds(settings: list[str]) -> dict[str, float]:
    """`METRIC=VALUE` settings as numbers by name; srdd.measurement.plan checks both.

    Raises:
        UsageError: one has no number.
    """
    values = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        try:
            values[name] = float(value)
        except ValueError:
            raise UsageError(
                f"--threshold {setting!r} has no number", f"write --threshold {name}=0.1"
            ) from None
    return values


def scan(
    model: options.Model,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="Calibration text: .txt (a prompt a line), .jsonl (prompt, text or messages), "
            ".parquet, or - for standard input.",
            metavar="FILE",
            show_default="built-in prompts",
        ),
    ] = None,
    format: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[:RULE]",
            help="Number format, with a scale rule if not its first; repeat for several.",
        ),
    ] = ["mxfp4"],  # noqa: B006 - typer copies it
    site: Annotated[
        list[str],
        typer.Option(
            metavar="NAME",
            help="What to measure: output, input, weight or linear (W4A4); repeat for several.",
        ),
    ] = ["output", "input"],  # noqa: B006
    include: Annotated[
        list[str],
        typer.Option(
            metavar="PATTERN",
            help="Measure only linears whose name contains this or fits it as in a shell; repeat.",
            show_default="all in decoder layers",
        ),
    ] = [],  # noqa: B006
    exclude: Annotated[
        list[str],
        typer.Option(
            metavar="PATTERN",
            help="Leave out linears whose name contains or fits this; repeat.",
            show_default="none",
        ),
    ] = [],  # noqa: B006
    rounding: Annotated[
        str, typer.Option(metavar="NAME", help="even, half-away, toward-zero or stochastic.")
    ] = "even",
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where the scan goes; - for standard output.",
            show_default="named after model, format and time",
        ),
    ] = None,
    force: options.Force = False,
    by: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Show sites of several tensors by layer, tensor or kind."
        ),
    ] = "tensor",
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Use only so many prompts; 8 is a quick scan.", show_default="all"
        ),
    ] = None,
    skip: options.Skip = 0,
    max_length: Annotated[
        int | None,
        typer.Option(metavar="N", help="Cut prompts to so many tokens.", show_default="off"),
    ] = None,
    batch_size: options.BatchSize = "auto",
    apply_chat_template: options.ChatTemplate = None,
    skip_first_token: Annotated[
        bool,
        typer.Option(
            "--skip-first-token", help="Leave out each prompt's first token.", show_default="off"
        ),
    ] = False,
    threshold: Annotated[
        list[str],
        typer.Option(
            metavar="METRIC=VALUE",
            help="Flag layers beyond it; repeat for several.",
            show_default="sqnr_db=20, deadzone=0.05, saturation=0.01, relative_error=0.1",
        ),
    ] = [],  # noqa: B006
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.Pickle = False,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of the bootstrap and of stochastic rounding.")
    ] = 0,
    debug: options.Debug = False,
) -> None:
    """Measure, in one pass, what quantization does to every layer.

    Shows a table and writes the scan as JSON.
    """
    from srdd.documents.document import check_target
    from srdd.measurement.plan import Plan, check_batch_size
    from srdd.model.checkpoint import check_dtype, check_tokenizer, find
    from srdd.reports.rows import VIEWS

    plan = Plan.of(
        formats=format,
        sites=site,
        include=include,
        exclude=exclude,
        rounding=rounding,
        max_length=max_length,
        batch_size=check_batch_size(batch_size),
        apply_chat_template=apply_chat_template,
        skip_first_token=skip_first_token,
        thresholds=parse_thresholds(threshold),
        seed=seed,
    )
    if by not in VIEWS:
        raise unknown_name("view", by, VIEWS)
    check_dtype(dtype)
    target = (
        None if output == "-" else Path(output or default_name(model, plan.formats, datetime.now()))
    )
    if target is not None:
        check_target(target, force=force)
    prompt_set = read_prompts(prompts, limit, skip) if plan.needs_prompts else None
    checkpoint = find(model, revision=revision, allow_pickle=allow_pickle)
    words = find(tokenizer, weights=False) if tokenizer else checkpoint
    if plan.needs_prompts:
        check_tokenizer(words)

    with console.phase("starting torch and transformers"):
        from srdd.measurement.scanner import Origin, measure_model
        from srdd.model.load import load_model, load_tokenizer
    with console.phase(f"loading {model}"):
        reader = None
        if plan.needs_prompts:
            reader = load_tokenizer(words, trust_remote_code=trust_remote_code)
        loaded = load_model(
            checkpoint,
            dtype=dtype,
            device=device,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )

    display = Display()
    try:
        result = measure_model(
            loaded.model,
            reader,
            prompt_set,
            plan,
            origin=Origin(
                name=recorded(model),
                source=checkpoint.source,
                revision=loaded.commit or checkpoint.revision,
                command=recorded(shlex.join(["srdd", *sys.argv[1:]])),
                notes=loaded.notes,
            ),
            listener=display.listener(),
        )
    finally:
        display.close()
    _deliver(result, target, force=force, named=output is not None, by=by)


def _deliver(result: Scan, target: Path | None, *, force: bool, named: bool, by: str) -> None:
    if target is None:
        console.write_result(result.to_json())
        return
    from srdd.reports.tables import scan_tables

    try:
        target = _save(result, target, force, named)
    except OutputError:
        console.show(*scan_tables(result, by))  # it may have taken hours: at least it is seen
        raise
    console.say(f"wrote {target}")
    console.show(*scan_tables(result, by))
    # Only where the next command works just so: one format, norms to inject into, a real file.
    norms = any(norm.kind == "rmsnorm" for layer in result.model.layers for norm in layer.norms)
    ranked = {"output", "input"} & set(result.settings.sites)
    simple = len(result.settings.formats) == 1 and ranked
    if norms and simple and target.is_file():
        where = "" if target.parent == Path() else f" {shlex.quote(str(target))}"
        console.say(f"next: `srdd suggest{where}` makes a noise configuration of it")


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
