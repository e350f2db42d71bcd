"""matmul: out = a @ b, a.T @ b, a @ b.T and a.T @ b.T, over all backends."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts import LAYOUTS, WRITABLE_LAYOUTS, Canary
from rulings import (
    assert_bounded,
    assert_no_worse,
    assert_same_bits,
    assert_same_special_values,
    small_integers,
    with_special_values,
)

import fastmlp
from fastmlp.kernels import matmul, reference
from fastmlp.kernels.contract import OPERATIONS

SHAPES = [
    (1, 1, 1),
    (1, 45, 46),
    (45, 1, 46),
    (46, 45, 1),
    (13, 14, 15),
    (15, 16, 17),
    (31, 32, 33),
    (33, 100, 47),
    (100, 257, 46),
    (257, 46, 100),
    (64, 64, 64),
    (3, 5000, 5),
]
TRANSPOSES = [(False, False), (True, False), (False, True), (True, True)]


COPIED = [
    (30, 1024, 300, False),  # rows of A a multiple of 4 KiB apart
    (37, 2048, 256, False),
    (301, 1024, 270, False),  # and together beyond an L2 of 1 MiB
    (150, 4096, 260, False),
    (1030, 1030, 300, True),  # columns of A over 2 KiB apart
    (2051, 515, 257, True),
    (47, 300, 100, False),  # B alone, its last panel apart
    (36, 40000, 70, False),  # sums so deep that a panel of B is not kept whole
    (40, 10000, 300, False),  # and so deep that they are cut into slabs
    (530, 3000, 270, True),
]
"""Products of which the CPU's kernels copy A on the way in float32, with AVX-512's panels, and the latter in float64
too, or B; and more."""


def stored(a, transpose):
    return np.ascontiguousarray(a.T) if transpose else a


def run(backend, a, b, out, transposes):
    backend.matmul(stored(a, transposes[0]), stored(b, transposes[1]), out, *transposes)
    return out


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_exact_on_small_integers(backend, dtype, rng, canary, shape, transposes):
    n, k, m = shape
    a, b = small_integers(rng, (n, k), dtype), small_integers(rng, (k, m), dtype)
    out = run(backend, a, b, canary((n, m), dtype), transposes)
    np.testing.assert_array_equal(out, a.astype(np.int64) @ b.astype(np.int64))


@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("product", COPIED)
def test_exact_where_operands_are_copied(backend, dtype, rng, canary, product, transpose_b):
    n, k, m, transpose_a = product
    a, b = small_integers(rng, (n, k), dtype), small_integers(rng, (k, m), dtype)
    out = run(backend, a, b, canary((n, m), dtype), (transpose_a, transpose_b))
    np.testing.assert_array_equal(out, a.astype(np.float64) @ b.astype(np.float64))


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize(
    "shape", [(1, 300, 700), (33, 40, 768), (121, 300, 577), (600, 512, 512), (700, 1400, 257), (70, 10000, 300)]
)
def test_the_same_bits_on_any_number_of_threads(dtype, rng, shape, transposes):
    """Chunks are cut for so many threads; no sum may depend on where."""
    n, k, m = shape
    a, b = (
        stored(rng.normal(size=(n, k)).astype(dtype), transposes[0]),
        stored(rng.normal(size=(k, m)).astype(dtype), transposes[1]),
    )
    results = []
    for threads in (1, 2, 3, 8):
        with fastmlp.num_threads(threads):
            results.append(matmul(a, b, transpose_a=transposes[0], transpose_b=transposes[1], backend="cpu"))
    for other in results[1:]:
        assert_same_bits(other, results[0])


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_within_the_contracts_bound(backend, dtype, rng, canary, shape, transposes):
    n, k, m = shape
    a, b = rng.normal(size=(n, k)).astype(dtype), rng.normal(size=(k, m)).astype(dtype)
    out = run(backend, a, b, canary((n, m), dtype, offset=1), transposes)
    a64, b64 = a.astype(np.longdouble), b.astype(np.longdouble)
    assert_bounded(out, a64 @ b64, OPERATIONS["matmul"].error_factor, k, abs(a64) @ abs(b64))


@pytest.mark.parametrize("transposes", TRANSPOSES)
@pytest.mark.parametrize("shape", [(100, 257, 46), (257, 46, 100), (45, 5000, 46)])
def test_no_worse_than_numpy(backend, dtype, rng, shape, transposes):
    n, k, m = shape
    a, b = rng.normal(size=(n, k)).astype(dtype), rng.normal(size=(k, m)).astype(dtype)
    out = run(backend, a, b, np.empty((n, m), dtype), transposes)
    assert_no_worse(out, a @ b, a.astype(np.longdouble) @ b.astype(np.longdouble))


@pytest.mark.parametrize("transposes", TRANSPOSES)
def test_nan_and_inf_land_where_the_reference_has_them(backend, dtype, rng, transposes):
    a, b = with_special_values(rng, (45, 46), dtype), small_integers(rng, (46, 33), dtype)
    out, expected = np.empty((45, 33), dtype), np.empty((45, 33), dtype)
    assert_same_special_values(run(backend, a, b, out, transposes), run(reference, a, b, expected, transposes))
    assert np.isnan(expected).any()


def test_subnormal_numbers_survive(backend, dtype):
    tiny = np.finfo(dtype).smallest_subnormal
    a, out = np.full((17, 1), 3 * tiny, dtype), np.empty((17, 19), dtype)
    backend.matmul(a, np.ones((1, 19), dtype), out)
    assert (out == 3 * tiny).all()


@pytest.mark.parametrize("transposes", TRANSPOSES)
def test_same_bits_from_run_to_run(backend, dtype, rng, transposes):
    a, b = rng.normal(size=(100, 257)).astype(dtype), rng.normal(size=(257, 46)).astype(dtype)
    first, second = (run(backend, a, b, np.empty((100, 46), dtype), transposes) for _ in range(2))
    assert_same_bits(first, second)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 40),
    k=st.integers(0, 40),
    m=st.integers(0, 40),
    transposes=st.sampled_from(TRANSPOSES),
    offset=st.integers(0, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_shape_at_any_place(backend, dtype, n, k, m, transposes, offset, seed):
    rng = np.random.default_rng(seed)
    a, b = small_integers(rng, (n, k), dtype), small_integers(rng, (k, m), dtype)
    out = Canary((n, m), dtype, offset)
    run(backend, a, b, out.array, transposes)
    np.testing.assert_array_equal(out.array, a @ b)
    out.check()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_gives_the_same_bits(backend_name, dtype, rng, layout):
    a, b = rng.normal(size=(46, 45)).astype(dtype), rng.normal(size=(45, 17)).astype(dtype)
    expected = matmul(a, b, backend=backend_name)
    change = LAYOUTS[layout]
    assert_same_bits(matmul(change(a), b, backend=backend_name), expected)
    assert_same_bits(matmul(a, change(b), backend=backend_name), expected)
    assert_same_bits(matmul(change(a.T), change(b.T), transpose_a=True, transpose_b=True, backend=backend_name),
                     matmul(np.ascontiguousarray(a.T), np.ascontiguousarray(b.T), transpose_a=True, transpose_b=True,
                            backend=backend_name))  # fmt: skip


@pytest.mark.parametrize("layout", WRITABLE_LAYOUTS)
def test_out_may_have_any_layout(backend_name, dtype, rng, layout):
    a, b = rng.normal(size=(46, 45)).astype(dtype), rng.normal(size=(45, 17)).astype(dtype)
    out = WRITABLE_LAYOUTS[layout](np.zeros((46, 17), dtype))
    untouched = None if out.base is None or layout != "strided" else out.base.copy()
    assert matmul(a, b, out, backend=backend_name) is out
    np.testing.assert_array_equal(out, matmul(a, b, backend=backend_name))
    if untouched is not None:
        untouched[::2, ::2] = out
        np.testing.assert_array_equal(out.base, untouched)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0), (0, 0, 0)])
def test_empty_dimensions_as_numpy(backend_name, dtype, shape):
    n, k, m = shape
    out = matmul(np.ones((n, k), dtype), np.ones((k, m), dtype), backend=backend_name)
    np.testing.assert_array_equal(out, np.zeros((n, m)))
    assert out.dtype == dtype


A, B = np.ones((3, 4), np.float32), np.ones((4, 5), np.float32)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((A, A), fastmlp.ShapeError, ["inner", "4", "3", "(3, 4)"]),
        ((A[0], B), fastmlp.ShapeError, ["a ", "2 dimensions", "(4,)"]),
        ((A, B.astype(np.float64)), fastmlp.DTypeError, ["b ", "float32", "float64", "astype"]),
        ((A.astype(int), B), fastmlp.DTypeError, ["a ", "int64", "astype"]),
        ((A.tolist(), B), fastmlp.DTypeError, ["a ", "list", "asarray"]),
        ((A, B, np.ones((3, 4), np.float32)), fastmlp.ShapeError, ["out", "(3, 5)", "(3, 4)"]),
        ((A, B, np.ones((3, 5))), fastmlp.DTypeError, ["out", "float32", "float64"]),
    ],
)
def test_bad_input_is_named(arguments, error, words):
    with pytest.raises(error) as caught:
        matmul(*arguments, backend="numpy")
    for word in words:
        assert word in str(caught.value)


def test_an_overlapping_out_is_refused_and_nothing_written():
    square = np.arange(16, dtype=np.float32).reshape(4, 4)
    before = square.copy()
    with pytest.raises(fastmlp.ArgumentError, match="out overlaps b"):
        matmul(np.ones((4, 4), np.float32), square, square[::-1], backend="numpy")
    np.testing.assert_array_equal(square, before)
