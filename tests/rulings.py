"""DESIGN's rulings on numbers, as assertions shared by the tests of all operations."""

import numpy as np


def small_integers(rng, shape, dtype):
    return rng.integers(-3, 4, shape).astype(dtype)


def assert_bounded(got, exact, factor, length, magnitude, absolute=0.0):
    """|got - exact| <= factor * length * eps * magnitude + absolute, elementwise, with the contract's constants."""
    bound = factor * max(length, 1) * np.finfo(got.dtype).eps * magnitude + absolute
    error = np.abs(got.astype(np.float64) - exact)
    assert (error <= bound).all(), f"error up to {np.max(error / bound):.3g} times the bound"


def assert_no_worse(got, numpy_own, exact, quantile=1.0):
    """Largest and root mean square error at most twice those of plain NumPy in the same dtype.

    Through a whole network the very largest error is luck: the same arithmetic in another order changes it twofold, and
    its 99.9 % quantile by some percent. There `quantile` is 0.999.
    """
    error, own = (np.abs(a.astype(np.float64) - exact) for a in (got, numpy_own))
    largest, own_largest = (np.quantile(a.astype(np.float64), quantile) for a in (error, own))
    assert largest <= 2 * own_largest, f"largest error {largest:.3g}, NumPy's own {own_largest:.3g}"
    error, own = (np.sqrt(np.mean(a**2)) for a in (error, own))
    assert error <= 2 * own, f"RMS error {error:.3g}, NumPy's own {own:.3g}"


def assert_same_special_values(got, expected):
    """NaN, Inf and -Inf in the same places."""
    for kind in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(kind(got), kind(expected), err_msg=kind.__name__)


def assert_same_bits(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


def with_special_values(rng, shape, dtype):
    """Small integers, zeros among them, with NaN, Inf and -Inf sprinkled in."""
    a = small_integers(rng, shape, dtype)
    where = rng.random(shape)
    for i, special in enumerate((np.nan, np.inf, -np.inf)):
        a[(where > 0.02 * i) & (where < 0.02 * (i + 1))] = special
    return a
