"""AMX's kernels without AMX: modelled, run as they are, and read.

Modelled is the same code with each tile instruction done on memory. Run as it is, the machine code's tile instructions
are done where the processor refuses them (tile_host.cpp). Each takes a process of its own, which runs this file as a
program: what multiplies is chosen once a process. Numbers are those of tdpbf16ps as Intel's manual has it, bit for bit;
none of this has run on a processor with AMX.
"""

import errno
import importlib
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import guarded
import llvmlite.binding as llvm
import numpy as np
import pytest
import tile_host
from host_compiler import COMPILER
from rulings import assert_same_bits

from fastmlp.kernels.cpu import amx, squares, tiles, units
from fastmlp.kernels.cpu.packing import Shape
from fastmlp.kernels.cpu.workspace import Products

ROOT = Path(__file__).resolve().parents[1]
FEATURES = llvm.get_host_cpu_features()
IS_WIDE = bool(FEATURES.get("avx512f") and FEATURES.get("avx512dq"))

needs_wide_registers = pytest.mark.skipif(not IS_WIDE, reason="this CPU cannot compute in registers of 64 bytes")

SHAPES = [(1, 1, 1), (5, 3, 2), (17, 31, 16), (33, 70, 47), (100, 300, 33), (27, 9, 1), (1, 40, 31), (130, 1300, 550)]
"""One tile and less, tails of a tile and of two, in rows, columns and depth, three visits to C, more than a chunk."""


def start(program, **settings):
    split = {"FASTMLP_HIGH": "split", "FASTMLP_HIGHEST": "split"}
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = os.environ | {"PYTHONPATH": paths, "FASTMLP_BFLOAT16": "modelled"} | split | settings
    return subprocess.Popen(
        [sys.executable, "-W", "error", *program], env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process):
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


def normal(x):
    """Zeros of the same sign for what is subnormal."""
    return np.where(abs(x) < np.float32(2.0**-126), np.copysign(np.float32(0), x), x)


def modelled_product(a, b):
    """A @ b of float32 arrays that hold bfloat16: what tdpbf16ps makes of blocks of 32 along the sum, one by one.

    A product of two bfloat16 is exact in float32 unless it is subnormal, so that a fused multiply-add is one rounding.
    """
    depth = -(-a.shape[1] // 32) * 32
    a = np.pad(normal(a), ((0, 0), (0, depth - a.shape[1])))
    b = np.pad(normal(b), ((0, depth - b.shape[0]), (0, 0)))
    total = np.zeros((a.shape[0], b.shape[1]), np.float32)
    for block in range(0, depth, 32):
        sums = [np.zeros_like(total) for _ in range(2)]
        for k in range(block, block + 32):
            sums[k % 2] = normal(sums[k % 2] + a[:, k : k + 1] * b[k])
        total = normal(total + normal(sums[0] + sums[1]))
    return total


def check_products():
    """Every layout and tail, rounded and split, up to the last bit; and nothing beyond the arrays is touched."""
    from fastmlp.kernels import cpu
    from fastmlp.kernels.contract import HIGHEST_ERROR
    from fastmlp.kernels.reference.rounding import rounded
    from fastmlp.kernels.reference.splitting import split

    rng = np.random.default_rng(20264)
    for n, k, m in SHAPES:
        a, b = rng.standard_normal((n, k), dtype=np.float32), rng.standard_normal((k, m), dtype=np.float32)
        if n == 100:
            a *= np.float32(2.0**-60)
            b *= np.float32(2.0**-62)  # products about as small as normal numbers are
        expected = modelled_product(rounded(a), rounded(b))
        for transpose_a in (False, True):
            for transpose_b in (False, True):
                stored_a = np.ascontiguousarray(a.T if transpose_a else a)
                stored_b = np.ascontiguousarray(b.T if transpose_b else b)
                ends = guarded.ending(stored_a), guarded.ending(stored_b)
                out = guarded.ending(np.full((n, m), np.nan, np.float32))
                cpu.matmul(*ends, out, transpose_a, transpose_b, 1)
                # + 0.0: the sums are added to a start of zero, which makes -0.0 positive
                assert_same_bits(out, expected + np.float32(0))
                if n != 100:
                    parts = [np.empty_like(x) for x in (a, a, b, b)]
                    split(a, *parts[:2])
                    split(b, *parts[2:])
                    a_high, a_low, b_high, b_low = (x.astype(np.float64) for x in parts)
                    exact = a_high @ b_high + a_high @ b_low + a_low @ b_high
                    cpu.matmul(*ends, out, transpose_a, transpose_b, 2)
                    assert (abs(out - exact) <= 3 * k * np.finfo(np.float32).eps * (abs(a) @ abs(b))).all()
                    cpu.matmul(*ends, out, transpose_a, transpose_b)
                    exact = a.astype(np.float64) @ b.astype(np.float64)
                    bound = HIGHEST_ERROR + k * np.finfo(np.float32).eps
                    assert (abs(out - exact) <= bound * (abs(a) @ abs(b))).all()


def check_networks():
    """Forward and backward, reading and writing nothing beyond the arrays."""
    from test_vector_widths import check_bfloat16

    from fastmlp.kernels import cpu

    check_bfloat16(cpu, np.random.default_rng(20265))


def check_few_rows():
    """They are multiplied by registers, each member copying what it needs to its own room and nowhere else."""
    import fastmlp

    rng = np.random.default_rng(20266)
    for choice in ({"dtype": "bfloat16"}, {"precision": "high"}):
        net = fastmlp.MLP((3000, 3000, 3000), backend="cpu", **choice)
        for rows in (1, 4, 8):
            assert np.isfinite(net.predict(rng.standard_normal((rows, 3000), dtype=np.float32))).all()


def check_probe():
    """What the probe of the tiles' peak counts is what it does."""
    from fastmlp.kernels.cpu import amx
    from fastmlp.kernels.network import aligned_zeros

    ceilings = importlib.import_module("fastmlp.kernels.cpu.ceilings")
    rng, size = np.random.default_rng(1), 4 * amx.EDGE**2
    start_, out = aligned_zeros(size, np.float32), aligned_zeros(size, np.float32)
    halves = rng.integers(-3, 4, 2 * size).astype(np.float32)
    start_.view(np.uint16)[:] = halves.view(np.uint32) >> 16
    rounds = 3
    job = start_.ctypes.data, out.ctypes.data, size, rounds
    ceilings._run(ceilings._tiles, np.dtype(np.float32), 1, *job)
    tiles = halves.reshape(4, amx.EDGE, amx.EDGE, 2)
    for index, got in enumerate(out.reshape(4, amx.EDGE, amx.EDGE)):
        a, b = tiles[index // 2], tiles[2 + index % 2]
        np.testing.assert_array_equal(got, rounds * np.einsum("mkp,knp->mn", a, b))
    assert 4 * 2 * amx.EDGE * amx.EDGE * tiles.shape[2] * 2 == amx.ROUND_FLOPS
    assert ceilings.TILE_UNIT not in ceilings.CpuProbes().units("bfloat16"), "a model's rate is no ceiling"


def multiply_once():
    """One product, by one thread, of two tiles' height, three panels' width and eight tiles' depth."""
    from fastmlp.kernels import cpu

    a, b = (np.ones(shape, np.float32) for shape in ((32, 256), (256, 96)))
    cpu.matmul(a, b, np.empty((32, 96), np.float32), parts=1)


def print_machine_code():
    """The assembly of a whole entry as a processor with AMX would run it."""
    from fastmlp.kernels.cpu import amx

    matmul = importlib.import_module("fastmlp.kernels.cpu.matmul")
    amx.UNIT = "amx"
    entry = matmul._matmul_in_pairs.in_parts(2)
    entry.address(np.dtype(np.float32))
    print(entry._compiled["f"]._library.get_asm_str())


@guarded.needs_mprotect
@needs_wide_registers
def test_networks_are_exact_and_keep_within_their_arrays():
    assert finish(start([__file__, "check_networks"])) == (0, "")


@guarded.needs_mprotect
@needs_wide_registers
def test_products_are_the_models_to_the_last_bit():
    assert finish(start([__file__, "check_products"])) == (0, "")


@needs_wide_registers
def test_a_few_rows_of_a_wide_network_overrun_nothing():
    assert finish(start([__file__, "check_few_rows"])) == (0, "")


@needs_wide_registers
def test_the_probe_does_what_it_counts():
    assert finish(start([__file__, "check_probe"])) == (0, "")


@needs_wide_registers
def test_the_tests_of_bfloat16_and_of_split_operands_pass_on_tiles():
    """Whole networks forward and backward, bounds, special values, threads; those of formats and arguments apart."""
    chosen = "single or exact or bound or rounds or splits or threads or nan or parts or worse or near or relu"
    files = [f"tests/test_{name}.py" for name in ("bfloat16", "precision", "highest")]
    said = finish(start(["-m", "pytest", "-q", "-k", chosen, *files]))
    assert said[0] == 0, said[1]


@pytest.fixture(scope="module")
def run_machine_code(tmp_path_factory):
    """What starts a program with AMX's code, waits for it and returns (status, output, how often it did what)."""
    if sys.platform != "linux" or platform.machine() != "x86_64" or not IS_WIDE:
        pytest.skip("tiles are done for programs of Linux, x86-64, with registers of 64 bytes")
    if FEATURES.get("amx-tile"):
        pytest.skip("this processor does AMX's instructions itself")
    if COMPILER is None:
        pytest.skip("needs a C++ compiler, g++ or clang++")
    folder = tmp_path_factory.mktemp("host")
    library, counts = tile_host.compiled(folder), folder / "counts"

    def run(*program):
        settings = {"LD_PRELOAD": library, "FASTMLP_TILE_COUNTS": counts, "FASTMLP_CACHE_DIR": folder / "cache"}
        settings = {name: str(value) for name, value in settings.items()} | {"FASTMLP_BFLOAT16": "amx"}
        counts.unlink(missing_ok=True)
        status, said = finish(start(program, **settings))
        lines = counts.read_text().splitlines() if counts.exists() else ()
        return status, said, {name: int(count) for name, count in map(str.split, lines)}

    return run


@pytest.mark.parametrize("check", ["check_products", "check_networks"])
def test_machine_code_of_amx_gives_the_models_numbers(run_machine_code, check):
    """It comes with tiles whose rows are cache lines, configured and released by every thread: tile_host.cpp looks."""
    status, said, counts = run_machine_code(tile_host.__file__, "test_tiles", check)
    assert (status, said) == (0, "")
    assert counts["ldtilecfg"] == counts["tilerelease"] > 0
    assert counts["tdpbf16ps"] > 1000


def test_machine_code_of_amx_passes_tests_of_whole_networks(run_machine_code):
    options = ["-p", "tile_host", "-p", "no:faulthandler", "-k", "exact or (bfloat16 and threads)"]
    files = [f"tests/test_{name}.py" for name in ("bfloat16", "precision", "highest")]
    status, said, counts = run_machine_code("-m", "pytest", "-q", *options, *files)
    assert status == 0, said
    assert counts["ldtilecfg"] == counts["tilerelease"]
    assert counts["tdpbf16ps"] > 1000


def test_a_product_takes_no_more_instructions_than_it_must(run_machine_code):
    """Of 2 x 6 tiles, in three blocks of four, each 8 steps deep."""
    status, said, counts = run_machine_code(tile_host.__file__, "test_tiles", "multiply_once")
    assert (status, said) == (0, "")
    assert counts == {
        "ldtilecfg": 1, "tilerelease": 1, "tilezero": 12, "tileloadd": 3 * 8 * 4, "tilestored": 12,
        "tdpbf16ps": 12 * 8,
    }  # fmt: skip


@pytest.fixture(scope="module")
def assembly(tmp_path_factory):
    if not IS_WIDE or units.UNIT == "modelled":
        pytest.skip("this CPU cannot compute in registers of 64 bytes")
    folder = tmp_path_factory.mktemp("cache")  # code for another processor must not be found by anyone
    settings = {"NUMBA_CPU_NAME": "sapphirerapids", "NUMBA_CPU_FEATURES": "", "FASTMLP_CACHE_DIR": str(folder)}
    status, said = finish(start([__file__, "print_machine_code"], **settings))
    assert status == 0, said
    return [line.strip() for line in said.splitlines()]


def loops_of_tiles(lines):
    """The loops over k: from a label to the jump back to it, with tile products inside and no other label."""
    labels, found = {}, []
    for number, line in enumerate(lines):
        if match := re.fullmatch(r"(\.\w+):", line):
            labels[match[1]] = number
        jump = re.fullmatch(r"j\w+\s+(\.\w+)", line)
        if jump and jump[1] in labels:
            body = lines[labels[jump[1]] : number]
            if any(each.startswith("tdpbf16ps") for each in body) and sum(each.endswith(":") for each in body) == 1:
                found.append(body)
    return found


def test_a_step_of_the_loop_over_k_loads_and_multiplies_tiles_and_nothing_else(assembly):
    shapes = set()
    for body in loops_of_tiles(assembly):
        products = [line for line in body if line.startswith("tdpbf16ps")]
        loads = [line for line in body if line.startswith("tileload")]
        totals = {line.rsplit("%", 1)[1] for line in products}
        assert not [line for line in body if line.startswith(("tilestore", "tilezero", "call", "vmov"))], "a spill"
        assert not totals & {line.rsplit("%", 1)[1] for line in loads}, "sums stay where they are"
        steps = len(products) // len(totals)
        shapes.add((len(totals), len(loads) // steps))
        assert len(products) == steps * len(totals)
    assert shapes == {(4, 4), (2, 3), (1, 2)}


def test_tiles_are_configured_once_at_the_start_and_released_at_the_end(assembly):
    """Of an entry: its member's whole run."""
    configured, released = (
        [number for number, line in enumerate(assembly) if line.startswith(name)]
        for name in ("ldtilecfg", "tilerelease")
    )
    assert len(configured) == len(released) == 1


def test_every_row_that_a_tile_loads_is_a_cache_line():
    """Rows of operands are 64 bytes apart, those of sums 128; here is where they begin."""
    assert squares.SIDE * 4 == 2 * amx.ROW_BYTES == 128
    for size in (tiles._SUMS, tiles._BLOCK, squares.panel_size.py_func(squares.whole.py_func(13), 2)):
        assert size * 4 % 64 == 0
    _, _, _, scratch = Products(np.dtype(np.float32), [Shape(100, 33)], 1).addresses
    assert scratch % 64 == 0


class FakeLibrary:
    """A C library whose system call grants or refuses, and notes what it was asked."""

    def __init__(self, status):
        self.status, self.calls = status, []

    def syscall(self, *numbers):
        self.calls.append(numbers)
        return self.status


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="AMX is asked for on Linux, x86-64"
)
@pytest.mark.parametrize(("status", "unit"), [(0, "amx"), (-1, "avx512")])
def test_the_tiles_are_asked_for_and_a_refusal_is_told(monkeypatch, status, unit):
    features = {**FEATURES, "amx-tile": True, "amx-bf16": True}
    library = FakeLibrary(status)
    monkeypatch.setattr(units.llvm, "get_host_cpu_features", lambda: features)
    monkeypatch.setattr(units.ctypes, "CDLL", lambda name, use_errno: library)
    monkeypatch.setattr(units.ctypes, "get_errno", lambda: errno.EPERM)
    monkeypatch.setattr(units, "VECTOR_BYTES", 64)
    reason = units._why_no_tiles()
    assert library.calls == [(158, 0x1023, 18)]
    assert (reason is None) == (unit == "amx")
    if reason is not None:
        assert "refuses AMX's tiles to this process (Operation not permitted)" in reason
    monkeypatch.setattr(units, "WHY_NO_TILES", reason)
    monkeypatch.setattr(units, "HAS_BFLOAT16", True)
    assert units._choose(None) == (unit, reason)
    assert units._choose("amx") == (unit, reason)
    features["amx-bf16"] = False
    assert units._why_no_tiles() == "this processor has no AMX"
    assert len(library.calls) == 1


def test_a_choice_that_cannot_be_is_a_backend_that_is_unavailable():
    """In a process that was told to take AMX, or the instruction, and has none: bfloat16 is refused, float32 runs."""
    program = (
        "import fastmlp\n"
        "fastmlp.MLP((4, 3), backend='cpu')\n"
        "try: fastmlp.MLP((4, 3), dtype='bfloat16', backend='cpu')\n"
        "except fastmlp.BackendUnavailable as error: print(error)"
    )
    for choice, settings in (("amx", {}), ("avx512", {"FASTMLP_VECTOR_BYTES": "16"})):
        if choice == "amx" and units.WHY_NO_TILES is None:
            continue
        status, said = finish(start(["-c", program], FASTMLP_BFLOAT16=choice, **settings))
        assert status == 0, said
        assert f"backend 'cpu' cannot multiply bfloat16 as told: FASTMLP_BFLOAT16 asks for {choice!r}, but this" in said


if __name__ == "__main__":
    globals()[sys.argv[1]]()
