"""Ctrl-C, also where Python loses it.

An interrupt becomes an exception wherever the program happens to be. Inside a callback of compiled
code, such as the compiler's own, Python prints that exception and goes on, and the work would run
to its end. So it is noted, too, and work in steps asks after each of them.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_pressed = threading.Event()


def listen() -> None:
    """Note interrupts from now on, where Python would turn them into exceptions."""
    _pressed.clear()
    usual = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _note)
    if usual and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _note)


def _note(number: int, frame: FrameType | None) -> None:
    _pressed.set()
    raise KeyboardInterrupt


def check() -> None:
    """Raise the interrupt that came and was lost.

    Raises:
        KeyboardInterrupt: there was one since `listen`.
    """
    if _pressed.is_set():
        raise KeyboardInterrupt
