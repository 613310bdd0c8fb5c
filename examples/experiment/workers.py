"""Runs dealt out to worker processes, each with a model of its own and one thread of torch.

A model this small gains little from a second thread, so two processes finish about twice as many
runs as one process with two threads. A worker keeps a run itself as soon as it is finished:
whatever stops the command, at most the runs in progress are lost.
"""

from __future__ import annotations

import copy
import multiprocessing
import os
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn

import srdd
from experiment.kept import Folder
from experiment.plan import Run


@dataclass(frozen=True)
class Task(ABC):
    """What all runs of an experiment share, as it is sent to a worker once."""

    configs: Mapping[str, srdd.RinConfig]
    folder: Folder

    @abstractmethod
    def base(self) -> nn.Module:
        """The model that every run begins with, trainable."""

    @abstractmethod
    def result(self, model: nn.Module, run: Run, config: srdd.RinConfig | None) -> dict[str, Any]:
        """One whole run on a model of its own, as it is kept."""

    def config_of(self, run: Run) -> srdd.RinConfig | None:
        return None if run.config is None else self.configs[run.config]

    def read(self, run: Run) -> dict[str, Any] | None:
        """A run that is finished; see `Folder.read`."""
        return self.folder.read(run, self.config_of(run))


_task: Task
_base: nn.Module


def _begin(task: Task) -> None:
    global _task, _base
    torch.set_num_threads(1)
    _task, _base = task, task.base()


def _work(run: Run) -> Run:
    config = _task.config_of(run)
    _task.folder.keep(run, config, _task.result(copy.deepcopy(_base), run, config))
    return run


def work_off(task: Task, pending: Sequence[Run], workers: int) -> Iterator[Run]:
    """Finish runs in processes of their own; yields each run as soon as it is kept.

    The processes end with the iteration, also when that is broken off.
    """
    # Two processes with as many threads as cores each would spend their time waiting.
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    pool = ProcessPoolExecutor(
        max_workers=min(workers, len(pending)),
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(task,),
    )
    # Ctrl-C reaches every process of a terminal; this one alone is to answer it. What is ignored
    # when a process starts stays ignored in it.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        futures = [pool.submit(_work, run) for run in pending]
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for child in multiprocessing.active_children():
            child.terminate()


def finish(task: Task, runs: Sequence[Run], workers: int, console: Console) -> None:
    """Work off the runs that are not kept yet, with a progress bar or a line for each."""
    pending = [run for run in runs if task.read(run) is None]
    if not pending:
        console.print(f"all {len(runs)} runs are finished already")
        return
    done = len(runs) - len(pending)
    if done:
        console.print(f"going on: {done} of {len(runs)} runs are finished")
    columns = (
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[last]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("runs", total=len(runs), completed=done, last="")
        for number, run in enumerate(work_off(task, pending, workers), start=done + 1):
            progress.update(bar, completed=number, last=run.name)
            if not console.is_terminal:
                console.print(f"{number} of {len(runs)}: {run.name}")
