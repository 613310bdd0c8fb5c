"""What `srdd scan` and `srdd eval` share: finding and loading a model, its prompts, progress."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from srdd.cli import console, interrupts
from srdd.model.checkpoint import Checkpoint, check_tokenizer, find

if TYPE_CHECKING:
    from torch import nn

    from srdd.measurement.listener import Listener
    from srdd.measurement.provenance import Origin
    from srdd.prompts.reading import PromptSet


@dataclass(frozen=True)
class Source:
    """A model whose files were looked at, and that is not loaded yet.

    Attributes:
        checkpoint: the model.
        tokenizer: where its tokenizer is; None where none is needed.
    """

    checkpoint: Checkpoint
    tokenizer: Checkpoint | None

    def load(
        self,
        *,
        dtype: str,
        device: str | None,
        device_map: str | None,
        trust_remote_code: bool,
        allow_pickle: bool,
    ) -> tuple[nn.Module, Any, Origin]:
        """The model, its tokenizer (None where none is needed), and where the two came from."""
        with console.phase("loading torch and transformers"):
            from srdd.measurement.provenance import Origin
            from srdd.model.load import load_model, load_tokenizer
        with console.phase(f"loading {self.checkpoint.name}"):
            tokenizer = None
            if self.tokenizer is not None:
                tokenizer = load_tokenizer(self.tokenizer, trust_remote_code=trust_remote_code)
            loaded = load_model(
                self.checkpoint,
                dtype=dtype,
                device=device,
                device_map=device_map,
                trust_remote_code=trust_remote_code,
                allow_pickle=allow_pickle,
            )
        origin = Origin(
            name=escaped(self.checkpoint.name),
            source=self.checkpoint.source,
            revision=loaded.commit or self.checkpoint.revision,
            command=escaped(shlex.join(["srdd", *sys.argv[1:]])),
            notes=loaded.notes,
        )
        return loaded.model, tokenizer, origin


def find_source(
    model: str,
    *,
    revision: str | None,
    tokenizer: str | None,
    allow_pickle: bool,
    needs_tokenizer: bool = True,
) -> Source:
    """The model and its tokenizer, found and checked as far as their files allow.

    Raises:
        InputError: there is no such model, or something is missing from it.
    """
    checkpoint = find(model, revision=revision, allow_pickle=allow_pickle)
    words = find(tokenizer, weights=False) if tokenizer else checkpoint
    if needs_tokenizer:
        check_tokenizer(words)
    return Source(checkpoint, words if needs_tokenizer else None)


def read_prompts(
    source: str | None, limit: int | None, skip: int, column: str | None = None
) -> PromptSet:
    """The prompts in a file, from standard input for `-`, or the built-in ones for None."""
    from srdd.prompts import reading

    if source is None:
        return reading.builtin(limit=limit, skip=skip)
    if source == "-" and sys.stdin.isatty():
        console.say("reading prompts from standard input, one a line; end with Ctrl-D")
    prompts = reading.read_prompts(source, limit=limit, skip=skip, column=column)
    return replace(prompts, source=escaped(prompts.source))


def escaped(text: str) -> str:
    """`text` as a document can hold it: what is not UTF-8 in the name of a file is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def progress() -> Iterator[Listener]:
    """Shows what the work reports: progress bars one after the other, notes and warnings."""
    from srdd.measurement.listener import Listener

    bars: list[console.Progress] = []
    with ExitStack() as stack:

        def started(what: str, amount: int, unit: str) -> None:
            stack.close()
            bars[:] = [stack.enter_context(console.progress(what, amount, unit))]

        def advanced(amount: int) -> None:
            interrupts.check()
            for bar in bars:
                bar.advance(amount)

        yield Listener(
            started=started, advanced=advanced, informed=console.say, warned=console.warn
        )
