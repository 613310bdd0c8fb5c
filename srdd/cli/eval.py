"""`srdd eval`: what quantization does to a model's predictions."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from srdd.cli import console, loading, options
from srdd.cli.options import DATA, OUTPUT, SPEC, option
from srdd.errors import InputError, UsageError

if TYPE_CHECKING:
    from srdd.documents.rin import RinConfig
    from srdd.prompts.reading import PromptSet


def operands(
    formats: list[str], weights: list[str], activations: list[str]
) -> list[tuple[str | None, str | None]]:
    """Formats of (weights, activations) for each run of the model; W4A4 in mxfp4 by default.

    Raises:
        UsageError: an unknown format, or several for one operand.
    """
    from srdd.numerics.formats import parse_spec, parse_specs

    pairs: list[tuple[str | None, str | None]] = [
        (str(spec), str(spec)) for spec in (parse_specs(formats) if formats else [])
    ]
    for name, given in (("--weights", weights), ("--activations", activations)):
        if len(given) > 1:
            raise UsageError(
                f"{name} is given {len(given)} times",
                "only --format can be repeated; run other combinations one after the other",
            )
    if weights or activations:
        one, other = ([str(parse_spec(spec)) for spec in given] for given in (weights, activations))
        pairs.append((one[0] if one else None, other[0] if other else None))
    return pairs or [("mxfp4:floor", "mxfp4:floor")]


def read_noise(rin: str | None, step: int | None, total_steps: int | None) -> RinConfig | None:
    """The noise configuration, if there is one, for a step inside its run.

    Raises:
        UsageError: one of the three options without the others, or a step outside the run.
        InputError: the configuration cannot be read.
    """
    from srdd.documents.rin import load_rin

    if rin is None and step is None and total_steps is None:
        return None
    if rin is None or step is None or total_steps is None:
        raise UsageError(
            "--rin, --step and --total-steps belong together",
            "write, for example, --rin rin.json --step 30 --total-steps 100",
        )
    if step >= total_steps:
        raise UsageError(
            f"--step {step} is outside a run of {total_steps} steps",
            f"steps count from 0 to {total_steps - 1}",
        )
    return load_rin(rin)


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
        reason = error.strerror or error
        raise InputError(f"cannot read {name}: {reason}", "name a text file") from None
    except UnicodeDecodeError:
        raise InputError(f"{shown} is not UTF-8 text", "convert it first, with iconv") from None
    if not text.strip():
        raise InputError(f"{shown} is blank", "give a text of two tokens or more")
    source = "stdin" if name == "-" else loading.escaped(name)
    return PromptSet(source=source, prompts=(Prompt(text=text),))


def evaluate(
    model: options.Model,
    format: Annotated[
        list[str],
        option("Format of weights and activations alike; repeatable.", SPEC, default="mxfp4"),
    ] = [],
    weights: Annotated[
        list[str], option("Format of the weights; alone, W4A16.", SPEC, default="none")
    ] = [],
    activations: Annotated[
        list[str], option("Format of the linears' inputs; alone, W16A4.", SPEC, default="none")
    ] = [],
    rin: Annotated[
        str | None,
        option(
            "Repeat every run with the noise of this configuration, which `srdd suggest --for "
            "srdd` writes; - for standard input.",
            "FILE",
            default="no noise",
        ),
    ] = None,
    step: Annotated[
        int | None, option("With --rin: training step.", "N", default="none", min=0)
    ] = None,
    total_steps: Annotated[
        int | None, option("With --rin: number of training steps.", "N", default="none", min=1)
    ] = None,
    prompts: options.Prompts = None,
    prompt_column: options.PromptColumn = None,
    text: Annotated[
        str | None,
        option(
            "One text instead of prompts, cut into pieces of --max-length tokens; - for standard "
            "input.",
            "FILE",
            default="none",
            panel=DATA,
        ),
    ] = None,
    limit: options.Limit = None,
    skip: options.Skip = 0,
    max_length: Annotated[
        int | None, option(options.TRUNCATE, "N", default="off; 512 with --text", panel=DATA, min=2)
    ] = None,
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
            "Write all figures as JSON; - for standard output, without the table.",
            "FILE",
            "--output",
            "-o",
            default="table only",
            panel=OUTPUT,
        ),
    ] = None,
    force: options.Force = False,
    quiet: options.Quiet = False,
    batch_size: options.BatchSize = "auto",
    seed: options.Seed = 0,
    debug: options.Debug = False,
) -> None:
    """Measure how much worse a quantized model predicts.

    Loss, perplexity and KL divergence, with 95 % intervals over prompts, compared with the model
    in full precision.
    """
    from srdd.cli.output import free_target
    from srdd.measurement.plan import check_batch_size

    pairs = operands(format, weights, activations)
    size = check_batch_size(batch_size)
    if text is not None and (prompts is not None or skip or apply_chat_template is not None):
        raise UsageError(
            "--text excludes --prompts, --skip and --apply-chat-template", "leave one out"
        )
    if (rin, prompts, text).count("-") > 1:
        raise UsageError("two options read standard input", "name a file for one of them")
    target = free_target(output, force=force)
    config = read_noise(rin, step, total_steps)
    prompt_set = (
        loading.read_prompts(prompts, limit, skip, prompt_column)
        if text is None
        else read_text(text)
    )
    source = loading.find_source(
        model, revision=revision, tokenizer=tokenizer, allow_pickle=allow_pickle
    )
    loaded, reader, origin = source.load(
        dtype=dtype,
        device=device,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        allow_pickle=allow_pickle,
    )
    from srdd.simulation.evaluator import Noise, Variant, evaluate_model

    noise = None
    if config is not None:
        name = loading.escaped("stdin" if rin == "-" else str(rin))
        noise = Noise(config, name, step or 0, total_steps or 1, seed)
    with loading.progress() as listener:
        result = evaluate_model(
            loaded,
            reader,
            prompt_set,
            variants=[Variant(*pair) for pair in pairs],
            noise=noise,
            as_text=text is not None,
            include=include,
            exclude=exclude,
            limit=limit,
            max_length=max_length,
            batch_size=size,
            apply_chat_template=apply_chat_template,
            origin=origin,
            listener=listener,
        )
    if output == "-":
        console.write_result(result.to_json())
        return
    from srdd.reports.evaluation_view import evaluation_blocks
    from srdd.reports.terminal import render

    try:
        if target is not None:
            result.save(target, force=force)
            console.say(f"wrote {target}")
    finally:  # it may have taken long: where it cannot be written, at least it is shown
        console.show(*render(evaluation_blocks(result)))
