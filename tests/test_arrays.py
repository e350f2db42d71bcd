"""The customs desk: what passes untouched, what is copied, what is converted, and what is refused in which words."""

import numpy as np
import pytest
import scipy.sparse
from layouts import LAYOUTS, misaligned, strided
from networks import network

import fastmlp
from fastmlp.kernels import arrays, bias_add

F32, F64 = np.dtype(np.float32), np.dtype(np.float64)


class OnTheGPU:
    """Anything with the CUDA array interface, as CuPy's arrays have."""

    __cuda_array_interface__ = {"shape": (2, 3), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


def test_what_fits_passes_as_it_is():
    x = np.ones((5, 3), np.float32)
    assert arrays.as_samples("x", x, 3, F32) is x
    assert arrays.as_operand("x", x) is x
    assert arrays.as_target("t", x, 5, network((2, 3), "relu", "mse", F32)) is x
    labels = np.zeros(5, np.int64)
    assert arrays.as_target("t", labels, 5, network((2, 3), "relu", "cross_entropy", F32)).base is labels
    assert arrays.as_output("out", x, (5, 3), F32, {}) is x


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_are_copied(layout):
    x = np.arange(15, dtype=np.float32).reshape(5, 3)
    for passed in (arrays.as_samples("x", LAYOUTS[layout](x), 3, F32), arrays.as_operand("x", LAYOUTS[layout](x))):
        np.testing.assert_array_equal(passed, x)
        assert passed.flags.c_contiguous
        assert passed.flags.aligned


@pytest.mark.parametrize(
    "value",
    [
        [[1, 2], [3, 4]],
        ((True, False), (False, True)),
        np.array([[1, 2], [3, 4]], np.uint8),
        np.array([[1, 2], [3, 4]], np.int64),
        np.array([[1, 2], [3, 4]], np.float16),
        np.array([[1, 2], [3, 4]], ">f8"),
        np.array([[1, 2], [3, 4]], np.longdouble),
        np.matrix([[1, 2], [3, 4]]),
    ],
)
@pytest.mark.parametrize("dtype", [F32, F64])
def test_samples_of_any_real_kind_are_converted(value, dtype):
    x = arrays.as_samples("x", value, 2, dtype)
    assert type(x) is np.ndarray
    assert x.dtype == dtype
    np.testing.assert_array_equal(x, np.asarray(value))


def test_floats_are_rounded_to_nearest_and_specials_kept():
    x = arrays.as_samples("x", np.array([[0.1, np.nan, np.inf, -np.inf, 1e-60]]), 5, F32)
    np.testing.assert_array_equal(x, np.array([[0.1, np.nan, np.inf, -np.inf, 0]], np.float32))


@pytest.mark.parametrize(
    ("value", "dtype", "exact"),
    [
        (2**24, F32, True),
        (2**24 + 1, F32, False),
        (-(2**24) - 1, F32, False),
        (2**40, F32, True),
        (2**62 + 2**40, F32, True),
        (-(2**63), F32, True),
        (2**53 + 1, F64, False),
        (2**53 + 2, F64, True),
        (0, F32, True),
    ],
)
def test_integers_pass_only_if_held_exactly(value, dtype, exact):
    x = np.array([[0, 1, value]], np.int64)
    if exact:
        assert int(arrays.as_samples("x", x, 3, dtype)[0, 2]) == value
    else:
        with pytest.raises(fastmlp.DTypeError, match=rf"x\[0, 2\] is {value}, which {dtype} cannot hold"):
            arrays.as_samples("x", x, 3, dtype)
    unsigned = np.array([[2**64 - 1]], np.uint64)
    with pytest.raises(fastmlp.DTypeError, match="18446744073709551615"):
        arrays.as_samples("x", unsigned, 1, dtype)


def test_a_float_beyond_the_range_is_refused_by_place():
    with pytest.raises(fastmlp.DTypeError, match=r"x\[1, 0\] is 1e\+300, which float32 cannot hold"):
        arrays.as_samples("x", np.array([[np.inf], [1e300]]), 1, F32)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (np.ones((2, 3), complex), fastmlp.DTypeError, "complex128.*x.real"),
        (np.ones((2, 3), object), fastmlp.DTypeError, "object.*astype"),
        ([["a", "b", "c"]], fastmlp.DTypeError, "booleans, integers or floats; got dtype <U1"),
        (np.zeros((2, 3), "M8[s]"), fastmlp.DTypeError, "datetime64"),
        (np.ma.masked_array(np.ones((2, 3)), np.eye(2, 3)), fastmlp.DTypeError, r"masked.*x\.filled\(0\)"),
        (scipy.sparse.csr_matrix(np.eye(3)), fastmlp.DTypeError, r"sparse.*x\.toarray\(\)"),
        (scipy.sparse.coo_array(np.eye(3)), fastmlp.DTypeError, r"sparse.*x\.toarray\(\)"),
        (OnTheGPU(), fastmlp.ArgumentError, r"GPU array.*net\.to\(.cuda.\).*x\.get\(\)"),
        ([[1, 2, 3], [4, 5]], fastmlp.ShapeError, "rectangular"),
        (None, fastmlp.DTypeError, "NoneType"),
        (3.0, fastmlp.ShapeError, r"got \(\)"),
        (np.ones((2, 4)), fastmlp.ShapeError, r"x must have shape \(n, 3\), one row a sample; got \(2, 4\)"),
        (np.ones(3), fastmlp.ShapeError, r"got \(3,\). For one sample pass x\[None, :\]"),
        (np.ones((2, 3, 1)), fastmlp.ShapeError, r"got \(2, 3, 1\)"),
        ([], fastmlp.ShapeError, r"got \(0,\)"),
    ],
)
def test_samples_refused(value, error, message):
    with pytest.raises(error, match=message):
        arrays.as_samples("x", value, 3, F32)


def test_a_column_is_hinted_at_for_a_network_of_one_input():
    with pytest.raises(fastmlp.ShapeError, match=r"x\[:, None\]"):
        arrays.as_samples("x", np.ones(7), 1, F32)
    assert arrays.as_samples("x", np.ones((0, 3)), 3, F32).shape == (0, 3)


@pytest.mark.parametrize("value", [OnTheGPU(), np.ma.masked_array(np.ones((2, 3))), scipy.sparse.csr_matrix((2, 3))])
def test_operations_refuse_foreign_arrays_too(value):
    with pytest.raises(fastmlp.FastMLPError, match="x is a "):
        bias_add(value, np.ones(3), backend="numpy")


VALUES = network((4, 3), "identity", "mse", F32)
ONE = network((4, 1), "identity", "half_mse", F32)
CLASSES = network((4, 3), "identity", "cross_entropy", F32)
ONE_CLASS = network((4, 1), "identity", "cross_entropy", F32)
BINARY = network((4, 1), "identity", "binary_cross_entropy", F32)


@pytest.mark.parametrize(
    ("net", "value", "expected"),
    [
        (VALUES, [[1, 2, 3], [4, 5, 6]], np.array([[1, 2, 3], [4, 5, 6]], np.float32)),
        (ONE, [1.5, 2], np.array([[1.5], [2]], np.float32)),
        (BINARY, [True, False], np.array([[1], [0]], np.float32)),
        (CLASSES, [2, 0], np.array([2, 0], np.int64)),
        (CLASSES, np.array([[2], [0]], np.uint8), np.array([2, 0], np.int64)),
        (CLASSES, np.array([2, 9, 0])[::2], np.array([2, 0], np.int64)),
        (CLASSES, [[0, 0, 1], [1, 0, 0]], np.array([[0, 0, 1], [1, 0, 0]], np.float32)),
        (CLASSES, [[0.5, 0.25, 0.25], [0, 0.9996, 0]], np.array([[0.5, 0.25, 0.25], [0, 0.9996, 0]], np.float32)),
    ],
)
def test_targets(net, value, expected):
    target = arrays.as_target("t", value, 2, net)
    assert target.dtype == expected.dtype
    assert target.flags.c_contiguous
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize(
    ("net", "value", "error", "message"),
    [
        (
            VALUES,
            [[1, 2, np.nan], [4, 5, 6]],
            fastmlp.ArgumentError,
            r"t must be finite; the element at \[0, 2\] is nan",
        ),
        (VALUES, [[1, 2, 3], [-np.inf, 5, 6]], fastmlp.ArgumentError, r"finite; the element at \[1, 0\] is -inf"),
        (VALUES, [1, 2], fastmlp.ShapeError, r"t must have shape \(2, 3\); got \(2,\)"),
        (VALUES, np.ones((3, 3)), fastmlp.ShapeError, r"t must have shape \(2, 3\); got \(3, 3\)"),
        (ONE, [1, 2, 3], fastmlp.ShapeError, r"t must have shape \(2, 1\), or \(2,\); got \(3, 1\)"),
        (VALUES, np.ones((2, 3), complex), fastmlp.DTypeError, "complex"),
        (BINARY, [0.5, 1.5], fastmlp.ArgumentError, r"probabilities from 0 to 1; the element at \[1, 0\] is 1.5"),
        (BINARY, [0.5, -0.5], fastmlp.ArgumentError, r"from 0 to 1; the element at \[1, 0\] is -0.5"),
        (BINARY, [0.5, np.nan], fastmlp.ArgumentError, "must be finite"),
        (CLASSES, [0, 3], fastmlp.ArgumentError, r"labels from 0 to 2; the label at \[1\] is 3"),
        (CLASSES, [-1, 0], fastmlp.ArgumentError, r"labels from 0 to 2; the label at \[0\] is -1"),
        (CLASSES, [0, 1, 2], fastmlp.ShapeError, r"2 labels.*\(3,\)"),
        (CLASSES, [0.0, 1.0], fastmlp.DTypeError, r"integer labels; got float64.*astype\(np.int64\).*\(2, 3\)"),
        (CLASSES, [True, False], fastmlp.DTypeError, "integer labels; got bool"),
        (CLASSES, [[0.5, 0.5, 0.5], [1, 0, 0]], fastmlp.ArgumentError, r"add up to 1.*row \[0\] is 1.5"),
        (CLASSES, [[1, 0, 0], [1.5, -0.5, 0]], fastmlp.ArgumentError, r"from 0 to 1; the element at \[1, 0\] is 1.5"),
        (CLASSES, np.ones((2, 2)), fastmlp.ShapeError, r"\(2, 3\), or 2 integer labels; got \(2, 2\)"),
        (ONE_CLASS, [0, 0], fastmlp.ArgumentError, "at least two outputs.*binary_cross_entropy"),
    ],
)
def test_targets_refused(net, value, error, message):
    with pytest.raises(error, match=message):
        arrays.as_target("t", value, 2, net)


def test_huge_finite_targets_are_finite():
    huge = np.full((2, 3), 3e38, np.float32)
    np.testing.assert_array_equal(arrays.as_target("t", huge, 2, VALUES), huge)


def test_no_targets():
    for net, value in ((VALUES, np.ones((0, 3))), (CLASSES, np.ones(0, int)), (BINARY, np.ones(0))):
        assert len(arrays.as_target("t", value, 0, net)) == 0


def test_outputs_refused():
    base = np.zeros((6, 6), np.float32)
    good = base[:5, :3]
    for out, inputs, error, message in [
        (good.tolist(), {}, fastmlp.DTypeError, "out must be a NumPy array; got list"),
        (good.astype(np.float64), {}, fastmlp.DTypeError, "out must have dtype float32.*got float64"),
        (base, {}, fastmlp.ShapeError, r"out must have shape \(5, 3\); got \(6, 6\)"),
        (LAYOUTS["read_only"](good), {}, fastmlp.ArgumentError, "out is read-only"),
        (good, {"x": base}, fastmlp.ArgumentError, r"out overlaps x.*x\.copy\(\)"),
        (good, {"x": good}, fastmlp.ArgumentError, "out overlaps x"),
        (good, {"x": base.reshape(-1)[::-1][:4]}, None, ""),
        (base[:5, 0:6:2], {"x": base[:5, 1:6:2]}, None, ""),
    ]:
        if error is None:
            arrays.as_output("out", out, (5, 3), F32, inputs)
        else:
            with pytest.raises(error, match=message):
                arrays.as_output("out", out, (5, 3), F32, inputs)


def test_outputs_that_share_their_own_memory_are_refused():
    base = np.zeros(20, np.float32)
    repeated = np.lib.stride_tricks.as_strided(base, (5, 3), (0, 4))
    sliding = np.lib.stride_tricks.as_strided(base, (5, 3), (4, 4))
    for out in (repeated, sliding):
        with pytest.raises(fastmlp.ArgumentError, match="elements that share memory"):
            arrays.as_output("out", out, (5, 3), F32, {})
    for out in (base[:15].reshape(3, 5).T, base[::-1][:15].reshape(5, 3), strided(np.ones((5, 3), np.float32))):
        arrays.as_output("out", out, (5, 3), F32, {})


def test_an_overlap_too_hard_to_decide_counts_as_one():
    base = np.zeros(192163377, np.int8)  # never touched, so never in memory; the hard pair of NumPy's own tests
    a = np.lib.stride_tricks.as_strided(base, (1049, 1049, 1049), (36674, 61119, 85569))
    b = np.lib.stride_tricks.as_strided(base[64023025:], (1049, 1049, 1), (12223, 12224, 1))
    with pytest.raises(np.exceptions.TooHardError):
        np.shares_memory(a, b, max_work=arrays._OVERLAP_WORK)
    assert arrays._overlap(a, b)


def test_exactly_the_named_input_may_be_the_output():
    x = np.zeros((5, 3), np.float32)
    assert arrays.as_output("out", x, (5, 3), F32, {"x": x[:]}, may_be="x") is x
    with pytest.raises(fastmlp.ArgumentError, match="overlaps x"):
        arrays.as_output("out", x[::-1], (5, 3), F32, {"x": x}, may_be="x")


def test_what_was_written_to_a_copy_is_delivered():
    out = misaligned(np.zeros((5, 3), np.float32))
    written = arrays.as_output("out", out, (5, 3), F32, {})
    assert written is not out
    written[...] = 7
    arrays.deliver(out, written)
    assert (out == 7).all()


@pytest.mark.parametrize("value", ["float32", np.float32, F32, "f4", "<f4"])
def test_dtypes(value):
    assert arrays.as_network_dtype("dtype", value) == "float32"


@pytest.mark.parametrize("value", ["float8", int, None, "floaty", 3, "float33"])
def test_dtypes_refused(value):
    with pytest.raises(
        fastmlp.ArgumentError, match="dtype must be one of 'float32', 'float64', 'bfloat16', 'float16'; got"
    ):
        arrays.as_network_dtype("dtype", value)


def test_whole_numbers():
    assert arrays.as_integer("n", np.int32(3)) == 3
    assert arrays.as_integer("n", 0, minimum=0) == 0
    for value in (0, -1, True, 3.0, "3", None, np.nan):
        with pytest.raises(fastmlp.ArgumentError, match="n must be an integer of at least 1; got"):
            arrays.as_integer("n", value)


def test_real_numbers():
    assert arrays.as_real("r", np.float32(0.5)) == 0.5
    assert arrays.as_real("r", 0) == 0.0
    for value in (np.nan, np.inf, -1e-9, 1e39, True, "1", None, 1j, 10**400):
        with pytest.raises(
            fastmlp.ArgumentError, match=r"r must be a finite number at least 0 and at most 3\.4.*; got"
        ):
            arrays.as_real("r", value)
    with pytest.raises(fastmlp.ArgumentError, match="r must be a finite number at least 0 and below 1; got 1"):
        arrays.as_real("r", 1, high=1.0, below=True)
