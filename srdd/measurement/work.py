"""Work: a long list of batches, shared by several processes, and kept in a file while it runs.

What a pass over batches yields are sums and facts of a few words (`Part`). Sums add, facts unite,
so it does not matter which process ran a batch, nor whether it was before or after a restart:

    share       the batches of this process; together the processes have each batch once
    through     its batches one by one, without those that the file has; the file follows
    unite       the sums of all processes, in each of them

Batches are made from all prompts before they are shared, so each has the same padding, and the
model gives the same for it, however many processes there are.

`working(...)` says which processes and which file the work in it has; without it there is one
process and no file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from srdd.documents.document import write_whole
from srdd.errors import InputError, OutputError

VERSION = 1
"""Of the file's form; a file of another one is not read."""

COST = 50
"""Writing the file takes at most one part in so many of the time, however slow the disk."""

Unit = TypeVar("Unit")
Facts = dict[str, list[Any]]


@dataclass
class Part:
    """What a part of the work yields: sums (float64 or int64), and facts that JSON can hold."""

    sums: dict[str, NDArray[Any]] = field(default_factory=dict)
    facts: Facts = field(default_factory=dict)

    def add(self, other: Part) -> None:
        """Add another part's sums, and its facts where they are not here yet."""
        for name, sums in other.sums.items():
            self.sums[name] = self.sums[name] + sums if name in self.sums else sums
        for name, facts in other.facts.items():
            known = self.facts.setdefault(name, [])
            known += [fact for fact in facts if fact not in known]


class State(Protocol):
    """Something that batches are added to."""

    def part(self) -> Part:
        """What was added up so far."""

    def restore(self, part: Part) -> None:
        """Go on from `part` instead of what was added up so far."""


class Processes(Protocol):
    """The processes that share the work."""

    rank: int
    count: int

    def gather(self, part: Part) -> list[Part]:
        """The parts of all processes, in order of their ranks, in each of them."""


@dataclass
class Alone:
    """A single process."""

    rank: int = 0
    count: int = 1

    def gather(self, part: Part) -> list[Part]:
        """What was given."""
        return [part]


class Work:
    """How work is shared and kept; see the module.

    Arguments:
        processes: those that share it, of which this is one.
        path: the file; each of several processes adds its rank to the name. None keeps nothing.
        settings: what the results depend on besides model and prompts.
        warn: called with a sentence where the file cannot be written; the work goes on without it.
        interval_s: the least time between two writings; None makes it 1 s or COST times as long as
            writing takes.

    Raises:
        InputError: the file is there and is of other settings, or cannot be read.
    """

    def __init__(
        self,
        processes: Processes | None = None,
        path: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        warn: Callable[[str], None] = lambda sentence: None,
        interval_s: float | None = None,
    ) -> None:
        self.processes = processes or Alone()
        rank, count = self.processes.rank, self.processes.count
        if path is not None and count > 1:
            path = path.with_name(f"{path.name}-{rank + 1}-of-{count}")
        self.path = path
        self._about: dict[str, Any] = {
            "version": VERSION,
            "settings": json.loads(json.dumps(dict(settings or {}))),
            "processes": count,
        }
        self._finished: dict[str, tuple[int, Part]] = {}
        self._warn = warn
        self._fixed_s = interval_s
        self._interval_s = 1.0 if interval_s is None else interval_s
        self._written = time.monotonic()
        self._kept: dict[str, Any] | None = None
        if path is not None and path.exists():
            self._kept = self._read(path)
            self._check(self._kept, "version", "processes", "settings")

    def bind(self, model: str, prompts: str) -> None:
        """Say which model and prompts it is, by fingerprint; before the first `through`.

        Raises:
            InputError: the file is of others.
        """
        self._about |= {"model": model, "prompts": prompts}
        if self._kept is not None:
            self._check(self._kept, "model", "prompts")

    def share(self, units: Sequence[Unit], sizes: Sequence[int]) -> list[Unit]:
        """The units of this process, in their order; sizes come out about equal."""
        count = self.processes.count
        if count == 1:
            return list(units)
        loads = [0] * count
        own = []
        for place in sorted(range(len(units)), key=lambda place: -sizes[place]):
            rank = loads.index(min(loads))
            loads[rank] += sizes[place]
            if rank == self.processes.rank:
                own.append(place)
        return [units[place] for place in sorted(own)]

    def through(
        self,
        name: str,
        units: Sequence[Unit],
        state: State,
        skipped: Callable[[Unit], None] = lambda unit: None,
    ) -> Iterator[Unit]:
        """The units one by one; each is finished when the next is asked for.

        Arguments:
            name: of this pass, unique within the work.
            state: what the units are added to; it is restored from the file first.
            skipped: called with each unit that the file has already.
        """
        done = 0
        if self._kept is not None and name in self._kept["passes"]:
            done, part = self._kept["passes"][name]
            state.restore(part)
        for unit in units[:done]:
            skipped(unit)
        for number, unit in enumerate(units[done:], start=done + 1):
            yield unit
            if self.path is not None and number < len(units):
                self._keep(name, number, state)
        if self.path is not None:
            self._finished[name] = (len(units), state.part())
            self._keep(name, len(units), state)

    def unite(self, state: State) -> None:
        """Replace the state of each process by that of all."""
        if self.processes.count > 1:
            total = Part()
            for part in self.processes.gather(state.part()):
                total.add(part)
            state.restore(total)

    def finish(self) -> None:
        """Remove the file: what it kept is in the result."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _keep(self, name: str, done: int, state: State) -> None:
        from safetensors.numpy import save

        assert self.path is not None
        started = time.monotonic()
        if started < self._written + self._interval_s:
            return
        passes = self._finished | {name: (done, state.part())}
        arrays = {
            f"{each}/{key}": np.ascontiguousarray(sums)
            for each, (_, part) in passes.items()
            for key, sums in part.sums.items()
        }
        facts = {each: {"done": done, "facts": part.facts} for each, (done, part) in passes.items()}
        metadata = {"about": json.dumps(self._about), "passes": json.dumps(facts)}
        try:
            write_whole(self.path, save(arrays, metadata), force=True)
        except OutputError as error:  # the result may still find room, or can be shown
            self._warn(f"what is finished is no longer kept: {error.message}")
            self.path = None
            return
        self._written = time.monotonic()
        if self._fixed_s is None:
            self._interval_s = max(1.0, COST * (self._written - started))

    def _read(self, path: Path) -> dict[str, Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="np") as file:
                metadata = file.metadata() or {}
                about, facts = json.loads(metadata["about"]), json.loads(metadata["passes"])
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            passes = {}
            for name, each in facts.items():
                own = {
                    k.removeprefix(f"{name}/"): v
                    for k, v in arrays.items()
                    if k.startswith(f"{name}/")
                }
                passes[name] = (int(each["done"]), Part(own, dict(each["facts"])))
            return {**about, "passes": passes}
        except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} cannot be continued: it is damaged ({error})", "remove it to start anew"
            ) from None

    def _check(self, kept: Mapping[str, Any], *names: str) -> None:
        for name in names:
            if kept.get(name) != self._about[name]:
                raise InputError(
                    f"{self.path} was left by an interrupted run with other {NAMES[name]}"
                    f"{_difference(kept.get(name), self._about[name])}",
                    "repeat that run to finish it, or remove the file to start anew",
                )


NAMES = {
    "version": "srdd",
    "processes": "processes",
    "settings": "settings",
    "model": "weights",
    "prompts": "prompts",
}


def _difference(kept: object, wanted: object) -> str:
    """The first setting that differs, in parentheses."""
    if not (isinstance(kept, dict) and isinstance(wanted, dict)):
        return ""
    names = [name for name in {**kept, **wanted} if kept.get(name) != wanted.get(name)]
    return f" ({names[0]}: {kept.get(names[0])}, now {wanted.get(names[0])})" if names else ""


_current: ContextVar[Work | None] = ContextVar("work", default=None)


def current() -> Work:
    """The work that is going on; one process without a file where nobody said."""
    return _current.get() or Work()


@contextmanager
def working(work: Work) -> Iterator[Work]:
    """In here, `current()` is this work."""
    token = _current.set(work)
    try:
        yield work
    finally:
        _current.reset(token)
