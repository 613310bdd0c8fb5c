"""What the commands that run a model read before it: prompts, sizes, names; and their progress."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from srdd.cli import console, interrupts

if TYPE_CHECKING:
    from srdd.measurement.listener import Listener
    from srdd.prompts.reading import PromptSet


def read_prompts(source: str | None, limit: int | None, skip: int) -> PromptSet:
    """The prompts in a file, from standard input for `-`, or the built-in ones for None."""
    from srdd.prompts import reading as prompts

    if source is None:
        return prompts.builtin(limit=limit, skip=skip)
    if source == "-" and sys.stdin.isatty():
        console.say("reading prompts from standard input, a line each; Ctrl-D ends them")
    found = prompts.read_prompts(source, limit=limit, skip=skip)
    return replace(found, source=recorded(found.source))


def recorded(text: str) -> str:
    """`text` as a document can hold it: what is not UTF-8 in the name of a file is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


class Display:
    """Progress bars: the parts of the work say one after the other how long they are."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._bar: console.Progress | None = None

    def started(self, what: str, amount: int, unit: str) -> None:
        self._stack.close()
        self._bar = self._stack.enter_context(console.progress(what, amount, unit))

    def advanced(self, amount: int) -> None:
        interrupts.check()
        if self._bar is not None:
            self._bar.advance(amount)

    def close(self) -> None:
        self._stack.close()

    def listener(self) -> Listener:
        """What the work tells: its progress here, and sentences on standard error."""
        from srdd.measurement.listener import Listener

        return Listener(
            started=self.started, advanced=self.advanced, informed=console.say, warned=console.warn
        )
