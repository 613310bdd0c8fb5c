"""Progress and messages of work that runs a model, and who hears of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Listener:
    """Callbacks for progress and messages; by default all of them do nothing.

    Attributes:
        started: called before long work with its title, its amount, and the unit of the amount.
        advanced: called with the amount done since the last call.
        informed: called with a sentence that is of interest only while the work runs.
        warned: called with a sentence that a reader of the result should know.
        warnings: the sentences given to `warned`; they go into the document.
    """

    started: Callable[[str, int, str], None] = lambda title, amount, unit: None
    advanced: Callable[[int], None] = lambda amount: None
    informed: Callable[[str], None] = lambda sentence: None
    warned: Callable[[str], None] = lambda sentence: None
    warnings: list[str] = field(default_factory=list)

    def inform(self, sentence: str) -> None:
        """Pass a sentence on without keeping it."""
        self.informed(sentence)

    def warn(self, sentence: str) -> None:
        """Pass a warning on and keep it for the document, once however often it occurs."""
        if sentence not in self.warnings:
            self.warnings.append(sentence)
            self.warned(sentence)


@contextmanager
def listening(listener: Listener | None) -> Iterator[Listener]:
    """The caller's listener; for None one with progress bars, on a terminal or in a notebook."""
    if listener is not None:
        yield listener
        return
    from rich import progress
    from rich.console import Console

    console = Console(stderr=True)
    if not (console.is_terminal or console.is_jupyter):
        yield Listener()
        return
    columns = (*progress.Progress.get_default_columns(), progress.TextColumn("{task.fields[unit]}"))
    with progress.Progress(*columns, console=console, transient=True) as bars:

        def started(title: str, amount: int, unit: str) -> None:
            for task in bars.task_ids:
                bars.remove_task(task)
            bars.add_task(title, total=amount, unit=unit)

        def advanced(amount: int) -> None:
            bars.advance(bars.task_ids[-1], amount)

        yield Listener(started=started, advanced=advanced)
