"""The two streams: what a terminal gets, what a pipe gets, and what whoever wants less gets."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from typing import Any

import pyte
import pytest
from rich.text import Text

from srdd.cli import console
from srdd.errors import SrddError

ESCAPE = "\x1b"


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and keeps what was written."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    @property
    def screen(self) -> list[str]:
        """What can be seen on it at the end."""
        screen = pyte.Screen(80, 30)
        pyte.Stream(screen).feed(self.getvalue().replace("\n", "\r\n"))
        return [line.rstrip() for line in screen.display if line.strip()]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error is a terminal of 80 columns."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    return Terminal()


def talk(terminal: Terminal) -> None:
    """All that is ever said on standard error."""
    with redirect_stderr(terminal):
        console.say("hello")
        console.warn("careful")
        console.complain(SrddError("it broke", "mend it"))
        with console.phase("getting ready"):
            pass
        with console.progress("measuring", 10, "tokens") as bar:
            bar.advance(5)
            console.warn("half-way")
            bar.advance(5)
        console.show_beside(Text("beside", style="bold"))


PLAIN = """hello
warning: careful
error: it broke
hint: mend it
getting ready
measuring: 10 tokens
warning: half-way
beside
"""


def test_a_terminal_gets_colours_and_a_bar(terminal: Terminal) -> None:
    talk(terminal)
    raw = terminal.getvalue()
    assert ESCAPE in raw
    assert "100%" in raw
    assert "measuring" in raw


def test_what_is_said_during_a_bar_stays_above_it(terminal: Terminal) -> None:
    talk(terminal)
    assert terminal.screen == [
        "hello",
        "warning: careful",
        "error: it broke",
        "hint: mend it",
        "warning: half-way",
        "beside",
    ]


@pytest.mark.parametrize(
    ("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb"), ("TERM", "unknown")]
)
def test_whoever_wants_no_escape_codes_gets_lines(
    name: str, value: str, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    talk(terminal)
    assert terminal.getvalue() == PLAIN


def test_an_empty_no_color_asks_for_nothing(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "")
    talk(terminal)
    assert ESCAPE in terminal.getvalue()


def test_a_pipe_gets_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Terminal, "isatty", lambda self: False)
    talk(terminal)
    assert terminal.getvalue() == PLAIN


def test_a_terminal_of_ascii_gets_a_spinner_that_it_can_show(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    talk(terminal)
    assert ESCAPE in terminal.getvalue()
    assert terminal.getvalue().isascii()


@pytest.mark.parametrize("speak", [console.say, console.warn])
def test_a_sentence_is_shown_and_not_obeyed(
    speak: Callable[[str], None], terminal: Terminal
) -> None:
    with redirect_stderr(terminal):
        speak("[red]\x1b[31mx[/red]\n\u202ey")
    assert terminal.screen == [
        ("warning: " if speak is console.warn else "") + "[red]\\x1b[31mx[/red]\\n\\u202ey"
    ]


def test_a_name_in_a_phase_is_shown_and_not_obeyed(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with redirect_stderr(terminal), console.phase("loading [red]\x1b[31mx"):
        pass
    assert terminal.getvalue() == "loading [red]\\x1b[31mx\n"


def test_a_long_message_is_wrapped_at_words_on_a_terminal(terminal: Terminal) -> None:
    with redirect_stderr(terminal):
        console.warn("a sentence of several words " * 6)
    assert len(terminal.screen) > 1
    words = {word for line in terminal.screen for word in line.split()}
    assert words == {"warning:", "a", "sentence", "of", "several", "words"}


@pytest.mark.parametrize("columns", [40, 59, 60, 80])
def test_a_bar_fits_its_terminal(
    columns: int, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    with redirect_stderr(terminal), console.progress("measuring 9 prompts", 9, "tokens") as bar:
        bar.advance(4)
    text = re.sub("\x1b\\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())
    assert max(map(len, re.split("[\r\n]", text))) <= columns
    assert "…" not in text
    assert "44%" in text or "0%" in text
    assert ("tokens/s" in text) == (columns >= 60)


def test_a_long_message_stays_on_one_line_for_whoever_reads_lines(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with redirect_stderr(terminal):
        console.complain(SrddError("a word " * 40, "do " * 40))
    assert terminal.getvalue().count("\n") == 2


@pytest.mark.parametrize("failure", [ValueError(), KeyboardInterrupt()])
def test_after_a_failure_the_display_is_gone(failure: BaseException, terminal: Terminal) -> None:
    def fail() -> None:
        with console.progress("measuring", 10, "tokens") as bar:
            bar.advance(5)
            raise failure

    with redirect_stderr(terminal):
        with pytest.raises(type(failure)):
            fail()
        console.say("done")
    assert terminal.screen == ["done"]
    assert terminal.getvalue().count("\x1b[?25l") == terminal.getvalue().count("\x1b[?25h") > 0


class Gone(io.TextIOWrapper):
    """A stream whose reader has gone away."""

    def __init__(self) -> None:
        reader, writer = os.pipe()
        os.close(reader)
        super().__init__(io.FileIO(writer, "wb"), write_through=True)  # type: ignore[arg-type]


def test_when_nobody_listens_work_goes_on() -> None:
    done = []
    with redirect_stderr(Gone()):
        with console.phase("getting ready"):
            done.append("phase")
        with console.progress("measuring", 10, "tokens") as bar:
            bar.advance(10)
            done.append("bar")
        console.warn("careful")
    assert done == ["phase", "bar"]


def test_when_nobody_reads_the_results_the_command_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError):
        console.show(Text("result"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_a_name_that_does_not_fit_the_encoding_is_escaped(
    encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding=encoding))
    console.show(Text("model 模型"))
    assert raw.getvalue() == b"model \\u6a21\\u578b\n"


def test_a_traceback_goes_to_standard_error(terminal: Terminal) -> None:
    with redirect_stderr(terminal):
        try:
            raise RuntimeError("boom")
        except RuntimeError:
            console.show_traceback()
    assert terminal.getvalue().startswith("Traceback (most recent call last):\n")
    assert terminal.getvalue().endswith("RuntimeError: boom\n")


def test_a_result_is_written_byte_by_byte(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    stream: Any = io.TextIOWrapper(raw, encoding="ascii", newline="\r\n")
    monkeypatch.setattr(sys, "stdout", stream)
    console.write_result("±\n\0".encode())
    assert raw.getvalue() == "±\n\0".encode()


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`kl_samples` is 0", "--kl-samples is 0"),
        ("use `max_length=512` or less", "use --max-length 512 or less"),
        ("with `kl=True`, or `kl=direct`", "with --kl, or --kl-direct"),
        ("use `trainer=srdd`, or `form=yaml`", "use --for srdd, or --as yaml"),
        ("`apply_chat_template=False`", "--no-chat-template"),
        ("of `formats`, as `tiers=high=0.05:0.001`", "of --format, as --tier high=0.05:0.001"),
        ("`srdd scan --kl` and `not_one`", "`srdd scan --kl` and `not_one`"),
    ],
)
def test_parameters_in_a_message_of_the_library_are_shown_as_options(
    message: str, shown: str
) -> None:
    for speak in (console.say, console.warn, lambda text: console.complain(SrddError(text, text))):
        stream = io.StringIO()
        with redirect_stderr(stream):
            speak(message)
        assert shown in stream.getvalue()
