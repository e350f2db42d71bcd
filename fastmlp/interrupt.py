"""Ctrl-C, held back while the weights are between two states, and how long that may be."""

# What `signal` wraps, which looks every handler up in an enum: 3 us a call in Python 3.11.
import _signal  # type: ignore[import-not-found]
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS_A_CALL = 0.025
"""What one compiled call of a fit aims at: Ctrl-C and the progress bar wait for its end."""


_SIGINT = int(signal.SIGINT)


class Pace:
    """How many steps go into one call: guessed from their FLOPs first, then from the time that the last call took."""

    def __init__(self, flops: int) -> None:
        self._seconds = 0.5e-9 * flops  # two GFLOP/s, about NumPy's on the smallest networks

    @property
    def steps(self) -> int:
        """How many steps the next call may make."""
        return max(1, int(SECONDS_A_CALL / self._seconds))

    def measure(self, seconds: float) -> None:
        """Learn what a step took."""
        self._seconds = max(seconds, 1e-9)


@contextmanager
def interrupt_held() -> Iterator[None]:
    """A SIGINT that arrives inside the block is delivered at its end, to the handler that stood before it.

    Python delivers signals to the main thread alone, and only a Python handler can raise in the middle of the block:
    in another thread, or where SIGINT is ignored, left to the system or handled by C code, nothing is changed.
    """
    handler = _signal.getsignal(_SIGINT)
    if not callable(handler) or threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal arrived
        arrived = True

    _signal.signal(_SIGINT, note)
    try:
        yield
    finally:
        _signal.signal(_SIGINT, handler)
        if arrived:
            signal.raise_signal(_SIGINT)
