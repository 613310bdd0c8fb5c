"""`srdd eval`: what quantization does to a model's predictions."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srdd.cli import attribution, console, loading, noise_options, ranks
from srdd.cli.loading import ModelOptions, PromptOptions, RunOptions
from srdd.cli.options import command
from srdd.cli.output import Destination, show
from srdd.cli.rollouts import RolloutOptions
from srdd.errors import InputError, UsageError

if TYPE_CHECKING:
    from srdd.documents.recipe import Recipe
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


def read_recipes(files: list[str]) -> dict[str, Recipe]:
    """Recipes by the names of their files; by whole paths where two have one name.

    Raises:
        InputError: a recipe cannot be read.
    """
    from srdd.documents.recipe import load_recipe

    names = ["standard input" if file == "-" else Path(file).name for file in files]
    whole = len(set(names)) < len(set(files))
    return {
        loading.escaped(file if whole else name): load_recipe(file)
        for file, name in zip(files, names, strict=True)
    }


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


@command
def evaluate(
    model: ModelOptions,
    prompts: PromptOptions,
    responses: RolloutOptions,
    options: RunOptions,
    destination: Destination,
    format: list[str] = [],
    weights: list[str] = [],
    activations: list[str] = [],
    recipe: list[str] = [],
    rin: str | None = None,
    step: int | None = None,
    total_steps: int | None = None,
    text: str | None = None,
    clip: str | None = None,
    scan: str | None = None,
    as_json: bool = False,
    seed: int = 0,
) -> None:
    """Measure how much worse a quantized model predicts.

    Loss, perplexity and KL divergence, with 95 % intervals over prompts, compared with the model
    in full precision. Of rollouts also the mismatch: what a trainer would see if they were
    written in these formats.
    """
    named = format or weights or activations or not recipe
    pairs = operands(format, weights, activations) if named else []
    if recipe and (options.include or options.exclude):
        raise UsageError(
            "--recipe excludes --include and --exclude: it names its linears",
            "leave them out, or make another recipe with --pattern",
        )
    settings = options.settings()
    template = options.apply_chat_template is not None
    other = (prompts.prompts, responses.rollouts, responses.generate) != (None, None, None)
    if text is not None and (other or prompts.skip or template):
        raise UsageError(
            "--text excludes --prompts, --rollouts, --generate, --skip and --apply-chat-template",
            "leave one out",
        )
    if [rin, prompts.prompts, responses.rollouts, text, *recipe].count("-") > 1:
        raise UsageError("two options read standard input", "name a file for one of them")
    if not responses.wanted and (clip or (scan and rin is None)):
        raise UsageError(
            "--clip is for --rollouts and --generate, --scan for --rin, too", "add one of them"
        )
    target = destination.path()
    ratios, costs = attribution.parse_clip(clip), attribution.read_scan(scan)
    config = noise_options.read(rin, step, total_steps)
    recipes = read_recipes(recipe)
    prompt_set = responses.read(prompts) if text is None else read_text(text)
    ways = len(pairs) + len(recipes)
    own = responses.generate is not None and responses.server is None
    if own and (ways > 1 or recipes):
        raise UsageError(
            f"--generate takes one policy, and there are {ways} formats"
            if ways > 1
            else "--generate takes a format for its policy, and not a recipe",
            "generate with one of them, then give the file of its rollouts with --rollouts",
        )
    if config is not None and step is None and costs is not None:
        costs.noise_kl(config)  # refuses a scan that does not predict it
    source = model.find()
    if recipes:
        skeleton = source.skeleton()
        from srdd.simulation.evaluator import check_names

        check_names(skeleton, recipes)
    server = responses.find_server()
    kept = {"command": shlex.join(sys.argv[1:]), "noise": config, "recipes": recipes}
    work = loading.work(target, kept)
    loaded, reader, origin = source.load()
    from srdd.simulation import simulator
    from srdd.simulation.evaluator import Variant, evaluate_model

    noise = None
    if config is not None:
        name = loading.escaped("stdin" if rin == "-" else str(rin))
        noise = noise_options.noise_of(config, name, step, total_steps, seed, costs, scan)
    policy = pairs[0] if pairs else (None, None)
    chosen: dict[str, Any] = {"include": options.include, "exclude": options.exclude}
    with loading.progress(work) as listener:
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
            policy=None if server else {"operands": policy, **chosen},
            simulated=lambda: simulator.simulate(loaded, *policy, **chosen),
        )
        result = evaluate_model(
            loaded,
            reader,
            prompt_set,
            variants=[Variant(*pair) for pair in pairs],
            recipes=recipes,
            noise=noise,
            as_text=text is not None,
            limit=None if text is None else prompts.limit,
            **settings,
            clip=ratios,
            origin=origin,
            listener=listener,
        )
    if ranks.RANK:
        work.finish()
        return
    result = attribution.attribute(result, costs, scan)
    if destination.output == "-":
        console.write_result(result.to_json())
        return
    from srdd.reports.evaluation_view import evaluation_blocks

    try:
        if target is not None:
            result.save(target, force=destination.force)
            console.say(f"wrote {target}")
            work.finish()
    finally:  # it may have taken long: where it cannot be written, at least it is shown
        show(evaluation_blocks(result), as_json=as_json)
