"""The team: threads that run one compiled function together.

Every member runs the same function over the same phases. A phase is cut into chunks by shape alone; members claim
chunks, first from their own share and then from the others', so a member that comes late, or not at all, costs time but
never correctness, and no result depends on who computed what. All counters only grow, so none is ever reset between
phases.

The threads are Python threads parked on a lock outside compiled code. They vanish in a forked child, which starts its
own when it first needs them; a caller that finds the team busy (another thread, a nested call) runs alone.

Shared counters, one cache line each (int64 x 8): 0 chunks done, 1 opened by member 0, 2 closed, 3 entered, 4 left,
5 + r chunks claimed of member r's share. A member's private counters: 0 rank, 1 size, 2 chunks done when this phase is
over, 3 chunks this member did in this phase, 4 + r chunks claimed of r's share before this phase.
"""

import contextlib
import ctypes
import os
import platform
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.errors import ArgumentError

from ..cores import usable_cores
from .compile import jit

LINE = 8
DONE, OPENED, CLOSED, ENTERED, LEFT, CLAIMS = 0, 1, 2, 3, 4, 5
RANK, SIZE, TARGET, MINE, BASES = 0, 1, 2, 3, 4

MAX_THREADS = 256
SPINS_BEFORE_YIELD = 4096


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


_ARM = platform.machine().lower() in ("arm64", "aarch64")


@intrinsic
def spin_hint(typingctx):
    """Tell the core that this is a waiting loop."""

    def codegen(context, builder, sig, args):
        if _ARM:
            kind = ir.FunctionType(ir.VoidType(), [ir.IntType(32)])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint"), [ir.IntType(32)(1)])
        else:
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


if os.name == "posix":
    _sched_yield = types.ExternalFunction("sched_yield", types.int32())

    @jit
    def _yield_core():
        """Let another thread have this core: the one waited for may need it."""
        _sched_yield()
else:

    @jit
    def _yield_core():
        """Windows gives a spinning thread's core away by itself at the end of its time slice."""


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
    """Whole cache lines of one member's private counters."""
    return -(-(BASES + size) // LINE) * LINE


@jit
def private(shared, size, rank):
    """A member's private counters, all zero but rank and size; they lie behind the shared ones."""
    me = shared + ((CLAIMS + size) * LINE + rank * _private_length(size))
    for index in range(BASES + size):
        me[index] = 0
    me[RANK] = rank
    me[SIZE] = size
    return me


@jit
def enter(shared, me):
    """Join the run; False where it is over already and nothing may be touched."""
    if me[RANK] == 0:
        atomic_add(shared + OPENED * LINE, 1)
        return True
    atomic_add(shared + ENTERED * LINE, 1)
    _wait_until(shared + OPENED * LINE, 1)
    return atomic_load(shared + CLOSED * LINE) == 0


@jit
def leave(shared, me):
    """The last act of every member; member 0 returns only when nobody else is inside."""
    if me[RANK] != 0:
        atomic_add(shared + LEFT * LINE, 1)
    elif me[SIZE] > 1:
        atomic_add(shared + CLOSED * LINE, 1)
        _wait_until(shared + LEFT * LINE, atomic_load(shared + ENTERED * LINE))


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
def finish(shared, me, chunks):
    """Wait until every chunk of this phase is done, then be ready for the next phase."""
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
    _wait_until(shared + DONE * LINE, me[TARGET])


_chosen_threads: int | None = None


def get_num_threads() -> int:
    """Threads a large enough call uses: as set, else FASTMLP_NUM_THREADS, else every core this process may use."""
    if _chosen_threads is not None:
        return _chosen_threads
    asked = os.environ.get("FASTMLP_NUM_THREADS")
    if not asked:
        return min(usable_cores(), MAX_THREADS)
    return _checked_count("FASTMLP_NUM_THREADS", int(asked) if asked.isdecimal() else asked)


def set_num_threads(count: int | None) -> None:
    """Use `count` threads from now on; None goes back to the default. No bit of any result depends on it.

    Raises ArgumentError unless count is None or an integer from 1 to 256.
    """
    global _chosen_threads
    _chosen_threads = None if count is None else _checked_count("count", count)


PARALLEL_FLOPS, PARALLEL_STEP = 8_000_000, 2_000_000
"""FLOPs of a call, and of each of its steps, below which waking (10 us) and meeting (1 us a phase) cost too much."""


def threads_for(step_flops: int, steps: int = 1) -> int:
    """Threads for a call of so many steps of so much work."""
    enough = step_flops >= PARALLEL_STEP and step_flops * steps >= PARALLEL_FLOPS
    return get_num_threads() if enough else 1


def _checked_count(name: str, count: object) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= MAX_THREADS:
        raise ArgumentError(f"{name} must be an integer from 1 to {MAX_THREADS}; got {count!r}")
    return count


class _Worker:
    """One parked thread of the team."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.job: tuple[Any, tuple[Any, ...]] | None = None
        self.pending = False
        self.cores: set[int] = set()
        self.wake = threading.Lock()
        self.wake.acquire()
        self.thread = threading.Thread(target=self._serve, name=f"fastmlp-{rank}", daemon=True)
        self.thread.start()

    def start(self, job: tuple[Any, tuple[Any, ...]], cores: set[int]) -> None:
        """Hand over a run, on these cores if any; one not yet begun is replaced: its caller has finished it alone."""
        if cores and cores != self.cores and self.thread.native_id is not None:
            with contextlib.suppress(OSError):  # a core may just have been taken away
                os.sched_setaffinity(self.thread.native_id, cores)
            self.cores = cores
        self.job = job
        if not self.pending:
            self.pending = True
            self.wake.release()

    def _serve(self) -> None:
        while True:
            self.wake.acquire()
            self.pending = False
            job, self.job = self.job, None
            if job is not None:
                function, arguments = job
                function(*arguments, self.rank)
                del job, function, arguments


class _Team:
    def __init__(self) -> None:
        self.busy = threading.Lock()
        self.workers: list[_Worker] = []


_team = _Team()


def _forget_team() -> None:
    """In a forked child: its parent's threads do not exist here."""
    global _team
    _team = _Team()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_team)


_current_core = ctypes.CDLL(None).sched_getcpu if sys.platform == "linux" else None


def _other_cores() -> set[int]:
    """The cores this thread may use but the one it runs on; none where the system does not say.

    Linux tends to wake a thread on its caller's core and to leave it there for as long as a short call lasts, while
    another core idles.
    """
    if _current_core is None:
        return set()
    allowed = os.sched_getaffinity(0)
    return allowed - {_current_core()} or allowed


@contextlib.contextmanager
def _hold(team: _Team, wanted: int) -> Iterator[int]:
    """The team for one run: `wanted` members, or 1 where it is busy."""
    if wanted == 1 or not team.busy.acquire(blocking=False):
        yield 1
        return
    try:
        with contextlib.suppress(RuntimeError):  # the system grants no more threads
            while len(team.workers) < wanted - 1:
                team.workers.append(_Worker(len(team.workers) + 1))
        yield min(wanted, len(team.workers) + 1)
    finally:
        team.busy.release()


def run(function: Any, arguments: tuple[Any, ...], wanted: int) -> None:
    """Call `function(*arguments, shared, size, rank)` on up to `wanted` (and 256) threads at once; back when done.

    `shared` is an int64 array for the functions above. The caller is member 0.
    """
    team = _team
    with _hold(team, min(wanted, MAX_THREADS)) as size:
        shared = np.zeros((CLAIMS + size) * LINE + size * _private_length.py_func(size), np.int64)
        everything = (*arguments, shared, size)
        try:
            cores = _other_cores() if size > 1 else set()
            for worker in team.workers[: size - 1]:
                worker.start((function, everything), cores)
            function(*everything, 0)
        finally:
            shared[CLOSED * LINE] = shared[OPENED * LINE] = 1
