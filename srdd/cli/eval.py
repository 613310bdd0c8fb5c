"""`srdd eval`: what quantization does to a model's predictions."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srdd.cli import console, options
from srdd.cli.inputs import Display, read_prompts, recorded
from srdd.errors import InputError, OutputError, UsageError

if TYPE_CHECKING:
    from srdd.documents.evaluation import Evaluation
    from srdd.documents.rin import RinConfig
    from srdd.prompts.reading import PromptSet


def operands(
    formats: list[str], weights: str | None, activations: str | None
) -> list[tuple[str | None, str | None]]:
    """Formats of (weights, activations) for each way to run the model; W4A4 in mxfp4 by default.

    Raises:
        UsageError: an unknown format.
    """
    from srdd.numerics.formats import parse_spec, parse_specs

    found: list[tuple[str | None, str | None]] = []
    if formats:
        found += [(str(spec), str(spec)) for spec in parse_specs(formats)]
    if weights is not None or activations is not None:
        found.append(
            (
                None if weights is None else str(parse_spec(weights)),
                None if activations is None else str(parse_spec(activations)),
            )
        )
    return found or [("mxfp4:floor", "mxfp4:floor")]


def once(option: str, given: list[str]) -> str | None:
    """The value of an option that stands once or not at all.

    Raises:
        UsageError: it stands several times.
    """
    if len(given) > 1:
        raise UsageError(
            f"{option} stands {len(given)} times",
            "--format repeats; other combinations take a run each",
        )
    return given[0] if given else None


def read_noise(rin: str | None, step: int | None, total_steps: int | None) -> RinConfig | None:
    """The noise configuration, if there is one, for a step inside its run.

    Raises:
        UsageError: one of the three options without the others, or a step outside the run.
        InputError: the configuration cannot be read.
    """
    given = {"--rin": rin, "--step": step, "--total-steps": total_steps}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return None
    if missing:
        there = next(name for name, value in given.items() if value is not None)
        raise UsageError(
            f"{there} needs {' and '.join(missing)}",
            "write, for example, --rin rin.json --step 30 --total-steps 100",
        )
    from srdd.documents.rin import load_rin, parse_rin

    assert rin is not None
    assert step is not None
    assert total_steps is not None
    if total_steps < 1:
        raise UsageError(f"--total-steps is {total_steps}", "give the number of training steps")
    if not 0 <= step < total_steps:
        raise UsageError(
            f"--step {step} is outside a run of {total_steps} steps",
            f"steps count from 0 to {total_steps - 1}",
        )
    if rin == "-":
        return parse_rin(sys.stdin.buffer.read(), "standard input")
    return load_rin(Path(rin))


def read_text(name: str) -> PromptSet:
    """A file, or standard input for `-`, as one text.

    Raises:
        InputError: it cannot be read, is not UTF-8, or is blank.
    """
    from srdd.prompts.reading import Prompt, PromptSet

    shown = "standard input" if name == "-" else name
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise InputError(
            f"cannot read {name}: {error.strerror or error}", "name a text file"
        ) from None
    except UnicodeDecodeError:
        raise InputError(f"{shown} is not UTF-8 text", "convert it first, with iconv") from None
    if not text.strip():
        raise InputError(f"{shown} is blank", "give a text of two tokens or more")
    return PromptSet(
        source="stdin" if name == "-" else recorded(name), prompts=(Prompt(text=text),)
    )


def evaluate(
    model: options.Model,
    format: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[:RULE]",
            help="Format of weights and activations alike; repeat for several.",
            show_default="mxfp4",
        ),
    ] = [],  # noqa: B006 - typer copies it
    weights: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[:RULE]",
            help="Format of the weights; alone, activations are not quantized (W4A16).",
            show_default="none",
        ),
    ] = [],  # noqa: B006
    activations: Annotated[
        list[str],
        typer.Option(
            metavar="NAME[:RULE]",
            help="Format of what goes into the linears; alone, weights are not quantized.",
            show_default="none",
        ),
    ] = [],  # noqa: B006
    rin: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Run everything once more with the noise of this configuration, as `srdd suggest "
            "--for srdd` writes it; - for standard input.",
            show_default="no noise",
        ),
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(metavar="N", help="With --rin: the training step.", show_default="none"),
    ] = None,
    total_steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="With --rin: the length of the training run.", show_default="none"
        ),
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(
            help="What to predict: .txt (a prompt a line), .jsonl (prompt, text or messages), "
            ".parquet, or - for standard input.",
            metavar="FILE",
            show_default="built-in prompts",
        ),
    ] = None,
    text: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="One text instead, cut into pieces of --max-length tokens; - for standard input.",
            show_default="none",
        ),
    ] = None,
    include: options.Include = [],  # noqa: B006
    exclude: options.Exclude = [],  # noqa: B006
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Write all figures as JSON; - for standard output, without the table.",
            show_default="table only",
        ),
    ] = None,
    force: options.Force = False,
    limit: options.Limit = None,
    skip: options.Skip = 0,
    max_length: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Cut prompts to so many tokens.",
            show_default="off; 512 with --text",
        ),
    ] = None,
    batch_size: options.BatchSize = "auto",
    apply_chat_template: options.ChatTemplate = None,
    dtype: options.Dtype = "auto",
    device: options.Device = None,
    device_map: options.DeviceMap = None,
    revision: options.Revision = None,
    tokenizer: options.Tokenizer = None,
    trust_remote_code: options.RemoteCode = False,
    allow_pickle: options.Pickle = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the bootstrap and of the noise.")] = 0,
    debug: options.Debug = False,
) -> None:
    """Measure how much worse a model predicts with quantized operands.

    Loss, perplexity and KL divergence, with 95 % intervals over prompts, beside the model as it is.
    """
    from srdd.documents.document import check_target
    from srdd.measurement.plan import check_batch_size, check_max_length
    from srdd.model.checkpoint import check_dtype, check_tokenizer, find
    from srdd.numerics.formats import check_seed

    pairs = operands(format, once("--weights", weights), once("--activations", activations))
    check_seed(seed)
    check_dtype(dtype)
    check_max_length(max_length, least=2)
    size = check_batch_size(batch_size)
    sources = (rin, prompts, text)
    if text is not None and (prompts is not None or skip or apply_chat_template is not None):
        raise UsageError(
            "--text goes without --prompts, --skip and --apply-chat-template", "leave one out"
        )
    if sources.count("-") > 1:
        raise UsageError("two options read standard input", "name a file for one of them")
    if text is not None and limit is not None and limit < 1:
        raise UsageError(f"--limit is {limit}", "use --limit 1 or more")
    target = None if output in (None, "-") else Path(str(output))
    if target is not None:
        check_target(target, force=force)
    config = read_noise(rin, step, total_steps)
    prompt_set = read_text(text) if text is not None else read_prompts(prompts, limit, skip)
    checkpoint = find(model, revision=revision, allow_pickle=allow_pickle)
    words = find(tokenizer, weights=False) if tokenizer else checkpoint
    check_tokenizer(words)

    with console.phase("starting torch and transformers"):
        from srdd.measurement.provenance import Origin
        from srdd.model.load import load_model, load_tokenizer
        from srdd.simulation.evaluator import Noise, Way, evaluate_model
    with console.phase(f"loading {model}"):
        reader = load_tokenizer(words, trust_remote_code=trust_remote_code)
        loaded = load_model(
            checkpoint,
            dtype=dtype,
            device=device,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            allow_pickle=allow_pickle,
        )

    noise = None
    if config is not None:
        name = recorded("stdin" if rin == "-" else str(rin))
        noise = Noise(config, name, step or 0, total_steps or 1, seed)
    display = Display()
    try:
        result = evaluate_model(
            loaded.model,
            reader,
            prompt_set,
            ways=[Way(*pair) for pair in pairs],
            noise=noise,
            as_text=text is not None,
            include=include,
            exclude=exclude,
            limit=limit,
            max_length=max_length,
            batch_size=size,
            apply_chat_template=apply_chat_template,
            seed=seed,
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
    _deliver(result, output, force=force)


def _deliver(result: Evaluation, output: str | None, *, force: bool) -> None:
    if output == "-":
        console.write_result(result.to_json())
        return
    from srdd.reports.eval_table import evaluation_tables

    try:
        if output is not None:
            result.save(output, force=force)
            console.say(f"wrote {output}")
    except OutputError:
        console.show(*evaluation_tables(result))  # it may have taken long: at least it is seen
        raise
    console.show(*evaluation_tables(result))
