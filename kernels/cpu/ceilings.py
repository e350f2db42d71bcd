"""What this machine reaches at most, measured in place: multiply-adds in registers, and reading a buffer."""

import time
from array import array
from collections.abc import Callable
from functools import cache

import numpy as np

from ..cores import get_num_threads
from ..network import aligned_zeros
from .activations import IDENTITY, floor_of
from .compile import Entry, entry
from .product import PANEL, TALL, micro_kernel
from .simd import VECTOR_BYTES, lanes, load, pointer_at, splat, store
from .team import LONG_FLOPS, RANK, claim, conduct, finish
from .workspace import address

CHUNKS = 64
"""Pieces of a probe; the team shares them."""

PROBES = 5
"""Runs of a probe after a warm-up. The fastest counts: a ceiling is what nothing else disturbed."""

PROBE_SECONDS = 0.004
"""How long one run lasts, for each of the threads."""

LEAST_BYTES, MOST_BYTES = 1 << 19, 1 << 28
"""Sizes of buffer between which reading is measured: inside L2, in pieces that pay to claim, to beyond any cache."""


@entry
def _multiply_adds(shared, me, like, registers, depth):
    a = pointer_at(registers, like)
    width = PANEL * lanes(a)
    b, c = a + width, a + (2 + me[RANK] * TALL) * width
    chunk = claim(shared, me, CHUNKS)
    while chunk >= 0:
        micro_kernel(depth, a, 1, 0, b, 0, width, b, 0, c, width, floor_of(IDENTITY, c))
        chunk = claim(shared, me, CHUNKS)
    finish(shared, me, CHUNKS)


@entry
def _read(shared, me, like, buffer, size, results, repeats):
    part, count = size // CHUNKS, lanes(like)
    for _ in range(repeats):
        chunk = claim(shared, me, CHUNKS)
        while chunk >= 0:
            start = pointer_at(buffer, like) + chunk * part
            zero = splat(like, 0.0)
            first, second, third, fourth = zero, zero, zero, zero
            for j in range(0, part - 4 * count + 1, 4 * count):
                first += load(start + j)
                second += load(start + (j + count))
                third += load(start + (j + 2 * count))
                fourth += load(start + (j + 3 * count))
            store(pointer_at(results, like) + chunk * count, (first + second) + (third + fourth))
            chunk = claim(shared, me, CHUNKS)
        finish(shared, me, CHUNKS)


def _best_rate(call: Callable[[int], None], work: float) -> float:
    """Work a second of call(amount), whose one unit does `work`; the amount grows until a call lasts PROBE_SECONDS."""
    amount = 1
    while True:
        call(amount)
        began = time.perf_counter()
        call(amount)
        if time.perf_counter() - began >= PROBE_SECONDS:
            break
        amount *= 2
    seconds = []
    for _ in range(PROBES):
        began = time.perf_counter()
        call(amount)
        seconds.append(time.perf_counter() - began)
    return amount * work / min(seconds)


def _run(entry: Entry, dtype: np.dtype, threads: int, *job: int) -> None:
    """On just so many threads, however little it is."""
    numbers = array("q", job)
    conduct(entry.address(dtype), numbers.buffer_info()[0], threads, LONG_FLOPS)


@cache
def _measured(dtype: np.dtype, size: int, threads: int) -> tuple[float, float]:
    count = VECTOR_BYTES // dtype.itemsize
    registers = aligned_zeros((2 + threads * TALL) * PANEL * count, dtype)
    flops = _best_rate(
        lambda depth: _run(_multiply_adds, dtype, threads, address(registers), 256 * depth),
        2.0 * CHUNKS * 256 * TALL * PANEL * count,
    )
    part = max(size // dtype.itemsize // CHUNKS // (4 * count), 1) * 4 * count
    buffer, results = aligned_zeros(CHUNKS * part, dtype), aligned_zeros(CHUNKS * count, dtype)
    buffer[...] = 1
    bandwidth = _best_rate(
        lambda repeats: _run(_read, dtype, threads, address(buffer), buffer.size, address(results), repeats),
        float(buffer.nbytes),
    )
    return flops, bandwidth


def ceilings(dtype: np.dtype, working_set: int, threads: int | None = None) -> tuple[float, float]:
    """(FLOP/s, bytes/s): multiply-adds on registers, and reading a buffer of about `working_set` bytes.

    On `threads` threads, or as many as get_num_threads says. Measured once a process for each power of two of the
    working set, in about 0.1 s.
    """
    size = 1 << (min(max(working_set, LEAST_BYTES), MOST_BYTES) - 1).bit_length()
    return _measured(np.dtype(dtype), size, threads or get_num_threads())
