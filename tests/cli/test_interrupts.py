"""Ctrl-C that Python loses comes back at the next step."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from srdd.cli import app, interrupts


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
    interrupts._pressed.clear()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_inside_a_callback_of_compiled_code_comes_back() -> None:
    interrupts.listen()

    def pressed() -> int:
        os.kill(os.getpid(), signal.SIGINT)
        return sum(range(1000))  # Python handles the signal here, and ctypes drops the exception

    ctypes.CFUNCTYPE(ctypes.c_int)(pressed)()
    with pytest.raises(KeyboardInterrupt):
        interrupts.check()


def test_one_that_arrives_is_raised_at_once() -> None:
    interrupts.listen()
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_without_one_nothing_happens() -> None:
    interrupts.listen()
    interrupts.check()


def test_a_handler_of_somebody_else_stays() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    interrupts.listen()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


FINISHED = """
import atexit, os, signal, sys
from srdd.cli import app

def press():
    os.kill(os.getpid(), signal.SIGINT)

class Late:
    def __del__(self, press=press, os=os, signal=signal):
        os.kill(os.getpid(), signal.SIGINT)

if "late" in sys.argv[1]:
    late = Late()  # deleted after Python has put signal handlers back
else:
    atexit.register(press)
sys.argv = ["srdd", "formats"]
app.main()
"""


@pytest.mark.parametrize("when", ["at exit", "later"])
def test_an_interrupt_after_the_end_leaves_the_exit_code_of_what_was_done(when: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FINISHED, when], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "mxfp4" in run.stdout


def test_an_interrupt_while_an_error_is_told_exits_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(error: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(app.console, "complain", interrupted)
    monkeypatch.setattr(app.os, "_exit", sys.exit)
    monkeypatch.setattr(sys, "argv", ["srdd", "report", "gone.json"])
    with pytest.raises(SystemExit) as caught:
        app.main()
    assert caught.value.code == 130
    assert "interrupted" in capsys.readouterr().err
