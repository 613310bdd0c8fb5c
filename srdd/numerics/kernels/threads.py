"""Sharing rows among threads, as many as torch's.

They are Python's, each running compiled code without the interpreter lock and taking rows off a
common list. Numba's own would be a second OpenMP pool next to torch's, whose idle threads spin: for
a while after each call, the one would take the cores from the other. They also end a process that
forks.
"""

from __future__ import annotations

import functools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch


def share(work: Callable[[Iterator[int]], None], starts: range) -> None:
    """Call `work` on every thread that finds something to do, and wait for all.

    Each call gets an iterator over those of `starts` that no other call has taken. What one of them
    raises is raised here.
    """
    todo = deque(starts)
    threads = torch.get_num_threads()
    helpers = min(threads, len(todo)) - 1
    futures = [pool(os.getpid(), threads).submit(work, _taken(todo)) for _ in range(helpers)]
    work(_taken(todo))
    for future in futures:
        if not future.cancel():  # it has begun, perhaps on the last rows
            future.result()


def _taken(todo: deque[int]) -> Iterator[int]:
    while True:
        try:
            start = todo.popleft()
        except IndexError:
            return
        yield start


@functools.lru_cache(maxsize=1)
def pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Helping threads. Of `process`, because a fork does not inherit its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="srdd-kernel")
