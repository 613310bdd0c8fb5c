"""Ctrl-C that Python loses comes back at the next step."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator

import pytest

from srdd.cli import interrupts


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
