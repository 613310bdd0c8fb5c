"""How long a person waits: `srdd --help`, and `srdd scan demo` from start to end.

python -m benchmarks.startup
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine

SRDD = str(Path(sys.executable).with_name("srdd"))


def seconds(command: list[str], runs: int) -> list[float]:
    found = []
    for _ in range(runs + 1):
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            subprocess.run(command, capture_output=True, check=True, cwd=folder)
            found.append(time.perf_counter() - started)
    return found[1:]  # the first one fills caches


def main() -> None:
    print(machine.describe())
    for command, runs in (
        ([SRDD, "--help"], 9),
        ([SRDD, "scan", "demo"], 5),
        ([SRDD, "scan", "demo", "--limit", "8"], 5),
    ):
        found = seconds(command, runs)
        name = " ".join(["srdd", *command[1:]])
        print(
            f"{name:<24} {statistics.median(found):6.2f} s, median of {runs} "
            f"({min(found):.2f} to {max(found):.2f})"
        )


if __name__ == "__main__":
    main()
