"""What members of the team do in compiled code: claim chunks, meet, wait for runs, open them.

The team's memory, in lines of the cache (8 int64): run number, odd while a run is open; the run's entry, job and size;
members entered; members left; workers asleep; whether a caller has the team; whether it is over, and when a caller last
came; chunks done; then for each member r the chunks claimed of its share. Behind them each member's own counters:
0 rank, 1 size, 2 chunks done when this phase is over, 3 chunks it did in this phase, 4 + r chunks claimed of r's share
before this phase. Within a run counters only grow, so none is reset between phases.
"""

import os
import platform
import sys
import time

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..cores import MAX_THREADS
from ..timeline import WAIT, WORK
from .compile import called, jit
from .direct import lock_python, stack_integers, unlock_python
from .simd import Pointer, call_at, int64_at
from .stamps import stamp, timed_at

LINE = 8
RUN, JOB, ENTERED, LEFT, ASLEEP, TAKEN, OVER, DONE, CLAIMS = range(9)
RANK, SIZE, TARGET, MINE, BASES = range(5)

SPINS_BEFORE_YIELD = 4096
SPINS_BEFORE_CLOCK = 64

AWAKE_NS = 100_000
"""How long a worker spins for the next run: longer than Python takes between two calls of a loop."""


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


@jit
def _call(entry, shared, me, job):
    """Run an entry: call the C function at that address (compile.Entry)."""
    call_at(entry, (shared, me, int64_at(job), int64_at(job)))


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


HAS_NANOSECONDS = os.name == "posix"
"""Whether `nanoseconds` is the time, and not only an end to spinning."""

if HAS_NANOSECONDS:
    _sched_yield = types.ExternalFunction("sched_yield", types.int32())
    _clock_gettime = types.ExternalFunction("clock_gettime", types.int32(types.int32, Pointer(types.int64)))
    _MONOTONIC = time.CLOCK_MONOTONIC

    @jit
    def _yield_core():
        """Let another thread have this core: the one waited for may need it."""
        _sched_yield()

    @jit
    def nanoseconds(line):
        """The time on a steady clock; `line` is room to write it to."""
        _clock_gettime(_MONOTONIC, line)
        return line[0] * 1_000_000_000 + line[1]
else:

    @jit
    def _yield_core():
        """Windows gives a spinning thread's core away by itself at the end of its time slice."""

    @jit
    def nanoseconds(line):
        """Without a clock every look at it ends the spinning."""
        line[0] += 2 * AWAKE_NS
        return line[0]


_FUTEX_CALLS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221}
FUTEX = _FUTEX_CALLS.get(_MACHINE) if sys.platform == "linux" else None
"""The number of Linux's system call, on machines whose int64 begins with its low half, which is what a futex is."""

if FUTEX is not None:
    _syscall = types.ExternalFunction("syscall", types.int64(*[types.int64, Pointer(types.int64)], *[types.int64] * 5))
    _WAIT, _WAKE = 128, 129  # FUTEX_WAIT and FUTEX_WAKE among the threads of one process

    @jit
    def _sleep(shared, number):
        """Sleep while the run number is this one; False where only Python can."""
        atomic_add(shared + ASLEEP * LINE, 1)
        _syscall(FUTEX, shared + RUN * LINE, _WAIT, number, 0, 0, 0)
        atomic_add(shared + ASLEEP * LINE, -1)
        return True

    @jit
    def _wake(shared):
        """Wake all who sleep."""
        _syscall(FUTEX, shared + RUN * LINE, _WAKE, MAX_THREADS, 0, 0, 0)
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
def private_length(size):
    """Whole cache lines of one member's own counters."""
    return -(-(BASES + size) // LINE) * LINE


@jit
def _private(shared, size, rank):
    """A member's own counters, all zero but rank and size; they lie behind the shared ones."""
    me = shared + ((CLAIMS + size) * LINE + rank * private_length(size))
    for index in range(BASES + size):
        me[index] = 0
    me[RANK] = rank
    me[SIZE] = size
    return me


@jit
def timed_member(me, job):
    """A member's counters, copied to where its events go: job[0] is the address for member 0, job[1] a row's size."""
    own = timed_at(job[0] + 8 * me[RANK] * job[1])
    for index in range(BASES + me[SIZE]):
        own[index] = me[index]
    return own


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
    stamp(me, WORK)
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
        stamp(me, WAIT)


@jit
def _next_run(shared, seen):
    """The number of an open run other than `seen`; 0 when the worker is to leave compiled code."""
    clock = stack_integers(LINE)
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
            now = nanoseconds(clock)
            if began == 0:
                began = now
            elif now - began > AWAKE_NS:
                if not _sleep(shared, number):
                    return 0
                began = 0


@called
def serve(team, rank):
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
    me = stack_integers(LINE)
    for index in range(LINE):
        me[index] = 0
    me[SIZE] = 1
    _call(entry, me, me, job)


@jit
def _worth_waking(shared, is_long):
    """Whether sleeping workers are worth their waking: for a long run, or where runs follow one another closely."""
    clock = stack_integers(LINE)
    clock[0] = 0
    last = shared + (OVER * LINE + 1)
    before, last[0] = last[0], nanoseconds(clock)
    return is_long or atomic_load(shared + ASLEEP * LINE) == 0 or last[0] - before < AWAKE_NS


@jit
def conducted(team, entry, job, size, is_long):
    """Run an entry with up to `size` members, the caller being member 0, from a direct function; gives how many.

    `team`, an address, and `size` are those that `members` gave; `is_long` says that sleepers are to be woken. The
    caller does without the global lock meanwhile.
    """
    lock = unlock_python()
    members = _conducted(team, entry, job, size, is_long)
    lock_python(lock)
    return members


@jit
def _conducted(team, entry, job, size, is_long):
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


RELEASE_FLOPS = 100_000
"""FLOPs of a call, about a microsecond, from which on a direct function lets other Python threads run."""


@jit
def conducted_alone(entry, job, flops):
    """Run an entry with the caller alone, from a direct function; a run of so many FLOPs without the global lock."""
    if flops < RELEASE_FLOPS:
        _alone(entry, job)
        return
    lock = unlock_python()
    _alone(entry, job)
    lock_python(lock)


@called
def dismiss(team):
    """Tell the workers that the team is over."""
    shared = int64_at(team)
    atomic_add(shared + OVER * LINE, 1)
    atomic_add(shared + RUN * LINE, 2)
    _wake(shared)
