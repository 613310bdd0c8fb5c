"""Ctrl-C, also where Python loses it.

An interrupt becomes an exception wherever the program happens to be. Inside a callback of compiled
code, such as the compiler's own, Python prints that exception and goes on, and the work would run
to its end. So it is recorded, too, and work in steps checks for it after each of them. When the
work is done, an interrupt must not change the exit code any more: while Python shuts down, it puts
the signal's default back, which would kill the process.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_pressed = threading.Event()


def listen() -> None:
    """Record interrupts from now on, where Python would turn them into exceptions."""
    _pressed.clear()
    if _is_ours():
        signal.signal(signal.SIGINT, _handle)


def ignore() -> None:
    """Let interrupts have no effect from now on, where Python would turn them into exceptions."""
    if _is_ours():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _is_ours() -> bool:
    """Whether nobody else handles the signal, and this thread may change that."""
    usual = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _handle)
    return usual and threading.current_thread() is threading.main_thread()


def _handle(number: int, frame: FrameType | None) -> None:
    _pressed.set()
    raise KeyboardInterrupt


def check() -> None:
    """Raise the interrupt that came and was lost.

    Raises:
        KeyboardInterrupt: there was one since `listen`.
    """
    if _pressed.is_set():
        raise KeyboardInterrupt
