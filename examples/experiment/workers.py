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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

import srdd
from experiment.kept import Folder
from experiment.plan import Run, Settings
from experiment.text import Text
from experiment.training import finished
from srdd.model.checkpoint import find
from srdd.model.load import load_model


@dataclass(frozen=True)
class Task:
    """What all runs share, as it is sent to a worker once."""

    model: str
    settings: Settings
    text: Text
    configs: Mapping[str, srdd.RinConfig]
    folder: Folder

    def config_of(self, run: Run) -> srdd.RinConfig | None:
        return None if run.config is None else self.configs[run.config]

    def read(self, run: Run) -> dict[str, Any] | None:
        """A run that is finished; see `Folder.read`."""
        return self.folder.read(run, self.config_of(run))


_task: Task
_base: nn.Module


def trainable(name: str) -> nn.Module:
    """The model in float32 with gradients."""
    model = load_model(find(name), dtype="float32", device="cpu").model
    return model.requires_grad_(True)


def _begin(task: Task) -> None:
    global _task, _base
    torch.set_num_threads(1)
    _task, _base = task, trainable(task.model)


def _work(run: Run) -> Run:
    config = _task.config_of(run)
    result = finished(copy.deepcopy(_base), run, config, _task.text, _task.settings)
    _task.folder.keep(run, config, result)
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
