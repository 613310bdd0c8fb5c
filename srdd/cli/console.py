"""The two streams, and the manners of talking to a person or a pipe.

Results go to standard output, all talk to standard error. Colours, cursor movements and progress
bars are for terminals only, and not with NO_COLOR or TERM=dumb.
"""

from __future__ import annotations

import io
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from srdd.cli.options import as_options
from srdd.errors import SrddError
from srdd.reports.text import safe

LONGEST = 2000
"""Characters of a message at most."""

ENDLESS = 100_000
"""Columns of a pipe or file, in which no line is broken."""

ROOM_FOR_SPEED = 60
"""Columns of a terminal from which on a progress bar shows the speed, too."""


class _Results(Console):
    """Standard output: when nobody reads it any more, the command is over."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class _Talk(Console):
    """Standard error: when nobody reads it any more, the work goes on in silence."""

    def on_broken_pipe(self) -> None:
        _drop(sys.stderr)


def _wants_plain() -> bool:
    """Whether the environment asks for text without escape codes, on a terminal too."""
    dumb = os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return dumb or bool(os.environ.get("NO_COLOR"))


def _console(kind: type[Console]) -> Console:
    # Figures speak for themselves: rich's own highlighting would colour every number.
    stream = sys.stderr if kind is _Talk else sys.stdout
    whole_lines = not stream.isatty() and "COLUMNS" not in os.environ
    return kind(
        file=io.StringIO() if _muted else None,
        width=ENDLESS if whole_lines else None,
        stderr=kind is _Talk,
        highlight=False,
        markup=False,
        soft_wrap=False,
        force_terminal=False if _wants_plain() else None,
    )


_quiet = False


def be_quiet(wanted: bool) -> None:
    """From now on, print progress and notes, or only warnings and errors."""
    global _quiet
    _quiet = wanted


_muted = False


def mute(wanted: bool = True) -> None:
    """From now on, print nothing at all: another process speaks for this one."""
    global _muted
    _muted = wanted


_busy: list[Console] = []
"""The console whose progress is on display, if any; talk has to go around it."""


def _talk() -> Console:
    return _busy[-1] if _busy else _console(_Talk)


def width() -> int:
    """Columns of standard output."""
    return _console(_Results).width


def show(*parts: RenderableType) -> None:
    """Print results on standard output."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name may not fit the encoding
    console = _console(_Results)
    for part in parts:
        console.print(part, crop=False)  # what is too wide wraps: a cut figure is another figure
    sys.stdout.flush()


def show_beside(*parts: RenderableType) -> None:
    """Print on standard error what belongs to a result without being it, unless quiet."""
    for part in () if _quiet else parts:
        _talk().print(part, crop=False)


def write_result(content: bytes) -> None:
    """Write a document to standard output, byte for byte."""
    if _muted:
        return
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _speak(text: Text) -> None:
    """Print one message: wrapped at words on a terminal, on one line for whoever reads lines."""
    console = _talk()
    console.print(text, soft_wrap=not console.is_terminal)


def say(sentence: str) -> None:
    """Print a note on standard error."""
    if not _quiet:
        _speak(Text(safe(as_options(sentence), longest=LONGEST)))


def warn(sentence: str) -> None:
    """Print a warning on standard error."""
    shown = safe(as_options(sentence), longest=LONGEST)
    _speak(Text.assemble(("warning: ", "bold yellow"), shown))


def complain(error: SrddError) -> None:
    """Print an error and its hint on standard error."""
    for word, style, text in (
        ("error: ", "bold red", error.message),
        ("hint: ", "bold cyan", error.hint),
    ):
        _speak(Text.assemble((word, style), safe(as_options(text), longest=LONGEST)))


def show_traceback() -> None:
    """Print the traceback of the exception that is being handled on standard error.

    The hint of an SrddError is left out: `complain` prints it.
    """
    error = sys.exc_info()[1]
    hint = f"\nhint: {error.hint}\n" if isinstance(error, SrddError) else ""
    text = traceback.format_exc()
    sys.stderr.write(f"{text.removesuffix(hint)}\n" if hint else text)


class Progress(Protocol):
    """A piece of long work with a known amount."""

    def advance(self, amount: int) -> None:
        """So much more of it is done."""


class _Silent:
    def advance(self, amount: int) -> None:
        pass


@contextmanager
def phase(what: str) -> Iterator[None]:
    """Work of unknown length: a spinner on a terminal, a line elsewhere."""
    if _quiet:
        yield
        return
    console = _talk()
    what = safe(what)
    if not console.is_terminal:
        _speak(Text(what))
        yield
        return
    spinner = "dots" if console.encoding.startswith("utf") else "line"
    with console.status(Text(what), spinner=spinner), _displaying(console):
        yield


@contextmanager
def _displaying(console: Console) -> Iterator[None]:
    _busy.append(console)
    try:
        yield
    finally:
        _busy.remove(console)


@contextmanager
def progress(what: str, total: int, unit: str) -> Iterator[Progress]:
    """Work of known length: a bar with speed and time left on a terminal, a line elsewhere."""
    if _quiet:
        yield _Silent()
        return
    console = _talk()
    if not console.is_terminal:
        _speak(Text(f"{what}: {total:,} {unit}"))
        yield _Silent()
        return
    from rich import progress as bars

    class Speed(bars.ProgressColumn):
        def render(self, task: bars.Task) -> Text:
            return Text(f"{task.speed:,.0f} {unit}/s" if task.speed else f"- {unit}/s")

    columns: list[bars.ProgressColumn] = [
        bars.TextColumn("{task.description}"),
        bars.BarColumn(bar_width=None),
        bars.TaskProgressColumn(),
        bars.TimeRemainingColumn(compact=True),
    ]
    if console.width >= ROOM_FOR_SPEED:
        columns.insert(3, Speed())
    bar = bars.Progress(*columns, console=console, transient=True, expand=True)
    with bar as display, _displaying(console):
        task = display.add_task(what, total=total)

        class Bar:
            def advance(self, amount: int) -> None:
                display.advance(task, amount)

        yield Bar()


def _drop(stream: TextIO) -> None:
    """Let everything that is still written to a stream go nowhere."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def close_quietly() -> None:
    """After the reader of standard output went away: nothing more can be written there."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            _drop(stream)
