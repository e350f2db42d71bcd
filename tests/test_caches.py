"""The machine's caches: read from the system, and what the kernels make of their sizes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastmlp.kernels import caches
from fastmlp.kernels.cpu import compile as compilation

ROOT = Path(__file__).resolve().parents[1]


def test_caches(tmp_path):
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "2048K"), ("3", "Unified", "32M")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    (tmp_path / "index4").mkdir()  # one that tells nothing
    assert caches.caches(tmp_path) == {"L1d": 48, "L1i": 32, "L2": 2048, "L3": 32768}


def test_where_nothing_is_told_the_usual_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(caches.platform, "system", lambda: "Linux")
    assert caches.caches(tmp_path / "absent") == {}
    monkeypatch.setattr(caches, "caches", lambda: {"L2": 512})
    assert caches.cache_bytes.__wrapped__("L2") == 512 * 1024
    assert caches.cache_bytes.__wrapped__("L3") == 32 * 1024 * 1024


PROGRAM = """
import numpy as np
import fastmlp
from fastmlp.kernels import caches
caches.caches = lambda: {sizes}
from fastmlp.kernels import matmul
from fastmlp.kernels.cpu import packing, product, team
rng = np.random.default_rng(0)
for n, k, m in ((1, 300, 700), (1, 1501, 903), (130, 600, 1100), (61, 1500, 900)):
    a, b = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((n, k), (k, m)))
    assert (matmul(a, b) == a @ b).all()
    assert (matmul(a, b.T.copy(), transpose_b=True) == a @ b).all()
# A whose rows lie a multiple of 4 KiB apart, and beyond L2 together.
for n, k, m in ((301, 1024, 300), (110, 3072, 300)):
    a, b = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((n, k), (k, m)))
    assert (matmul(a, b) == a @ b).all()
# Few rows of A, and a B that comes from memory where L3 is small.
for n, k, m in ((4, 700, 900), (12, 515, 1030), (31, 1100, 520)):
    a, b = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((n, k), (k, m)))
    assert (matmul(a, b) == a @ b).all()
# One column of columns of A; and one row, which is streamed where L3 is small, by any number of threads.
a, b = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((1500, 903), (1500, 1)))
assert (matmul(a, b, transpose_a=True) == a.T @ b).all()
a, b = (rng.standard_normal(shape).astype(np.float32) for shape in ((1, 1501), (1501, 1403)))
one, many = [], []
for threads, products in ((1, one), (2, many), (3, many)):
    with fastmlp.num_threads(threads):
        products += [matmul(a, b), matmul(a, b.T.copy(), transpose_b=True), matmul(b, a.T.copy(), transpose_a=True).T]
assert all((x == y).all() for x, y in zip(2 * one, many))
# A by columns far apart; then sums so deep that, where caches are small, not one panel of B is kept whole.
for n, k, m in ((1100, 2003, 300), (40, 9000, 300)):
    a, b = (rng.integers(-3, 4, shape).astype(np.float32) for shape in ((n, k), (k, m)))
    for transpose_b in (False, True):
        given = b.T.copy() if transpose_b else b
        assert (matmul(a.T.copy(), given, transpose_a=True, transpose_b=transpose_b) == a @ b).all()
is_copied = [packing.copying_a_pays.py_func(rows, 1024, 1024, 4, 1024, 1) for rows in (128, 4096)]
is_packed = [packing.packing_rows_pays.py_func(rows, 1024, 1024, 4) for rows in (3, 4)]
print(product.BLOCK_PANELS, packing.MOST_PACKED >> 20, team.PARALLEL_BYTES >> 10, *is_copied, *is_packed)
"""


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"L2": 256, "L3": 2048}, "4 1 128 True True False True"),
        ({}, "16 4 512 True True False False"),
        ({"L1d": 48}, "16 4 512 True False False False"),
        ({"L1d": 48, "L2": 4096, "L3": 2**20}, "16 16 2048 True False False False"),
    ],
)
def test_blocks_follow_the_caches_and_products_stay_right(sizes, expected, tmp_path):
    """With AVX-512's panels, whatever the machine."""
    variables = {"PYTHONPATH": str(ROOT), "FASTMLP_CACHE_DIR": str(tmp_path), "FASTMLP_VECTOR_BYTES": "64"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("{sizes}", repr(sizes))],
        env=os.environ | variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.stdout.strip(), done.stderr) == (expected, "")


def test_kernels_compiled_for_other_caches_are_not_used(monkeypatch):
    before = compilation._state_digest()
    monkeypatch.setattr(compilation, "cache_bytes", lambda name: 7)
    assert compilation._state_digest() != before
