"""Probes of this machine's ceilings: multiply-adds on registers of each width, and traffic to each memory."""

import functools
import math
import statistics
import time
from collections.abc import Callable

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from ..caches import USUAL_KIB, caches
from ..ceilings import Ceilings, Level
from ..contract import ALIGNMENT
from ..network import aligned_zeros
from .amx import EDGE, ROUND_FLOPS, configure_tiles, release_tiles, repeat_tiles
from .compile import Entry, entry, machine_file
from .direct import address
from .phases import RANK, claim, finish
from .simd import I64, VECTOR_BYTES, fma, lanes, load, pointer_at, splat, store, widest_register
from .team import LONG_FLOPS, conduct
from .units import UNIT, WHY_NO_TILES, may_split_highest

CHUNKS = 64
"""Pieces of a probe; the team shares them."""

PROBES = 7
"""Runs of a probe after a warm-up. The fastest counts: a ceiling is what nothing else disturbed."""

PROBE_SECONDS = 0.004
"""How long one run lasts at least."""

ASSEMBLE_SECONDS = 1.0

MEETINGS = 2000
"""Phases without work that one run is."""

CHAINS = 12
"""Sums in registers, each waiting for its own last multiply-add: 4 cycles times two units would do with 8, and with the
two factors 12 still fit the 16 registers of AVX2."""

DRAM_TIMES_CACHE, MOST_DRAM_BYTES = 4, 1 << 30
"""Main memory is probed with so many times what the caches hold (STREAM's rule), and with no more than this."""

WIDTHS = (64, 32, 16)
"""Bytes of a register: AVX-512, AVX2, and SSE2 or NEON."""

BFLOAT16_UNIT, TILE_UNIT = "vdpbf16ps", "tdpbf16ps"

SHARED = ("L3", "DRAM")
"""Memories that the cores share; the others each has for itself."""

STAGGER = 21
"""Cache lines that lie between two arrays besides their length: stores to one page offset hold up loads from it."""


def _chains(width: int, emit: Callable) -> Entry:
    """An entry that makes `depth` rounds of CHAINS multiply-adds in each chunk, on registers of `width` bytes.

    emit(builder, total, x, y) gives the LLVM value of total * x + y or, for two values a lane, of total + x . y.
    """

    @intrinsic
    def rounds(typingctx, depth, start, out):
        def codegen(context, builder, sig, args):
            element = ir.FloatType() if start.dtype.bitwidth == 32 else ir.DoubleType()
            vector = ir.VectorType(element, 8 * width // start.dtype.bitwidth)

            def at(base, index):
                return builder.gep(builder.bitcast(base, vector.as_pointer()), [I64(index)])

            x, y = (builder.load(at(args[1], index)) for index in range(2))
            totals = [cgutils.alloca_once(builder, vector) for _ in range(CHAINS)]
            for index, total in enumerate(totals):
                builder.store(builder.load(at(args[1], 2 + index)), total)
            with cgutils.for_range(builder, args[0]):
                for total in totals:
                    builder.store(emit(builder, builder.load(total), x, y), total)
            for index, total in enumerate(totals):
                builder.store(builder.load(total), at(args[2], index))
            return context.get_dummy_value()

        return types.void(depth, start, out), codegen

    def multiply_adds(shared, me, like, start, results, of_rank, depth):
        out = pointer_at(results, like) + me[RANK] * of_rank
        chunk = claim(shared, me, CHUNKS)
        while chunk >= 0:
            rounds(depth, pointer_at(start, like), out)
            chunk = claim(shared, me, CHUNKS)
        finish(shared, me, CHUNKS)

    multiply_adds.__qualname__ = f"multiply_adds_{emit.__name__.strip('_')}_{width}"  # its name in the cache
    return entry(multiply_adds)


def _fused(builder, total, x, y):
    kind = "f32" if total.type.element == ir.FloatType() else "f64"
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(total.type, [total.type] * 3), f"llvm.fma.v{total.type.count}{kind}"
    )
    return builder.call(function, [total, x, y])


class _BFloat(ir.Type):
    """LLVM's type of 16 bits that llvmlite has no name for."""

    def _to_string(self):
        return "bfloat"


_BFLOAT = _BFloat()


def _paired(builder, total, x, y):
    """AVX512_BF16: two products of bfloat16 for each float32 of the total."""
    pairs = ir.VectorType(_BFLOAT, 2 * total.type.count)
    kind = ir.FunctionType(total.type, [total.type, pairs, pairs])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512bf16.dpbf16ps.512")
    return builder.call(function, [total, builder.bitcast(x, pairs), builder.bitcast(y, pairs)])


@entry
def _read(shared, me, like, memory, apart, part, of_rank, of_chunk, passes, rounds):
    """Sum one array in parts: the chunk's own (`of_chunk` elements apart), or the member's own over and over."""
    count = lanes(like)
    for _ in range(rounds):
        chunk = claim(shared, me, CHUNKS)
        while chunk >= 0:
            start = pointer_at(memory, like) + (me[RANK] * of_rank + chunk * of_chunk)
            zero = splat(like, 0.0)
            first, second, third, fourth = zero, zero, zero, zero
            for _ in range(passes):
                for j in range(0, part, 4 * count):
                    first += load(start + j)
                    second += load(start + (j + count))
                    third += load(start + (j + 2 * count))
                    fourth += load(start + (j + 3 * count))
            store(pointer_at(memory, like) + (apart + me[RANK] * count), (first + second) + (third + fourth))
            chunk = claim(shared, me, CHUNKS)
        finish(shared, me, CHUNKS)


@entry
def _triad(shared, me, like, memory, apart, part, of_rank, of_chunk, passes, rounds):
    """STREAM's a = b + s c in parts, as `_read`; the three arrays begin `apart` elements from one another."""
    count = lanes(like)
    for _ in range(rounds):
        chunk = claim(shared, me, CHUNKS)
        while chunk >= 0:
            target = pointer_at(memory, like) + (me[RANK] * of_rank + chunk * of_chunk)
            first, second = target + apart, target + 2 * apart
            for _ in range(passes):
                for j in range(0, part, 4 * count):
                    for k in range(0, 4 * count, count):
                        store(target + (j + k), fma(load(second + (j + k)), 0.5, load(first + (j + k))))
            chunk = claim(shared, me, CHUNKS)
        finish(shared, me, CHUNKS)


@entry
def _meet(shared, me, like, rounds):
    """`rounds` phases of CHUNKS chunks in which there is nothing to do."""
    for _ in range(rounds):
        while claim(shared, me, CHUNKS) >= 0:
            pass
        finish(shared, me, CHUNKS)


@entry
def _tiles(shared, me, like, start, results, of_rank, rounds):
    """`rounds` times four products of tiles in each chunk."""
    chunk = claim(shared, me, CHUNKS)
    while chunk >= 0:
        configure_tiles()
        repeat_tiles(rounds, pointer_at(start, like), pointer_at(results, like) + me[RANK] * of_rank)
        release_tiles()
        chunk = claim(shared, me, CHUNKS)
    finish(shared, me, CHUNKS)


_FUSED = {width: _chains(width, _fused) for width in WIDTHS}
_PAIRED = _chains(64, _paired)


class CpuProbes:
    """How this processor is measured, on a team of threads; units are `64-byte registers` and the like."""

    def units(self, dtype: str) -> tuple[str, ...]:
        """Registers of every width that the processor has, the widest first; of bfloat16 its own instructions."""
        if dtype == "bfloat16":
            has_vectors = llvm.get_host_cpu_features().get("avx512bf16")
            return (TILE_UNIT,) * (UNIT == "amx") + (BFLOAT16_UNIT,) * bool(has_vectors)
        return tuple(_unit(width) for width in WIDTHS if width <= widest_register())

    def multiply_adds(self, dtype: str, unit: str, threads: int) -> float:
        """FLOP/s of CHAINS independent sums on each thread, or of the tiles' four."""
        if unit == TILE_UNIT:
            return _tile_rate(threads)
        kind = np.dtype(np.float64 if dtype == "float64" else np.float32)
        if dtype == "bfloat16":
            entry, width, each = _PAIRED, 64, 4
        else:
            width = next(width for width in WIDTHS if _unit(width) == unit)
            entry, each = _FUSED[width], 2
        count = width // kind.itemsize
        start, results = aligned_zeros((2 + CHAINS) * count, kind), aligned_zeros(threads * CHAINS * count, kind)
        start[:] = np.random.default_rng(0).uniform(0.5, 1, start.size)
        if dtype == "bfloat16":
            halves = start.view(np.uint16)
            halves[::2] = halves[1::2]  # two numbers of 16 bits in place of one of 32
        fixed = address(start), address(results), CHAINS * count
        _assemble(threads)
        return _best_rate(
            lambda depth: _run(entry, kind, threads, *fixed, 64 * depth), each * CHUNKS * 64 * CHAINS * count
        )

    def meeting(self, threads: int) -> float:
        """Seconds of a phase without work, the median of PROBES: they are lines of a cache that change hands."""
        _assemble(threads)
        kind = np.dtype(np.float32)
        times = [_seconds(lambda rounds: _run(_meet, kind, threads, rounds), MEETINGS) for _ in range(PROBES)]
        return statistics.median(times) / MEETINGS

    def levels(self, threads: int) -> tuple[Level, ...]:
        """Each cache, probed with the geometric mean of what it and the nearer ones hold; main memory beyond them."""
        sizes = caches() or USUAL_KIB
        found, nearer = [], 0
        for name in ("L1d", "L2", "L3"):
            capacity = sizes.get(name, 0) * 1024 * (1 if name in SHARED else threads)
            if capacity > nearer:
                probed = math.isqrt(nearer * capacity) if nearer else capacity // 2
                found.append(Level(name.removesuffix("d"), capacity, probed))
                nearer = capacity
        return (*found, Level("DRAM", math.inf, min(DRAM_TIMES_CACHE * nearer, MOST_DRAM_BYTES)))

    def traffic(self, level: Level, pattern: str, threads: int) -> float:
        """Bytes/s over float32 arrays: of a level that each core has for itself, every thread walks its own part."""
        arrays, kernel = (1, _read) if pattern == "read" else (3, _triad)
        kind, shared = np.dtype(np.float32), level.name in SHARED
        step, parts = 4 * VECTOR_BYTES // kind.itemsize, CHUNKS if shared else threads
        part = max(level.probed // (arrays * kind.itemsize * parts * step), 1) * step
        apart = parts * part + STAGGER * ALIGNMENT // kind.itemsize
        memory = aligned_zeros(arrays * apart + threads * step, kind)
        memory[:] = 1 / 3
        fixed = address(memory), apart, part, *((0, part) if shared else (part, 0))

        _assemble(threads)

        def walk(times: int) -> None:
            _run(kernel, kind, threads, *fixed, *((1, times) if shared else (times, 1)))

        return _best_rate(walk, float(arrays * kind.itemsize * part * CHUNKS))


def _tile_rate(threads: int) -> float:
    """FLOP/s of AMX's tiles on operands that they hold already."""
    kind, size = np.dtype(np.float32), 4 * EDGE * EDGE
    start, results = aligned_zeros(size, kind), aligned_zeros(threads * size, kind)
    numbers = np.random.default_rng(0).uniform(0.5, 1, 2 * size).astype(np.float32)
    start.view(np.uint16)[:] = numbers.view(np.uint16)[1::2]
    fixed = address(start), address(results), size
    _assemble(threads)
    return _best_rate(lambda rounds: _run(_tiles, kind, threads, *fixed, rounds), CHUNKS * ROUND_FLOPS)


def _assemble(threads: int) -> None:
    """Wait until every thread takes part, ASSEMBLE_SECONDS at most: one that was just made may be some time coming."""
    kind = np.dtype(np.float32)
    count = WIDTHS[-1] // kind.itemsize
    start, results = aligned_zeros((2 + CHAINS) * count, kind), aligned_zeros((threads, CHAINS * count), kind)
    start[:] = 1
    deadline = time.perf_counter() + ASSEMBLE_SECONDS
    while not results.all() and time.perf_counter() < deadline:
        _run(_FUSED[WIDTHS[-1]], kind, threads, address(start), address(results), CHAINS * count, 1024)


def _unit(width: int) -> str:
    return f"{width}-byte registers"


def _best_rate(call: Callable[[int], None], work: float) -> float:
    """Work a second of call(amount), whose one unit does `work`; the amount grows until a call lasts PROBE_SECONDS."""
    amount = 1
    call(amount)
    while (seconds := _seconds(call, amount)) < PROBE_SECONDS:
        amount = max(2 * amount, int(amount * PROBE_SECONDS / max(seconds, 1e-6)))
    return amount * work / min(_seconds(call, amount) for _ in range(PROBES))


def _seconds(call: Callable[[int], None], amount: int) -> float:
    began = time.perf_counter()
    call(amount)
    return time.perf_counter() - began


def _run(entry: Entry, dtype: np.dtype, threads: int, *job: int) -> None:
    """On just so many threads, however little it is."""
    conduct(entry.address(dtype), job, threads, LONG_FLOPS)


@functools.cache
def ceilings() -> Ceilings:
    """Those of this machine, kept from process to process."""
    missing = {}
    if not llvm.get_host_cpu_features().get("avx512bf16"):
        missing["bfloat16 registers"] = "not measured: this processor has no AVX512_BF16"
    if UNIT != "amx":
        missing["AMX"] = f"not measured: {WHY_NO_TILES or 'FASTMLP_BFLOAT16 asks for something else'}"
    terms = {"high": 3, "float32": 6} if may_split_highest() else {"high": 3}
    return Ceilings(CpuProbes(), machine_file("ceilings"), missing, terms)
