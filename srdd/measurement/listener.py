"""What a caller hears while a scan runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Listener:
    """What a caller wants to hear while a scan runs; by default nothing.

    Attributes:
        started: called before long work with what it is, its amount, and the unit of that.
        advanced: called with the amount that has been done since.
        told: called with a sentence that is good to know before the work begins.
        noted: called with a sentence when something was done otherwise than asked for.
    """

    started: Callable[[str, int, str], None] = lambda what, amount, unit: None
    advanced: Callable[[int], None] = lambda amount: None
    told: Callable[[str], None] = lambda sentence: None
    noted: Callable[[str], None] = lambda sentence: None
    notes: list[str] = field(default_factory=list)

    def tell(self, sentence: str) -> None:
        """Say something that is of no use afterwards."""
        self.told(sentence)

    def note(self, sentence: str) -> None:
        """Tell it and keep it for the document, once however often it happens."""
        if sentence in self.notes:
            return
        self.notes.append(sentence)
        self.noted(sentence)
