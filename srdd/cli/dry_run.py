"""`srdd scan --dry-run`: what a scan would take, from headers alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from srdd.cli import console
from srdd.errors import InputError
from srdd.model.checkpoint import check_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from srdd.cli.loading import Source
    from srdd.measurement.plan import Plan
    from srdd.model.checkpoint import Checkpoint
    from srdd.prompts.reading import PromptSet
    from srdd.prompts.rollouts import RolloutSet

CHARACTERS = 4
"""Of a token, about, where no tokenizer can be used without transformers."""


def show_forecast(source: Source, plan: Plan, prompt_set: PromptSet | RolloutSet | None) -> None:
    """Print the forecast of a scan.

    Raises:
        InputError: the model is no folder and not in the cache, or has no safetensors files.
    """
    from srdd.measurement.forecast import forecast
    from srdd.model.inventory import read_config, read_inventory
    from srdd.reports.forecast_view import forecast_blocks
    from srdd.reports.terminal import render

    options = source.options
    inventory = read_inventory(options.model, revision=options.revision)
    config = read_config(options.model, revision=options.revision)
    plan.selection.check(each.name for each in inventory.modules if each.layer is not None)
    lengths, counted = _lengths(source.tokenizer, prompt_set, plan.max_length)
    stored = str(config.get("dtype") or config.get("torch_dtype") or "float32")
    dtype = stored if options.dtype == "auto" else check_dtype(options.dtype)
    result = forecast(inventory, config, plan, lengths, counted=counted, dtype=dtype)
    if not result.layers:
        raise InputError(
            f"{options.model} has no decoder layers with linears in its safetensors headers",
            "scan it without --dry-run",
        )
    with console.phase("timing this machine for two seconds"):
        from srdd.measurement.speed import speed

        width = int(config.get("hidden_size") or config.get("n_embd") or 1024)
        speeds = speed(width - width % 128 or 128, plan.specs[0], dtype)
    console.show(*render(forecast_blocks(result, result.seconds(*speeds))))


def _lengths(
    tokenizer: Checkpoint | None, prompt_set: PromptSet | RolloutSet | None, longest: int | None
) -> tuple[Sequence[int], bool]:
    """Tokens of each prompt, and whether they were counted and not estimated."""
    if prompt_set is None:
        return [], True
    texts, plain = [], True
    prompts = getattr(prompt_set, "prompts", ())
    for prompt in prompts:
        plain = plain and prompt.messages is None
        texts.append(prompt.plain())
    for rollout in getattr(prompt_set, "rollouts", ()):
        plain = False
        known = (rollout.prompt, rollout.response)
        texts.append(" ".join(each.plain() for each in known if each is not None))
    path = Path(tokenizer.location if tokenizer is not None else "") / "tokenizer.json"
    if path.is_file():
        from tokenizers import Tokenizer

        encode = Tokenizer.from_file(str(path)).encode
        counts = [len(encode(text).ids) for text in texts]
    else:
        counts, plain = [1 + len(text) // CHARACTERS for text in texts], False
    return [min(count, longest or count) for count in counts if count], plain
