"""The machine that figures were taken on, and timing several things in turn."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path


def describe() -> str:
    """Processor, cores and software, on one line."""
    import torch

    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()}, Python "
        f"{platform.python_version()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    )


def in_turn(tasks: Sequence[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Seconds of each task in each round; the tasks take turns, so that drift meets them all."""
    seconds: list[list[float]] = [[] for _ in tasks]
    for _ in range(rounds):
        for task, found in zip(tasks, seconds, strict=True):
            started = time.perf_counter()
            task()
            found.append(time.perf_counter() - started)
    return seconds


def second_in_turn(
    tasks: Mapping[str, Callable[[], object]], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each task in each round, where a turn is two calls of which the second is timed.

    After a call, torch's idle threads spin for milliseconds. Thus no task pays for the one before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(rounds):
        for name, task in tasks.items():
            task()
            started = time.perf_counter()
            task()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    """Median, smallest and largest of a / b, round by round."""
    quotients = [x / y for x, y in zip(a, b, strict=True)]
    return statistics.median(quotients), min(quotients), max(quotients)
