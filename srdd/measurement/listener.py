"""What a caller hears while a scan runs."""

from __future__ import annotations

from collections.abc import Callable
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
