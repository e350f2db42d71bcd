"""The team: threads that run one compiled function together.

Every member runs the same function over the same phases. A phase is cut into chunks by shape alone; members claim
chunks, first from their own share and then from the others', so a member that comes late, or not at all, costs time but
never correctness, and no result depends on who computed what (phases.py).

A worker is a Python thread that stays in compiled code, without the GIL: it spins for a while after each run, since the
next one is often near (meeting costs 0.2 us), then sleeps on a futex (waking costs the caller 8 us and takes 20). Where
there are no futexes it goes to sleep in Python. Threads vanish in a forked child, which makes its own team when it
first needs one. A caller that finds the team busy (another thread, a nested call) runs alone.
"""

import atexit
import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numba import types

from ..caches import cache_bytes
from ..cores import MAX_THREADS, get_num_threads, told
from ..network import aligned_zeros
from .compile import MOST_INTEGERS, Entry
from .direct import OWN, direct, integer_of, stack_integers
from .phases import CLAIMS, FUTEX, LINE, conducted, dismiss, private_length, serve
from .simd import Pointer, address_of

PARALLEL_FLOPS, PARALLEL_STEP = 2_000_000, 200_000
"""FLOPs of a call, and of each of its steps, below which meeting (0.2 us a phase) costs too much."""

PARALLEL_BYTES = cache_bytes("L2") // 2
"""Bytes that a call reads from which on it is shared however few its FLOPs: a member's part may then lie in its L2."""

LONG_FLOPS = 8_000_000
"""FLOPs of a call, about 40 us, from which on sleeping workers are woken for it alone."""


def is_shared(step_flops: int, steps: int = 1) -> bool:
    """Whether a call of so many steps of so much work is one for several threads."""
    return step_flops >= PARALLEL_STEP and step_flops * steps >= PARALLEL_FLOPS


def threads_for(step_flops: int, steps: int = 1) -> int:
    """Threads for a call of so many steps of so much work."""
    return get_num_threads() if is_shared(step_flops, steps) else 1


class _Worker:
    """A thread of the team."""

    def __init__(self, team: int, rank: int) -> None:
        self._team = team
        self._rank = rank
        self._bell = threading.Lock()
        self._bell.acquire()
        self.is_over = False
        self.thread = threading.Thread(target=self._live, name=f"fastmlp-{rank}", daemon=True)
        self.thread.start()

    def _live(self) -> None:
        serve(self._team, self._rank)
        while not self.is_over:
            self._bell.acquire()
            serve(self._team, self._rank)

    def wake(self) -> None:
        """Call it back into compiled code, if it sleeps outside."""
        if self._bell.locked():
            self._bell.release()


_memories: list[np.ndarray] = []
"""Of every team that ever was: a caller on its way, or a worker whose team an interrupt kept from being finished, may
still look at it."""


class _Team:
    """Up to `size` members: as many as the system grants threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        serve.compile((types.int64, types.int64))
        dismiss.compile((types.int64,))
        length = (CLAIMS + size) * LINE + size * private_length.py_func(size)
        self._memory = aligned_zeros(length, np.int64)
        _memories.append(self._memory)
        self.address = self._memory.__array_interface__["data"][0]
        self.workers: list[_Worker] = []
        with contextlib.suppress(RuntimeError):  # no more threads
            while len(self.workers) < size - 1:
                self.workers.append(_Worker(self.address, len(self.workers) + 1))
        self._cores: set[int] = set()

    def keep_off(self, core: int, allowed: set[int]) -> None:
        """Send the workers to other cores than this one.

        Linux tends to wake a thread on its caller's core and to leave it there for as long as a short call lasts, while
        another core idles.
        """
        others = allowed - {core} or allowed
        if others != self._cores:
            self._cores = others
            for worker in self.workers:
                with contextlib.suppress(OSError):  # a core may just have been taken away
                    os.sched_setaffinity(worker.thread.native_id or 0, others)

    def end(self) -> None:
        """Send the threads home: none may be in compiled code when Python takes that down."""
        for worker in self.workers:
            worker.is_over = True
        dismiss(self.address)
        for worker in self.workers:
            worker.wake()
            worker.thread.join()


_team: _Team | None = None
_making = threading.Lock()


def _forget_team() -> None:
    """In a forked child: its parent's threads do not exist here."""
    global _team, _making
    _team, _making = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_team)


@atexit.register
def _end_team() -> None:
    if _team is not None:
        _team.end()


_current_core = ctypes.CDLL(None).sched_getcpu if sys.platform == "linux" else None


def _team_of(size: int) -> _Team | None:
    """A team of at least `size` members; None while another thread is making one."""
    global _team
    if _team is not None and _team.size >= size:
        return _team
    if not _making.acquire(blocking=False):
        return None
    try:
        if _team is not None:
            _team.end()
        _team = _Team(size)
        return _team
    finally:
        _making.release()


@direct
def _conduct(known, arguments, count):
    """(team, entry, size, is_long, *job): as `conducted`, with the job's integers on the stack."""
    team, entry, size = integer_of(arguments[0]), integer_of(arguments[1]), integer_of(arguments[2])
    is_long = integer_of(arguments[3]) != 0
    job = stack_integers(MOST_INTEGERS)
    for index in range(min(count - 4, MOST_INTEGERS)):
        job[index] = integer_of(arguments[4 + index])
    return conducted(team, entry, address_of(job), size, is_long)


ALONE = 0, 1
"""What `members` gives where the caller works alone."""


def run(entry: Entry, dtype: np.dtype, job: Sequence[int], flops: int) -> None:
    """Run `entry` for elements of `dtype` on this job, its integers, of so many FLOPs; back when it is done."""
    conduct(entry.address(dtype), job, None if is_shared(flops) else 1, flops)


def conduct(entry: int, job: Sequence[int], threads: int | None, flops: int, most: int = MAX_THREADS) -> int:
    """Run the entry at this address on this job, shared as `members` says by `most` at most; gives how many it were."""
    team, size = ALONE if threads == 1 else members(threads)
    return conduct_by((team, min(size, most)), entry, job, flops)


def conduct_by(crew: tuple[int, int], entry: int, job: Sequence[int], flops: int) -> int:
    """As `conduct`, by what `members` has just given."""
    return _conducting()(crew[0], entry, crew[1], flops >= LONG_FLOPS, *job)


@functools.cache
def _conducting() -> Callable[..., int]:
    return _conduct.bound()[0]


def members(threads: int | None = None) -> tuple[int, int]:
    """The address of a team and how many of it may run, up to so many threads: ALONE for the caller alone.

    None is as many as `get_num_threads` says, which is remembered for as long as the caller is told nothing else and
    keeps its core and its right to others.
    """
    global _crew
    if threads is not None:
        return _gathered(threads)
    if FUTEX is None:
        return _gathered(get_num_threads())
    asked, place = told(), _place()()
    crew = _crew
    if crew is not None and crew.asked == asked and crew.place == place and crew.team is _team:
        return crew.members
    found = _gathered(get_num_threads())
    team = _team
    if team is not None and team.address == found[0]:
        _crew = _Crew(asked, place, team, found)
    return found


class _Crew(NamedTuple):
    """What `members` gave a caller that was told to use so many threads and was at this place."""

    asked: int | None
    place: int
    team: _Team
    members: tuple[int, int]


_crew: _Crew | None = None

_CORES_WORDS = 16
"""Of 64 cores each, the C library's own limit."""

if FUTEX is not None:
    _getcpu = types.ExternalFunction("sched_getcpu", types.int32())
    _cores_of = types.int32(types.int32, types.int64, Pointer(types.int64))
    _getaffinity = types.ExternalFunction("sched_getaffinity", _cores_of)
    _NUMBER, _CORE, _ALLOWED = range(OWN, OWN + 3)

    @direct
    def _numbered_place(known, arguments, count):
        """The number of the caller's place, its core and the cores it may use: another for each place but the last."""
        allowed = stack_integers(_CORES_WORDS)
        for word in range(_CORES_WORDS):
            allowed[word] = 0
        core = _getcpu()
        is_known = _getaffinity(0, 8 * _CORES_WORDS, allowed) >= 0
        is_same = is_known and known[_CORE] == core
        for word in range(_CORES_WORDS):
            is_same = is_same and known[_ALLOWED + word] == allowed[word]
            known[_ALLOWED + word] = allowed[word]
        known[_CORE] = core
        if not is_same:
            known[_NUMBER] += 1
        return known[_NUMBER]


@functools.cache
def _place() -> Callable[[], int]:
    return _numbered_place.bound(*[0] * (2 + _CORES_WORDS))[0]


def _gathered(threads: int) -> tuple[int, int]:
    team = _team_of(threads) if threads > 1 else None
    if team is None:
        return ALONE
    if _current_core is not None:
        team.keep_off(_current_core(), os.sched_getaffinity(0))
    if FUTEX is None:
        for worker in team.workers:
            worker.wake()
    return team.address, min(threads, len(team.workers) + 1)
