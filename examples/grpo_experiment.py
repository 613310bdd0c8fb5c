"""Does noise in rollouts help reinforcement learning in 4 bits? An experiment to repeat.

A small Llama that half solves additions is trained with TRL's GRPO, whose rollouts run under
simulated W4A4 (MXFP4): without noise, and with noise by each strategy and control, all at equal KL,
at two levels. Then come sums that it has never seen, under W4A4 and in 16 bits, without noise.
Everything but the noise is the same within a seed, so differences are paired by seed.

    python examples/grpo_experiment.py             about 20 minutes on a free core
    python examples/grpo_experiment.py --quick     shows within a minute that all parts work
    python examples/grpo_experiment.py --publish   also renews the table and plot of this folder

Interrupt it whenever you like: the same command goes on with the runs that are not finished, and
with fewer --seeds it shows those that are.

It is a very small model, an easy task and a short training. It says nothing of large models.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, NoReturn

import torch
import typer
from experiment.figures import by_arm, summary
from experiment.kept import Folder, duration, open_folder, write_json
from experiment.machine import environment, versions
from experiment.plan import BASELINE, key_of, runs_of
from experiment.policy import load, make
from experiment.rollouts import (
    ARMS,
    CONTROLLED,
    QUICK,
    Reinforcement,
    Settings,
    configs_of,
    errors,
    scan_of,
)
from experiment.shown import Figure, draw, table
from experiment.workers import finish
from rich.console import Console

import srdd
from srdd.documents.document import write_whole
from srdd.errors import SrddError, UsageError
from srdd.model.fingerprint import fingerprint

LEVELS = (1.0, 0.1)
"""What noise costs at its first noisy stage, over what W4A4 costs. On the demo model, the guide's
sigma of 0.05 costs about a tenth of what W4A4 does.
"""

README = Path(__file__).parent / "README.md"
NAME = "grpo_experiment"
TABLE = re.compile(rf"(<!-- table: {NAME}.json -->\n```text\n).*?(```\n<!-- end -->)", re.DOTALL)

ERRORS = Figure(
    title="Wrong answers to held-out sums, %",
    less="fewer wrong answers",
    level=lambda fraction: f"KL {fraction:g} x that of W4A4",
    axis="wrong answers minus those without noise, percentage points",
    scale=100.0,
    digits=2,
    axis_scale=100.0,
)

console = Console(stderr=True, highlight=False)


def kept(path: Path, make_it: Any) -> dict[str, Any]:
    """What a file holds, made and written where there is none."""
    if not path.exists():
        write_json(path, make_it())
    return dict(json.loads(path.read_text(encoding="utf-8")))


def prepared(out: Path, settings: Settings, levels: Sequence[float]) -> tuple[Folder, srdd.Scan]:
    """The folder with the policy and its scan, made where they are missing.

    Raises:
        InputError: it holds another experiment.
    """
    make(out / "policy", settings.policy, console.print)
    model = load(out / "policy").eval()
    facts = {
        "settings": asdict(settings),
        "levels": list(levels),
        "model": fingerprint(model),
        "versions": versions("torch", "transformers", "trl"),
    }
    folder = open_folder(out, facts)
    path = out / "scan.json"
    if not path.exists():
        scan_of(model, settings).save(path)
    return folder, srdd.load_scan(path)


def described(scan: srdd.Scan, config: srdd.RinConfig) -> dict[str, Any]:
    """The noise of a configuration: sigma by layer, and what it costs by stage."""
    return {
        "sigma_by_layer": {str(one.layer): one.sigma for one in config.layers},
        "kl_by_stage": [row["kl"] for row in scan.noise_kl(config)],
        "energy": config.energy.model_dump(),
    }


def perform(
    out: Path, levels: Sequence[float], settings: Settings, seeds: int, workers: int
) -> dict[str, Any]:
    if seeds < 2:
        raise UsageError(f"--seeds is {seeds}", "use at least 2: one has no spread")
    if workers < 1:
        raise UsageError(f"--workers is {workers}", "use at least 1")
    torch.set_num_threads(1)  # threads that wait for each other crawl on a busy machine
    folder, scan = prepared(out, settings, levels)
    before = kept(out / "before.json", lambda: errors(load(out / "policy"), settings))
    configs = configs_of(scan, settings, levels, seeds)
    runs = runs_of(len(levels), seeds, ARMS)
    task = Reinforcement(configs, folder, out / "policy", settings)
    finish(task, runs, workers, console)

    every = [found for run in runs if (found := task.read(run)) is not None]
    results = by_arm(every)
    figures = summary(results, len(levels), before, ARMS)
    content = {
        "kind": "srdd.grpo-experiment",
        "facts": json.loads((out / "experiment.json").read_text(encoding="utf-8")),
        "key": key_of(json.loads((out / "experiment.json").read_text(encoding="utf-8"))),
        "seeds": seeds,
        "arms": [BASELINE, *ARMS],
        "controlled": CONTROLLED,
        "command": shlex.join(["python", "examples/grpo_experiment.py", *sys.argv[1:]]),
        "environment": environment(),
        **duration(every),
        "before": before,
        "quantization": scan.joint_kl(settings.format),
        "configs": {name: described(scan, config) for name, config in configs.items()},
        "summary": figures,
        "runs": every,
    }
    write_json(out / "results.json", content)
    shown = table(figures, levels, "mxfp4", ARMS, ERRORS)
    write_whole(out / "table.txt", shown.encode(), force=True)
    try:
        draw(results, figures, levels, out / "differences.svg", ARMS, ERRORS)
    except ImportError:
        console.print("no plot: matplotlib is not installed")
    console.print(f"wrote results.json, table.txt and the plot into {out}", soft_wrap=True)
    sys.stdout.write(shown)
    return content


def publish(out: Path, readme: Path = README) -> None:
    """Put the table into a page, and runs and plot beside it.

    Raises:
        UsageError: the page has no place for the table.
    """
    text = readme.read_text(encoding="utf-8")
    shown = (out / "table.txt").read_text(encoding="utf-8")
    if not TABLE.search(text):
        raise UsageError(f"{readme} has no table of {NAME}.json", "leave --publish out")
    write_whole(
        readme, TABLE.sub(lambda found: found[1] + shown + found[2], text).encode(), force=True
    )
    shutil.copy(out / "results.json", readme.with_name(f"{NAME}.json"))
    if (out / "differences.svg").exists():
        shutil.copy(out / "differences.svg", readme.with_name(f"{NAME}.svg"))


def main(
    out: Annotated[Path, typer.Option(help="Folder that keeps the runs and the results.")] = Path(
        "grpo-experiment"
    ),
    seeds: Annotated[int, typer.Option(help="Runs of each arm; more can be added later.")] = 5,
    level: Annotated[
        list[float],
        typer.Option(help="KL of the noise over that of W4A4; repeat for several."),
    ] = list(LEVELS),  # noqa: B006 - typer copies it
    steps: Annotated[int, typer.Option(help="Optimizer's steps of a run.")] = Settings.steps,
    workers: Annotated[int, typer.Option(help="Processes, with a core each.")] = 1,
    to_readme: Annotated[
        bool, typer.Option("--publish", help="Put table, plot and runs beside examples/README.md.")
    ] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny runs and two seeds, which show nothing.")
    ] = False,
) -> None:
    """Train a small policy with W4A4 rollouts and each kind of noise, and compare its answers."""

    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        if quick and to_readme:
            raise UsageError("--quick shows nothing that could be published", "leave one out")
        settings = QUICK if quick else Settings(steps=steps)
        perform(out, level, settings, 2 if quick else seeds, workers)
        if to_readme:
            publish(out)
    except SrddError as error:
        console.print(f"error: {error.message}\nhint: {error.hint}", markup=False, soft_wrap=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on with what is not finished")
        raise typer.Exit(130) from None


if __name__ == "__main__":
    typer.run(main)
