"""Does noise in training help a model that runs in 4 bits? An experiment that anybody can repeat.

The demo model is fine-tuned under simulated W4A4 MXFP4 with straight-through gradients on text that
it has not seen, without noise and with noise by each strategy and control, all at equal noise
energy, at several levels of sigma and with several seeds. Then comes the loss on held-out text
under W4A4, without noise. Everything but the noise is the same within a seed, so differences are
paired by seed.

    python examples/rin_experiment.py            about 20 minutes on two free cores
    python examples/rin_experiment.py --quick    shows within a minute that all parts work

Interrupt it whenever you like: the same command goes on with the runs that are not finished.

It is supervised fine-tuning of a small model for a short time. It is not reinforcement learning,
where noise is added to the rollouts alone, and says nothing of large models.
"""

from __future__ import annotations

import json
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from experiment.figures import by_arm, summary
from experiment.kept import Folder, duration, open_folder, write_json
from experiment.machine import environment, versions
from experiment.plan import (
    ARMS,
    BASELINE,
    QUICK,
    Level,
    Settings,
    configs_of,
    facts_of,
    planned_energy,
    runs_of,
)
from experiment.shown import draw, table
from experiment.text import FOLDERS, read_text
from experiment.training import FineTuning, held_out_losses, trainable
from experiment.workers import finish
from rich.console import Console

import srdd
from srdd.documents.document import write_whole
from srdd.errors import SrddError, UsageError
from srdd.model.checkpoint import find
from srdd.model.fingerprint import fingerprint
from srdd.model.load import load_tokenizer
from srdd.prompts.reading import builtin
from srdd.rin.schedule import schedule

MODEL = "demo"
LEVELS = ("0.2:0.002", "0.05:0.0005", "0.0125:0.000125")
"""The guide's sigmas, with four times and a quarter of them. Where gains are near 1, noise begins
14, 26 and 38 dB below the signal. MXFP4 itself errs by about 17 dB: the first level is louder than
the quantization, and shows whether this experiment sees noise at all.
"""

console = Console(stderr=True, highlight=False)


def parse_level(given: str, stages: int) -> Level:
    """`START:END` -> two sigmas.

    Raises:
        UsageError: it is not written like that, or is no schedule of so many stages.
    """
    try:
        start, end = map(float, given.split(":"))
    except ValueError:
        raise UsageError(
            f"--sigma {given!r} is no schedule", "write --sigma START:END, such as 0.05:0.0005"
        ) from None
    schedule(start, end, stages)
    return start, end


def scan_of(model: torch.nn.Module, tokenizer: Any, path: Path, quick: bool) -> srdd.Scan:
    """The scan that the configurations follow from: made once, then read from the folder."""
    if path.exists():
        return srdd.load_scan(path)
    sites = ("output", "input")
    scan = srdd.scan_model(model, tokenizer, builtin(limit=8 if quick else None), sites=sites)
    scan.save(path)
    return scan


def losses_before(
    model: torch.nn.Module, held_out: Any, settings: Settings, folder: Folder
) -> dict[str, float]:
    """The held-out losses of the untrained model, taken once. It is rounded to bfloat16."""
    path = folder.path / "before.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("key") == folder.key:
            return dict(found)
    found = held_out_losses(model, held_out, settings)
    write_json(path, {"key": folder.key, **found})
    return found


def perform(
    out: Path,
    levels: Sequence[Level],
    settings: Settings,
    seeds: int,
    workers: int,
    source: Path | None,
    quick: bool,
) -> None:
    if seeds < 2:
        raise UsageError(f"--seeds is {seeds}", "use at least 2: one has no spread")
    if workers < 1:
        raise UsageError(f"--workers is {workers}", "use at least 1")
    torch.set_num_threads(1)  # threads that wait for each other crawl on a busy machine
    tokenizer = load_tokenizer(find(MODEL))
    text = read_text(tokenizer, source, ("optim",) if quick else FOLDERS)
    model = trainable(MODEL)
    mark = fingerprint(model)
    facts = facts_of(settings, levels, text.facts, mark, versions("torch", "transformers"))
    folder = open_folder(out, facts)
    console.print(
        f"{text.facts['training_files']} files to train on, {text.facts['held_out_files']} held "
        f"out, of {text.facts['source']}"
    )
    scan = scan_of(model, tokenizer, out / "scan.json", quick)
    configs = configs_of(scan, settings, levels, seeds)
    before = losses_before(model, text.held_out, settings, folder)
    runs = runs_of(len(levels), seeds)
    task = FineTuning(configs, folder, MODEL, settings, text)
    finish(task, runs, workers, console)

    every = [found for run in runs if (found := task.read(run)) is not None]
    results = by_arm(every)
    figures = summary(results, len(levels), before)
    write_json(
        out / "results.json",
        {
            "kind": "srdd.rin-experiment",
            "facts": facts,
            "seeds": seeds,
            "arms": [BASELINE, *ARMS],
            "command": shlex.join(["python", "examples/rin_experiment.py", *sys.argv[1:]]),
            "environment": environment(),
            **duration(every),
            "configs": {
                name: {
                    "energy": config.energy.model_dump(),
                    "planned_noise_energy": planned_energy(config, settings.steps),
                    "sigma_by_layer": {str(one.layer): one.sigma for one in config.layers},
                }
                for name, config in configs.items()
            },
            "summary": figures,
            "runs": every,
        },
    )
    shown = table(figures, levels, settings.format)
    write_whole(out / "table.txt", shown.encode(), force=True)
    try:
        draw(results, figures, levels, out / "differences.svg")
    except ImportError:
        console.print("no plot: matplotlib is not installed")
    console.print(f"wrote results.json, table.txt and the plot into {out}", soft_wrap=True)
    sys.stdout.write(shown)


def main(
    out: Annotated[Path, typer.Option(help="Folder that keeps the runs and the results.")] = Path(
        "rin-experiment"
    ),
    seeds: Annotated[int, typer.Option(help="Runs of each arm; more can be added later.")] = 5,
    sigma: Annotated[
        list[str], typer.Option(metavar="START:END", help="A level of noise; repeat for several.")
    ] = list(LEVELS),  # noqa: B006 - typer copies it
    steps: Annotated[int, typer.Option(help="Optimizer's steps of a run.")] = Settings.steps,
    workers: Annotated[int, typer.Option(help="Processes, with a core each.")] = 2,
    source: Annotated[
        Path | None, typer.Option(help="Folder of .py files; parts of torch if not given.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny runs and two seeds, which show nothing.")
    ] = False,
) -> None:
    """Fine-tune the demo model under W4A4 with each kind of noise, and compare held-out losses."""

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        settings = QUICK if quick else Settings(steps=steps)
        perform(
            out,
            [parse_level(one, settings.stages) for one in sigma],
            settings,
            2 if quick else seeds,
            workers,
            source,
            quick,
        )
    except SrddError as error:
        console.print(f"error: {error.message}\nhint: {error.hint}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on with what is not finished")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    typer.run(main)
