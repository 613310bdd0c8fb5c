"""`srdd scan`: measure a model and show what came out."""

from __future__ import annotations

import re
import shlex
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from srdd.cli import console
from srdd.errors import OutputError, UsageError, unknown_name

if TYPE_CHECKING:
    from srdd.metrics import Thresholds
    from srdd.prompts import PromptSet
    from srdd.schema.scan import Scan


def default_name(model: str, formats: list[str], now: datetime) -> Path:
    """The file a scan goes to when none is named: after model, format and time."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(model).name if model else "model").strip("-.")
    spec = formats[0].replace(":", "-") + (f"-and-{len(formats) - 1}" if formats[1:] else "")
    return Path(f"srdd-{stem[:80] or 'model'}-{spec}-{now:%Y%m%d-%H%M%S}.json")


def parse_thresholds(given: list[str]) -> Thresholds:
    """`METRIC=VALUE` settings on top of the defaults.

    Raises:
        UsageError: no such metric, or a value out of range.
    """
    from dataclasses import asdict

    from srdd.metrics import Thresholds

    values = asdict(Thresholds())
    for setting in given:
        name, equals, value = setting.partition("=")
        if name not in values:
            raise unknown_name("threshold", name, values)
        try:
            number = float(value)
        except ValueError:
            number = float("nan")
        bounded = name in ("deadzone", "saturation")
        if not equals or number != number or abs(number) == float("inf"):
            raise UsageError(
                f"--threshold {setting!r} has no number", f"write --threshold {name}=0.1"
            )
        if (bounded and not 0 <= number <= 1) or (name == "relative_error" and number < 0):
            raise UsageError(
                f"--threshold {setting} is not a fraction", f"5 % is written {name}=0.05"
            )
        values[name] = number
    return Thresholds(**values)


def parse_batch_size(given: str) -> int | Literal["auto"]:
    """`auto` or a whole number from 1.

    Raises:
        UsageError: neither.
    """
    if given == "auto":
        return "auto"
    if given.isdecimal() and int(given) >= 1:
        return int(given)
    raise UsageError(f"--batch-size is {given!r}", "use auto, or a whole number from 1")


def _read_prompts(source: str | None, limit: int | None, skip: int) -> PromptSet:
    from srdd.prompts import builtin, read_prompts

    if source is None:
        return builtin(limit=limit, skip=skip)
    if source == "-" and sys.stdin.isatty():
        console.say("reading prompts from standard input, a line each; Ctrl-D ends them")
    found = read_prompts(source, limit=limit, skip=skip)
    return replace(found, source=_recorded(found.source))


def _recorded(text: str) -> str:
    """`text` as a document can hold it: what is not UTF-8 in the name of a file is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def scan(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Folder or Hub id of a causal language model, or `demo`."
        ),
    ],
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
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an existing file.", show_default="off")
    ] = False,
    by: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Show sites of several tensors by layer, tensor or kind."
        ),
    ] = "layer",
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Use only so many prompts; 8 is a quick scan.", show_default="all"
        ),
    ] = None,
    skip: Annotated[int, typer.Option(metavar="N", help="Leave out so many prompts first.")] = 0,
    max_length: Annotated[
        int | None,
        typer.Option(metavar="N", help="Cut prompts to so many tokens.", show_default="off"),
    ] = None,
    batch_size: Annotated[str, typer.Option(metavar="N|auto", help="Prompts in a batch.")] = "auto",
    apply_chat_template: Annotated[
        bool,
        typer.Option("--apply-chat-template", help="Write prompts as chats.", show_default="off"),
    ] = False,
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
    dtype: Annotated[
        str,
        typer.Option(metavar="NAME", help="Load weights as auto, bfloat16, float16 or float32."),
    ] = "auto",
    device: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="cpu, cuda, cuda:1, ...",
            show_default="cuda if there is one, else cpu",
        ),
    ] = None,
    device_map: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Spread a large model, as accelerate does: auto.",
            show_default="off",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Branch, tag or commit on the Hub.", show_default="its main branch"
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Folder or Hub id of the tokenizer.", show_default="the model's"
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code", help="Run code that comes with the model.", show_default="off"
        ),
    ] = False,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle", help="Take weights that are stored as pickles.", show_default="off"
        ),
    ] = False,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of the bootstrap and of stochastic rounding.")
    ] = 0,
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show the traceback of an error.", show_default="off"),
    ] = False,
) -> None:
    """Measure, in one pass, what quantization does to every layer.

    Shows a table and writes the scan as JSON.
    """
    from srdd.checkpoint import check_dtype, check_tokenizer, find
    from srdd.formats import check_rounding, check_seed, parse_specs
    from srdd.report.tensors import VIEWS
    from srdd.schema.document import check_target
    from srdd.sites import check_sites, needs_prompts

    specs = [str(spec) for spec in parse_specs(format)]
    sites = check_sites(site)
    check_rounding(rounding)
    check_seed(seed)
    if by not in VIEWS:
        raise unknown_name("view", by, VIEWS)
    check_dtype(dtype)
    if max_length is not None and max_length < 1:
        raise UsageError(f"--max-length is {max_length}", "use --max-length 1 or more")
    size = parse_batch_size(batch_size)
    thresholds = parse_thresholds(threshold)
    target = None if output == "-" else Path(output or default_name(model, specs, datetime.now()))
    if target is not None:
        check_target(target, force=force)
    reads = needs_prompts(sites)
    prompt_set = _read_prompts(prompts, limit, skip) if reads else None
    checkpoint = find(model, revision=revision, allow_pickle=allow_pickle)
    words = find(tokenizer, weights=False) if tokenizer else checkpoint
    if reads:
        check_tokenizer(words)

    with console.phase("starting torch and transformers"):
        from srdd.models import load_model, load_tokenizer
        from srdd.scan import Listener, Origin, scan_model
    with console.phase(f"loading {model}"):
        reader = None
        if reads:
            reader = load_tokenizer(words, trust_remote_code=trust_remote_code)
        loaded = load_model(
            checkpoint,
            dtype=dtype,
            device=device,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )

    display = _Display()
    try:
        result = scan_model(
            loaded.model,
            reader,
            prompt_set,
            formats=specs,
            sites=sites,
            include=include,
            exclude=exclude,
            rounding=rounding,
            max_length=max_length,
            batch_size=size,
            apply_chat_template=apply_chat_template,
            skip_first_token=skip_first_token,
            thresholds=thresholds,
            seed=seed,
            origin=Origin(
                name=_recorded(model),
                source=checkpoint.source,
                revision=loaded.commit or checkpoint.revision,
                command=_recorded(shlex.join(["srdd", *sys.argv[1:]])),
                notes=loaded.notes,
            ),
            listener=Listener(
                started=display.started,
                advanced=display.advanced,
                told=console.say,
                noted=console.warn,
            ),
        )
    finally:
        display.close()
    _deliver(result, target, force=force, named=output is not None, by=by)


def _deliver(result: Scan, target: Path | None, *, force: bool, named: bool, by: str) -> None:
    if target is None:
        console.write_result(result.to_json())
        return
    from srdd.report.tables import scan_tables

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
    for number in range(2, 100):
        try:
            result.save(target, force=force)
        except OutputError:
            if named or not target.exists():
                raise
            target = target.with_name(f"{target.stem.partition('+')[0]}+{number}.json")
        else:
            return target
    raise OutputError(f"{target} exists already", "name another file with -o")


class _Display:
    """The progress bars of a scan: its parts say one after the other how long they are."""

    def __init__(self) -> None:
        from contextlib import ExitStack

        self._stack = ExitStack()
        self._bar: console.Progress | None = None

    def started(self, what: str, amount: int, unit: str) -> None:
        self._stack.close()
        self._bar = self._stack.enter_context(console.progress(what, amount, unit))

    def advanced(self, amount: int) -> None:
        if self._bar is not None:
            self._bar.advance(amount)

    def close(self) -> None:
        self._stack.close()
