"""The team: threads that run one compiled function together.

Every member runs the same function over the same phases. A phase is cut into chunks by shape alone; members claim
chunks, first from their own share and then from the others', so a member that comes late, or not at all, costs time but
never correctness, and no result depends on who computed what. Within a run counters only grow, so none is reset between
phases.

A worker is a Python thread that stays in compiled code, without the GIL: it spins for a while after each run, since the
next one is often near (meeting costs 0.2 us), then sleeps on a futex (waking costs the caller 8 us and takes 20). Where
there are no futexes it goes to sleep in Python. Threads vanish in a forked child, which makes its own team when it
first needs one. A caller that finds the team busy (another thread, a nested call) runs alone.

The team's memory, in lines of the cache (8 int64): run number, odd while a run is open; the run's entry, job and size;
members entered; members left; workers asleep; whether a caller has the team; whether it is over, and when a caller last
came; chunks done; then for each member r the chunks claimed of its share. Behind them each member's own counters:
0 rank, 1 size, 2 chunks done when this phase is over, 3 chunks it did in this phase, 4 + r chunks claimed of r's share
before this phase.
"""

import atexit
import contextlib
import ctypes
import os
import platform
import sys
import threading
import time
from array import array
from collections.abc import Sequence

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..caches import cache_bytes
from ..cores import MAX_THREADS, get_num_threads
from ..network import aligned_zeros
from .compile import Entry, called, jit
from .simd import I64, Pointer, int64_at

LINE = 8
RUN, JOB, ENTERED, LEFT, ASLEEP, TAKEN, OVER, DONE, CLAIMS = range(9)
RANK, SIZE, TARGET, MINE, BASES = range(5)

SPINS_BEFORE_YIELD = 4096
SPINS_BEFORE_CLOCK = 64

AWAKE_NS = 100_000
"""How long a worker spins for the next run: longer than Python takes between two calls of a loop."""


@intrinsic
def _own_line(typingctx):
    """A line of counters on the stack of this call."""

    def codegen(context, builder, sig, args):
        return builder.gep(cgutils.alloca_once(builder, ir.ArrayType(I64, LINE)), [I64(0), I64(0)])

    return Pointer(types.int64)(), codegen


@intrinsic
def atomic_add(typingctx, p, value):
    """Add to the counter at p; gives what it was before."""

    def codegen(context, builder, sig, args):
        return builder.atomic_rmw("add", args[0], args[1], "seq_cst")

    return types.int64(p, types.int64), codegen


@intrinsic
def atomic_load(typingctx, p):
    """The counter at p."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(args[0], "seq_cst", 8)

    return types.int64(p), codegen


@intrinsic
def atomic_replace(typingctx, p, expected, value):
    """Write `value` to the counter at p if it is `expected`; whether that happened."""

    def codegen(context, builder, sig, args):
        result = builder.cmpxchg(args[0], args[1], args[2], "seq_cst", "seq_cst")
        return builder.extract_value(result, 1)

    return types.boolean(p, types.int64, types.int64), codegen


@intrinsic
def _call(typingctx, entry, shared, me, job):
    """Run an entry: call the C function at that address (compile.Entry)."""

    def codegen(context, builder, sig, args):
        pointer = I64.as_pointer()
        function = ir.FunctionType(ir.VoidType(), [pointer] * 4).as_pointer()
        _, shared, me, job = args
        job = builder.inttoptr(job, pointer)
        builder.call(builder.inttoptr(args[0], function), [shared, me, job, job])
        return context.get_dummy_value()

    return types.void(types.int64, shared, me, types.int64), codegen


_MACHINE = platform.machine().lower()


@intrinsic
def spin_hint(typingctx):
    """Tell the core that this is a waiting loop."""

    def codegen(context, builder, sig, args):
        if _MACHINE in ("arm64", "aarch64"):
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint"), [ir.IntType(32)(1)])
        else:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


if os.name == "posix":
    _sched_yield = types.ExternalFunction("sched_yield", types.int32())
    _clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, Pointer(types.int64)))
    _MONOTONIC = time.CLOCK_MONOTONIC

    @jit
    def _yield_core():
        """Let another thread have this core: the one waited for may need it."""
        _sched_yield()

    @jit
    def _nanoseconds(line):
        """The time on a steady clock; `line` is room to write it to."""
        _clock_gettime(_MONOTONIC, line)
        return line[0] * 1_000_000_000 + line[1]
else:

    @jit
    def _yield_core():
        """Windows gives a spinning thread's core away by itself at the end of its time slice."""

    @jit
    def _nanoseconds(line):
        """Without a clock every look at it ends the spinning."""
        line[0] += 2 * AWAKE_NS
        return line[0]


_FUTEX_CALLS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221}
_FUTEX = _FUTEX_CALLS.get(_MACHINE) if sys.platform == "linux" else None
"""The number of Linux's system call, on machines whose int64 begins with its low half, which is what a futex is."""

if _FUTEX is not None:
    _syscall = types.ExternalFunction("syscall", types.int64(*[types.int64, Pointer(types.int64)], *[types.int64] * 5))
    _WAIT, _WAKE = 128, 129  # FUTEX_WAIT and FUTEX_WAKE among the threads of one process

    @jit
    def _sleep(shared, number):
        """Sleep while the run number is this one; False where only Python can."""
        atomic_add(shared + ASLEEP * LINE, 1)
        _syscall(_FUTEX, shared + RUN * LINE, _WAIT, number, 0, 0, 0)
        atomic_add(shared + ASLEEP * LINE, -1)
        return True

    @jit
    def _wake(shared):
        """Wake all who sleep."""
        _syscall(_FUTEX, shared + RUN * LINE, _WAKE, MAX_THREADS, 0, 0, 0)
else:

    @jit
    def _sleep(shared, number):
        """Workers sleep in Python."""
        return False

    @jit
    def _wake(shared):
        """And are woken there."""


@jit
def _wait_until(counter, target):
    """Spin until the counter has grown to `target`."""
    spins = 0
    while atomic_load(counter) < target:
        spin_hint()
        spins += 1
        if spins % SPINS_BEFORE_YIELD == 0:
            _yield_core()


@jit
def _private_length(size):
    """Whole cache lines of one member's own counters."""
    return -(-(BASES + size) // LINE) * LINE


@jit
def _private(shared, size, rank):
    """A member's own counters, all zero but rank and size; they lie behind the shared ones."""
    me = shared + ((CLAIMS + size) * LINE + rank * _private_length(size))
    for index in range(BASES + size):
        me[index] = 0
    me[RANK] = rank
    me[SIZE] = size
    return me


@jit
def claim(shared, me, chunks):
    """The next chunk of this phase for this member, or -1 when all are claimed."""
    size = me[SIZE]
    if size == 1:
        chunk = me[MINE]
        if chunk == chunks:
            return -1
        me[MINE] = chunk + 1
        return chunk
    for turn in range(size):
        owner = (me[RANK] + turn) % size
        first, after = chunks * owner // size, chunks * (owner + 1) // size
        counter = shared + (CLAIMS + owner) * LINE
        limit = me[BASES + owner] + after - first
        while True:
            claimed = atomic_load(counter)
            if claimed >= limit:
                break
            if atomic_replace(counter, claimed, claimed + 1):
                me[MINE] += 1
                return first + claimed - me[BASES + owner]
    return -1


@jit
def move_on(shared, me, chunks):
    """Be ready for the next phase, whose `finish` waits for its chunks too: all are claimed, not all done."""
    size = me[SIZE]
    mine = me[MINE]
    me[MINE] = 0
    if size == 1:
        return
    me[TARGET] += chunks
    for owner in range(size):
        me[BASES + owner] += chunks * (owner + 1) // size - chunks * owner // size
    if mine:
        atomic_add(shared + DONE * LINE, mine)


@jit
def finish(shared, me, chunks):
    """Wait until every chunk of this phase is done, then be ready for the next phase."""
    move_on(shared, me, chunks)
    if me[SIZE] > 1:
        _wait_until(shared + DONE * LINE, me[TARGET])


@jit
def _next_run(shared, seen):
    """The number of an open run other than `seen`; 0 when the worker is to leave compiled code."""
    clock = _own_line()
    clock[0] = began = spins = 0
    while True:
        number = atomic_load(shared + RUN * LINE)
        if number % 2 == 1 and number != seen:
            return number
        if atomic_load(shared + OVER * LINE) != 0:
            return 0
        spin_hint()
        spins += 1
        if spins % SPINS_BEFORE_CLOCK == 0:
            _yield_core()
            now = _nanoseconds(clock)
            if began == 0:
                began = now
            elif now - began > AWAKE_NS:
                if not _sleep(shared, number):
                    return 0
                began = 0


@called
def _serve(team, rank):
    """A worker's life; back when the team is over or, where it cannot sleep in compiled code, when it would."""
    shared = int64_at(team)
    seen = 0
    while True:
        number = _next_run(shared, seen)
        if number == 0:
            return
        atomic_add(shared + ENTERED * LINE, 1)
        seen = atomic_load(shared + RUN * LINE)  # from here on an open run stays open until this member has left
        if seen % 2 == 1:
            job = shared + JOB * LINE
            if rank < job[2]:
                _call(job[0], shared, _private(shared, job[2], rank), job[1])
        atomic_add(shared + LEFT * LINE, 1)


@jit
def _alone(entry, job):
    """A run of one member, without the team's memory."""
    me = _own_line()
    for index in range(LINE):
        me[index] = 0
    me[SIZE] = 1
    _call(entry, me, me, job)


@jit
def _worth_waking(shared, is_long):
    """Whether sleeping workers are worth their waking: for a long run, or where runs follow one another closely."""
    clock = _own_line()
    clock[0] = 0
    last = shared + (OVER * LINE + 1)
    before, last[0] = last[0], _nanoseconds(clock)
    return is_long or atomic_load(shared + ASLEEP * LINE) == 0 or last[0] - before < AWAKE_NS


@jit
def conducted(team, entry, job, size, is_long):
    """Run an entry with up to `size` members, the caller being member 0; gives how many they are.

    `team`, an address, and `size` are those that `members` gave; `is_long` says that sleepers are to be woken.
    """
    shared = int64_at(team)
    if size == 1 or not atomic_replace(shared + TAKEN * LINE, 0, 1):
        _alone(entry, job)
        return 1
    if not _worth_waking(shared, is_long):
        atomic_replace(shared + TAKEN * LINE, 1, 0)
        _alone(entry, job)
        return 1
    (shared + JOB * LINE)[0], (shared + JOB * LINE)[1], (shared + JOB * LINE)[2] = entry, job, size
    for line in range(DONE, CLAIMS + size):
        (shared + line * LINE)[0] = 0
    atomic_add(shared + RUN * LINE, 1)
    if atomic_load(shared + ASLEEP * LINE) > 0:
        _wake(shared)
    _call(entry, shared, _private(shared, size, 0), job)
    atomic_add(shared + RUN * LINE, 1)
    _wait_until(shared + LEFT * LINE, atomic_load(shared + ENTERED * LINE))
    atomic_replace(shared + TAKEN * LINE, 1, 0)
    return size


@called
def _conduct(team, entry, job, size, is_long):
    return conducted(team, entry, job, size, is_long)


@called
def _dismiss(team):
    """Tell the workers that the team is over."""
    shared = int64_at(team)
    atomic_add(shared + OVER * LINE, 1)
    atomic_add(shared + RUN * LINE, 2)
    _wake(shared)


PARALLEL_FLOPS, PARALLEL_STEP = 2_000_000, 200_000
"""FLOPs of a call, and of each of its steps, below which meeting (0.2 us a phase) costs too much."""

PARALLEL_BYTES = cache_bytes("L2") // 2
"""Bytes that a call reads from which on it is shared however few its FLOPs: a member's part may then lie in its L2."""

LONG_FLOPS = 8_000_000
"""FLOPs of a call, about 40 us, from which on sleeping workers are woken for it alone."""


def threads_for(step_flops: int, steps: int = 1) -> int:
    """Threads for a call of so many steps of so much work."""
    enough = step_flops >= PARALLEL_STEP and step_flops * steps >= PARALLEL_FLOPS
    return get_num_threads() if enough else 1


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
        _serve(self._team, self._rank)
        while not self.is_over:
            self._bell.acquire()
            _serve(self._team, self._rank)

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
        _serve.compile((types.int64, types.int64))
        _dismiss.compile((types.int64,))
        length = (CLAIMS + size) * LINE + size * _private_length.py_func(size)
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
        _dismiss(self.address)
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


def run(
    entry: Entry, dtype: np.dtype, job: Sequence[int], step_flops: int, steps: int = 1, most: int = MAX_THREADS
) -> None:
    """Run `entry` for elements of `dtype` on this job; back when it is done.

    `job` are the entry's integers. A call does `steps` times `step_flops`; at most `most` threads share it.
    """
    numbers = array("q", job)
    conduct(
        entry.address(dtype), numbers.buffer_info()[0], min(threads_for(step_flops, steps), most), step_flops * steps
    )


def conduct(entry: int, job: int, threads: int, flops: int) -> int:
    """Run the entry at this address, on a job at that address, on up to so many threads; gives how many it were."""
    team, size = members(threads)
    return _conduct(team, entry, job, size, flops >= LONG_FLOPS)


def members(threads: int) -> tuple[int, int]:
    """The address of a team and how many of it may run, up to so many threads: (0, 1) for the caller alone."""
    team = _team_of(threads) if threads > 1 else None
    if team is None:
        return 0, 1
    if _current_core is not None:
        team.keep_off(_current_core(), os.sched_getaffinity(0))
    if _FUTEX is None:
        for worker in team.workers:
            worker.wake()
    return team.address, min(threads, len(team.workers) + 1)
