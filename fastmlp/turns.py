"""One call at a time trains a network, of whatever thread, and Ctrl-C comes between two."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from .interrupt import interrupt_held
from .kernels.contract import RUNNING, UPDATES, WANTED

POLL_SECONDS = 1e-4
"""Between two looks at whether a backend's own function, which runs without Python's global lock, has come back."""


class Turns:
    """Whose turn it is to use a network's training workspace, its optimiser and the count of its updates.

    A backend's `stepper` minds `counts` by itself, under Python's global lock, which no other thread can interrupt; so
    a call of it costs nothing more. Whoever else wants a turn says so there first, and then waits for such a call.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(3, np.int64)
        """By the places that contract.py names; for the `stepper`s."""
        self._renew()

    def _renew(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self.counts[RUNNING] = self.counts[WANTED] = 0

    @property
    def updates(self) -> int:
        """Steps made so far."""
        return int(self.counts[UPDATES])

    @updates.setter
    def updates(self, value: int) -> None:
        self.counts[UPDATES] = value

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A block that nothing else trains beside; SIGINT comes at its end, as `interrupt_held` has it."""
        if self._process != os.getpid():  # in a forked child nobody is left of the threads that had a turn
            self._renew()
        with interrupt_held(), self._lock:
            self.counts[WANTED] = 1
            try:
                while self.counts[RUNNING]:
                    time.sleep(POLL_SECONDS)
                yield
            finally:
                self.counts[WANTED] = 0
