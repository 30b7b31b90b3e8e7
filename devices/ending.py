"""A program that is told to end cleans up first, as it does for Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)  # kill's, and a terminal's that is closed


@contextmanager
def told_to_end() -> Iterator[None]:
    """In here those signals raise SystemExit, with the exit code that a shell gives a program that they end.

    Only where they would end the program: one that is ignored, as nohup has it, or handled by somebody else is left
    alone. Once one has come, no other disturbs the cleaning up.
    """
    taken = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    if threading.current_thread() is not threading.main_thread():  # others cannot set handlers
        taken = []

    def end(number: int, frame: FrameType | None) -> None:
        for each in taken:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in taken:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
