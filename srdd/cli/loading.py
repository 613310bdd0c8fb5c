"""What `srdd scan` and `srdd eval` share: finding and loading a model, its prompts, progress."""

from __future__ import annotations

import hashlib
import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srdd.cli import console, interrupts, ranks
from srdd.model.checkpoint import Checkpoint, check_tokenizer, find

if TYPE_CHECKING:
    from torch import nn

    from srdd.measurement.listener import Listener
    from srdd.measurement.provenance import Origin
    from srdd.measurement.work import Work
    from srdd.prompts.reading import PromptSet


LONGEST_SETTING = 200
"""Characters of a setting that a kept file holds in full."""


@dataclass(frozen=True)
class ModelOptions:
    """The options that say which model is loaded, and how."""

    model: str
    dtype: str = "auto"
    device: str | None = None
    device_map: str | None = None
    revision: str | None = None
    tokenizer: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False

    def find(self, *, needs_tokenizer: bool = True) -> Source:
        """The model and its tokenizer, found and checked as far as their files allow.

        Raises:
            InputError: there is no such model, or something is missing from it.
        """
        checkpoint = find(self.model, revision=self.revision, allow_pickle=self.allow_pickle)
        words = find(self.tokenizer, weights=False) if self.tokenizer else checkpoint
        if needs_tokenizer:
            check_tokenizer(words)
        return Source(self, checkpoint, words if needs_tokenizer else None)


@dataclass(frozen=True)
class Source:
    """A model whose files were looked at, and that is not loaded yet.

    Attributes:
        options: how to load it.
        checkpoint: the model.
        tokenizer: where its tokenizer is; None where none is needed.
    """

    options: ModelOptions
    checkpoint: Checkpoint
    tokenizer: Checkpoint | None

    def skeleton(self) -> nn.Module:
        """The model's modules without their weights, for checks before those are loaded."""
        with console.phase("loading torch and transformers"):
            from srdd.model.load import load_skeleton
        return load_skeleton(self.checkpoint, trust_remote_code=self.options.trust_remote_code)

    def load(self) -> tuple[nn.Module, Any, Origin]:
        """The model, its tokenizer (None where none is needed), and where the two came from."""
        with console.phase("loading torch and transformers"):
            from srdd.measurement.processes import own_device
            from srdd.measurement.provenance import Origin
            from srdd.model.load import load_model, load_tokenizer
        options = self.options
        device = options.device
        if device is None and options.device_map is None and ranks.SHARED:
            device = own_device()
        with console.phase(f"loading {self.checkpoint.name}"):
            tokenizer = None
            if self.tokenizer is not None:
                tokenizer = load_tokenizer(
                    self.tokenizer, trust_remote_code=options.trust_remote_code
                )
            loaded = load_model(
                self.checkpoint,
                dtype=options.dtype,
                device=device,
                device_map=options.device_map,
                trust_remote_code=options.trust_remote_code,
                allow_pickle=options.allow_pickle,
            )
        origin = Origin(
            name=escaped(self.checkpoint.name),
            source=self.checkpoint.source,
            revision=loaded.commit or self.checkpoint.revision,
            command=escaped(shlex.join(["srdd", *sys.argv[1:]])),
            notes=loaded.notes,
        )
        return loaded.model, tokenizer, origin


@dataclass(frozen=True)
class PromptOptions:
    """The options that say which prompts are read."""

    prompts: str | None = None
    prompt_column: str | None = None
    limit: int | None = None
    skip: int = 0

    def read(self) -> PromptSet:
        """The prompts in a file, from standard input for `-`, or the built-in ones for None."""
        from srdd.prompts import reading

        if self.prompts is None:
            return reading.builtin(limit=self.limit, skip=self.skip)
        if self.prompts == "-" and sys.stdin.isatty():
            console.say("reading prompts from standard input, one a line; end with Ctrl-D")
        prompts = reading.read_prompts(
            self.prompts, limit=self.limit, skip=self.skip, column=self.prompt_column
        )
        return replace(prompts, source=escaped(prompts.source))


@dataclass(frozen=True)
class RunOptions:
    """The options that say what of the prompts and of the model is used, by their common names."""

    max_length: int | None = None
    apply_chat_template: bool | None = None
    include: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)
    batch_size: str = "auto"

    def settings(self) -> dict[str, Any]:
        """Arguments of `Plan.of` and of `evaluate_model`."""
        from srdd.measurement.plan import check_batch_size

        return asdict(self) | {"batch_size": check_batch_size(self.batch_size)}


def work(path: Path | None, settings: Mapping[str, object]) -> Work:
    """How the work is shared with the other processes of torchrun, and kept while it runs.

    Arguments:
        path: what the result is written to; the file that keeps it meanwhile is named after it, and
            continued where it is there already. None keeps nothing.
        settings: what the results depend on besides model and prompts.

    Raises:
        InputError: the file is there and of other settings.
    """
    from srdd.measurement.processes import processes
    from srdd.measurement.work import Work

    kept = None if path is None else path.with_name(f"{path.name}.partial")
    named = {name: _short(str(value)) for name, value in settings.items()}
    result = Work(processes(), kept, named, console.warn)
    if result.path is not None and result.path.exists():
        console.say(f"continuing the interrupted run kept in {result.path}")
    return result


def escaped(text: str) -> str:
    """`text` as a document can hold it: what is not UTF-8 in the name of a file is escaped."""
    return text.encode("utf-8", "backslashreplace").decode()


def _short(value: str) -> str:
    """A setting as errors can name it: of a whole document only its fingerprint."""
    if len(value) <= LONGEST_SETTING:
        return value
    return f"sha256:{hashlib.sha256(value.encode()).hexdigest()[:16]}"


@contextmanager
def _saying_where_it_is_kept(work: Work) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        if work.path is not None and work.path.exists():
            console.say(f"what is finished is kept in {work.path}; the same command continues")
        raise


@contextmanager
def progress(work: Work | None = None) -> Iterator[Listener]:
    """In here the work runs; shows its progress bars one after the other, notes and warnings."""
    from srdd.measurement.listener import Listener
    from srdd.measurement.work import Work, working

    work = work or Work()
    bars: list[console.Progress] = []
    with ExitStack() as stack, _saying_where_it_is_kept(work), working(work):

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
