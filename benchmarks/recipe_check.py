"""`srdd recipe --check`, from start to end: 56 layers with 128 experts each, and a dense model.

Seconds of the processor, which other work on the machine lengthens less than the time that passes.

python -m benchmarks.recipe_check
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import machine

SRDD = str(Path(sys.executable).with_name("srdd"))
RUNS = 3
LAYERS = range(56)
FORMAT = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
SHORT = ["lm_head", "re:.*mlp.gate$", r"re:.*\.layers\.(?:0|1|54|55)\.self_attn\..*"]
LONG = [*SHORT[:2], *(rf"re:.*\.layers\.{n}\.self_attn\..*" for n in LAYERS)]
COMMANDS = {
    "vllm": "rollout.json --for vllm",
    "verl": "train.json --for verl",
    "verl against vllm": "train.json --for verl --against rollout.json --against-for vllm",
}


def seconds(command: list[str], folder: str) -> list[float]:
    """Processor time of runs of a command, user and system; it runs on one core."""
    found = []
    for _ in range(RUNS + 1):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run = subprocess.run(command, capture_output=True, check=False, cwd=folder)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert run.returncode in (0, 1), run.stderr
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return found[1:]  # the first one fills caches


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import made_checkpoints

    print(machine.describe())
    models = {
        "dense": made_checkpoints.dense(LAYERS),
        "experts": made_checkpoints.experts(LAYERS, 128),
    }
    with tempfile.TemporaryDirectory() as folder:
        for model, names in models.items():
            made_checkpoints.write_checkpoint(Path(folder, model), names, layers=LAYERS, side=1)
        for ignore in (SHORT, LONG):
            groups = {"all": {"targets": ["Linear"], "weights": FORMAT}}
            rollout = {"config_groups": groups, "ignore": ignore}
            training = {"qat": {"mode": "w4a16", "ignore_patterns": ignore}}
            Path(folder, "rollout.json").write_text(json.dumps(rollout))
            Path(folder, "train.json").write_text(json.dumps(training))
            for model, names in models.items():
                for name, arguments in COMMANDS.items():
                    words = [SRDD, "recipe", *arguments.split(), "--check", model]
                    found = seconds(words, folder)
                    print(
                        f"{len(ignore):>3} patterns  {len(names):>6,} linears  {name:<18} "
                        f"{statistics.median(found):5.2f} s, median of {RUNS} "
                        f"({min(found):.2f} to {max(found):.2f})"
                    )


if __name__ == "__main__":
    main()
