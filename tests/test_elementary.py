"""exp, log, tanh, sigmoid, erf, softplus, sine and cosine of whole vectors: at most 2 units in the last place off."""

import functools

import numpy as np
import oracles
import pytest
from rulings import assert_same_bits
from vectors import each_vector, whole_vectors

from fastmlp.kernels.cpu import elementary

BOUND = 2.0
RANDOM = 60_000


def _log1p_exp_minus(x):
    return np.log1p(np.exp(-np.abs(x)))


EXACT = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sigmoid": lambda x: np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x))),
    "log1p_exp_minus": _log1p_exp_minus,
    "softplus": lambda x: np.maximum(x, 0) + _log1p_exp_minus(x),
    "erf": oracles.erf,
    "sin": np.sin,
    "cos": np.cos,
}
"""What each is in longdouble."""

REACH = {"float32": 110.0, "float64": 760.0}
"""Beyond this every function but sine and cosine is at its limit, or is its argument."""

SINE_END = {"float32": 1e4, "float64": 1e8}

AT_INFINITY = {
    "exp": (0, np.inf),
    "tanh": (-1, 1),
    "sigmoid": (0, 1),
    "log1p_exp_minus": (0, 0),
    "softplus": (0, np.inf),
    "erf": (-1, 1),
}
"""At -Inf and at Inf."""

needs_longdouble = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="no longdouble here that is wider than float64: nothing to judge by"
)


@functools.cache
def compiled(name):
    function = getattr(elementary, name)
    return each_vector(lambda x, _: function(x))


def evaluate(name, x):
    """The function of every element of x."""
    padded = whole_vectors(x)
    return compiled(name)(padded, padded)[: len(x)]


def neighbours(centres, dtype):
    """The numbers nearest to these, and some on either side."""
    centres = np.asarray(centres).astype(dtype)
    offsets = np.arange(-3, 4) * np.spacing(np.abs(centres))[:, None]
    return (centres[:, None] + offsets).astype(dtype).ravel()


def arguments(name, dtype, rng):
    """Every exponent, every scale that matters, and both sides of wherever a formula gives way to another."""
    bits = np.dtype(f"uint{8 * dtype.itemsize}")
    anywhere = rng.integers(0, np.iinfo(bits).max, RANDOM, bits, endpoint=True).view(dtype)
    anywhere = anywhere[np.isfinite(anywhere)]
    near = [rng.uniform(-scale, scale, RANDOM).astype(dtype) for scale in (1.2, 4, 12)]
    if name == "log":
        joints = neighbours((1, np.sqrt(0.5), np.sqrt(2), *np.ldexp(1.0, np.arange(-100, 100))), dtype)
        x = np.abs(np.concatenate((anywhere, *near, 1 + near[0] / 1000, joints)))
        return x[(x >= np.finfo(dtype).tiny) & (x < np.finfo(dtype).max / 2)]
    if name in ("sin", "cos"):
        end = SINE_END[dtype.name]
        turns = np.concatenate((np.arange(-20000, 20000), rng.integers(-(10**8), 10**8, RANDOM)))
        zeros = neighbours(turns * (oracles.PI / 2), dtype)
        x = np.concatenate((anywhere, *near, rng.uniform(-end, end, RANDOM).astype(dtype), zeros))
        return x[np.abs(x) <= end]
    reach, limits = REACH[dtype.name], np.finfo(dtype)
    reduced = np.arange(-1100, 1101) / 2 * np.log(np.longdouble(2))
    ends = np.log(np.array([limits.max, limits.tiny, limits.smallest_subnormal], np.longdouble))
    joints = neighbours((-1.0, -0.55, 0.55, 1.0, *reduced, *ends, *-ends), dtype)
    x = np.concatenate((anywhere, *near, rng.uniform(-reach, reach, 2 * RANDOM).astype(dtype), joints))
    return x[np.isfinite(x)]


def errors_in_ulp(got, exact):
    """|got - exact| in spacings of the rounded exact value; where that overflows, 0 for infinity and else infinity."""
    with np.errstate(over="ignore"):
        rounded = exact.astype(got.dtype)
    with np.errstate(invalid="ignore"):
        errors = np.abs(got - exact) / np.spacing(np.abs(rounded)).astype(np.longdouble)
    return np.where(np.isinf(rounded), np.where(got == rounded, 0, np.inf), errors)


@needs_longdouble
@pytest.mark.parametrize("name", EXACT)
def test_errors_are_at_most_two_units_in_the_last_place(name, dtype, rng):
    x = arguments(name, dtype, rng)
    with np.errstate(over="ignore", under="ignore"):
        exact = EXACT[name](x.astype(np.longdouble))
    errors = errors_in_ulp(evaluate(name, x), exact)
    worst = np.argmax(np.where(np.isnan(errors), np.inf, errors))
    assert errors[worst] <= BOUND, f"{name}({x[worst]!r}) is {errors[worst]:.4g} ulp off; {exact[worst]!r}"


@pytest.mark.parametrize("name", AT_INFINITY)
def test_infinities_give_the_limits_and_so_do_the_largest_numbers(name, dtype):
    largest = np.finfo(dtype).max
    at_end = AT_INFINITY[name]
    assert tuple(evaluate(name, np.array([-np.inf, np.inf], dtype))) == at_end
    finite_end = tuple(largest if end == np.inf and name == "softplus" else end for end in at_end)
    assert tuple(evaluate(name, np.array([-largest, largest], dtype))) == finite_end


@pytest.mark.parametrize("name", EXACT)
def test_nan_gives_nan_and_nothing_else_does(name, dtype):
    x = np.array([0.5, np.nan, 1.0, 3.0, -np.nan], dtype)
    np.testing.assert_array_equal(np.isnan(evaluate(name, x)), np.isnan(x))


@pytest.mark.parametrize("name", ["tanh", "erf", "sin"])
def test_odd_functions_are_odd_to_the_bit(name, dtype, rng):
    x = rng.normal(size=1000).astype(dtype) * 3
    x[:2] = 0, np.finfo(dtype).smallest_subnormal
    assert_same_bits(evaluate(name, -x), -evaluate(name, x))


@pytest.mark.parametrize("name", ["log1p_exp_minus", "cos"])
def test_even_functions_are_even_to_the_bit(name, dtype, rng):
    x = rng.normal(size=1000).astype(dtype) * 3
    assert_same_bits(evaluate(name, -x), evaluate(name, x))


@pytest.mark.parametrize(
    ("name", "value"), [("exp", 1), ("sigmoid", 0.5), ("cos", 1), ("tanh", 0), ("erf", 0), ("sin", 0)]
)
def test_zeros_give_what_they_must(name, value, dtype):
    assert_same_bits(evaluate(name, np.zeros(3, dtype)), np.full(3, value, dtype))
    negative = np.full(3, -0.0 if value == 0 else value, dtype)
    assert_same_bits(evaluate(name, np.full(3, -0.0, dtype)), negative)


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "erf", "sin", "cos"])
def test_nothing_leaves_its_range(name, dtype, rng):
    x = arguments(name, dtype, rng)
    least = 0 if name == "sigmoid" else -1
    got = evaluate(name, x)
    assert got.min() >= least
    assert got.max() <= 1


@pytest.mark.parametrize("name", ["exp", "sigmoid", "softplus", "tanh", "erf"])
def test_the_ends_are_reached_step_by_step(name, dtype):
    """Monotone where the result dies away or overflows: no wave, no jump back, no early end."""
    reach = REACH[dtype.name]
    for x in (np.linspace(-reach, -0.7 * reach, 20_001), np.linspace(0.7 * reach, reach, 20_001)):
        got = evaluate(name, x.astype(dtype))
        assert (np.diff(got[np.isfinite(got)]) >= 0).all()
        assert (np.isfinite(got) | (got == np.inf)).all()
        assert not (np.diff(np.isinf(got).astype(int)) < 0).any()


def test_results_below_the_normal_numbers_are_rounded_gradually(dtype):
    limits = np.finfo(dtype)
    x = np.log(limits.smallest_subnormal * np.arange(1, 200, dtype=np.longdouble)).astype(dtype)
    for name in ("exp", "sigmoid", "log1p_exp_minus", "softplus"):
        got = evaluate(name, x)
        assert (got[2:] > 0).all()
        assert (got < limits.tiny).all()
        assert len(np.unique(got)) > 90
