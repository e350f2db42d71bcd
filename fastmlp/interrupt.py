"""Ctrl-C, held back while the weights are between two states."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupt_held() -> Iterator[None]:
    """A SIGINT that arrives inside the block is delivered at its end, to the handler that stood before it.

    Python delivers signals to the main thread alone, and only a Python handler can raise in the middle of the block:
    in another thread, or where SIGINT is ignored, left to the system or handled by C code, nothing is changed.
    """
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal arrived
        arrived = True

    signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if arrived:
            signal.raise_signal(signal.SIGINT)
