"""Every intrinsic of kernels/cpu/simd, in small compiled functions, against NumPy on the same numbers."""

import functools
import operator
from fractions import Fraction

import guarded
import numpy as np
import pytest
from layouts import CANARY, Canary
from numba.core.errors import TypingError
from rulings import assert_same_bits, assert_same_special_values, small_integers
from vectors import compiled, each_vector, lanes_of, whole_vectors

from fastmlp.kernels.cpu import simd
from fastmlp.kernels.cpu.simd import (
    absolute,
    address_of,
    any_lane,
    binary_exponent,
    copysign,
    element,
    floor,
    fma,
    keep_first,
    lanes,
    largest_lane,
    load,
    load_first,
    pointer,
    pointer_at,
    power_of_two,
    prefetch,
    round_to_even,
    select,
    splat,
    square_root,
    store,
    store_first,
    sum_lanes,
    tile_add,
    tile_at_least,
    tile_dot_add,
    tile_lane_sums,
    tile_multiply_add,
    tile_splat,
    tile_square,
    tile_store,
    tile_sum,
    tile_transposed,
    tile_zeros,
    transpose_picked,
    transpose_square,
    wide_add,
    wide_add_square,
    wide_total,
    wide_zeros,
)


@pytest.fixture
def count(dtype):
    """Elements of one vector."""
    return lanes_of(dtype)


@pytest.fixture
def special(dtype):
    """Two arrays of whole vectors in which every awkward value meets every other."""
    limits = np.finfo(dtype)
    values = [0.0, -0.0, 1.0, -1.0, 0.1, -2.5, limits.max, -limits.tiny, limits.smallest_subnormal, np.inf, -np.inf]
    values = np.array([*values, np.nan], dtype)
    return whole_vectors(np.repeat(values, len(values))), whole_vectors(np.tile(values, len(values)))


def assert_same_numbers(got, expected):
    """The same bits, but for the NaNs', whose payload nobody has promised."""
    assert_same_special_values(got, expected)
    assert_same_bits(np.where(np.isnan(got), 0, got), np.where(np.isnan(expected), 0, expected))


@compiled
def _walk(array, p_index, index, value):
    p = pointer(array) + p_index
    before = p[index]
    p[index] = value
    p += index
    return before, p[0], address_of(p)


@pytest.mark.parametrize("kind", ["float32", "float64", "int64"])
def test_a_pointer_is_added_to_read_and_written_like_c(kind):
    array = np.arange(10, dtype=kind)
    assert _walk(array, 7, -3, 99) == (4, 99, array.ctypes.data + 4 * array.itemsize)
    np.testing.assert_array_equal(array, [0, 1, 2, 3, 99, 5, 6, 7, 8, 9])


@compiled
def _third_at(address, like):
    return pointer_at(address, pointer(like))[2], element(pointer(like), 0.1)


def test_an_address_becomes_a_pointer_and_a_scalar_an_element(dtype):
    array = np.array([1, 2, 3.5], dtype)
    third, tenth = _third_at(array.ctypes.data, np.empty(0, dtype))
    assert third == 3.5
    assert tenth == dtype.type(0.1)


def test_a_value_is_rounded_to_the_element_it_is_written_to():
    array = np.zeros(1, np.float32)
    _walk(array, 0, 0, 0.1)
    assert array[0] == np.float32(0.1)


def test_what_is_no_pointer_or_of_two_types_does_not_compile():
    @compiled
    def no_array(x):
        return pointer(x)[0]

    @compiled
    def two_types(x, y):
        store(pointer(x), load(pointer(x)) + load(pointer(y)))

    with pytest.raises(TypingError):
        no_array(3)
    with pytest.raises(TypingError):
        two_types(np.zeros(16, np.float32), np.zeros(16, np.float64))


@compiled
def _copy_one(x, x_start, out, out_start):
    store(pointer(out) + out_start, load(pointer(x) + x_start))
    return lanes(pointer(x))


@guarded.needs_mprotect
def test_a_vector_is_read_and_written_at_any_element_and_no_further(dtype, count, canary):
    for start in range(count):
        x = guarded.ending(np.arange(start + count, dtype=dtype))
        out = canary(count, dtype, offset=start)
        assert _copy_one(x, start, out, 0) == count
        np.testing.assert_array_equal(out, x[start:])


@compiled
def _copy_first(x, width, stored, out):
    vector = load_first(pointer(x), width)
    store_first(pointer(out), vector, stored)


@guarded.needs_mprotect
def test_the_first_elements_are_read_and_no_more(dtype, count):
    for width in range(count + 1):
        for x in (guarded.ending(np.ones(width, dtype)), guarded.beginning(np.ones(width, dtype))):
            out = np.full(count, CANARY, dtype)
            _copy_first(x, width, count, out)
            np.testing.assert_array_equal(out, np.arange(count) < width)


@guarded.needs_mprotect
def test_the_first_elements_are_written_and_no_more(dtype, count, canary):
    x = np.arange(1, count + 1, dtype=dtype)
    for width in range(count + 1):
        for out in (guarded.ending(np.zeros(width, dtype)), guarded.beginning(np.zeros(width, dtype))):
            _copy_first(x, count, width, out)
            np.testing.assert_array_equal(out, x[:width])
        out = canary(width, dtype, offset=width)
        _copy_first(x, count, width, out)
        np.testing.assert_array_equal(out, x[:width])


@pytest.mark.parametrize(("width", "all_of_it"), [(-1, False), (-1000, False), (65, True), (2**31 - 1, True)])
def test_counts_beyond_a_vector_mean_none_or_all_of_it(dtype, count, width, all_of_it):
    x, expected = np.ones(count, dtype), np.full(count, all_of_it, dtype)
    out = np.full(count, CANARY, dtype)
    _copy_first(x, width, count, out)
    assert_same_bits(out, expected)
    out[:] = 0
    _copy_first(x, count, width, out)
    assert_same_bits(out, expected)


EXPRESSIONS = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "neg": lambda x, y: -x,
    "add a scalar": lambda x, y: x + 0.1,
    "scalar add": lambda x, y: 0.1 + x,
    "sub a scalar": lambda x, y: x - 0.1,
    "scalar sub": lambda x, y: 0.1 - x,
    "mul by a scalar": lambda x, y: x * 0.1,
    "scalar mul": lambda x, y: 0.1 * x,
    "div by a scalar": lambda x, y: x / 0.1,
    "scalar div": lambda x, y: 0.1 / x,
    "integer scalars": lambda x, y: (3 - x) * 2 + 1,
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_operators_are_numpys_lane_by_lane(name, special):
    with np.errstate(all="ignore"):
        expected = EXPRESSIONS[name](*special)
    assert_same_numbers(each_vector(EXPRESSIONS[name])(*special), expected)


def _accumulate(x, y):
    x += y
    x *= 3.0
    x -= y
    x += 1.0
    return x


def test_operators_in_place_change_the_name_and_not_the_memory(special):
    x, y = special
    with np.errstate(all="ignore"):
        expected = _accumulate(x.copy(), y)
    before = x.tobytes()
    assert_same_numbers(each_vector(_accumulate)(x, y), expected)
    assert x.tobytes() == before


@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.gt, operator.ge, operator.eq])
def test_comparisons_are_numpys_and_false_for_nan(compare, special):
    x, y = special
    assert_same_bits(
        each_vector(lambda x, y: select(compare(x, y), 1.0, 0.0))(x, y), compare(x, y).astype(x.dtype)
    )  # fmt: skip
    assert_same_bits(
        each_vector(lambda x, y: select(compare(0.1, x), 1, 0))(x, y), compare(x.dtype.type(0.1), x).astype(x.dtype)
    )  # fmt: skip


def test_select_takes_vectors_and_scalars_with_all_their_bits(special):
    x, y = special
    got = each_vector(lambda x, y: select(x < y, x, y))(x, y)
    assert_same_numbers(got, np.where(x < y, x, y))
    got = each_vector(lambda x, y: select(x < y, x, -0.0))(x, y)
    assert_same_numbers(got, np.where(x < y, x, x.dtype.type(-0.0)))


@compiled
def _any_below(x, limit):
    return any_lane(load(pointer(x)) < limit)


def test_any_lane_sees_each_lane_and_no_nan(dtype, count):
    assert _any_below(np.ones(count, dtype), 0.0) is False
    assert _any_below(np.full(count, np.nan, dtype), 0.0) is False
    for lane in range(count):
        x = np.full(count, np.nan, dtype)
        x[lane] = -1
        assert _any_below(x, 0.0) is True


UNARY = {
    "absolute": (absolute, np.abs),
    "square_root": (square_root, np.sqrt),
    "round_to_even": (round_to_even, np.rint),
    "floor": (floor, np.floor),
}


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_one_vector_are_numpys(name, special, rng):
    function, expected = UNARY[name]
    x, call = special[0], each_vector(lambda x, y: function(x))
    halves = np.arange(-x.size / 4, x.size / 4, 0.5, x.dtype)
    for values in (x, halves, (rng.normal(size=x.size) * 1e5).astype(x.dtype)):
        with np.errstate(all="ignore"):
            wanted = expected(values)
        assert_same_numbers(call(values, values), wanted)


def test_copysign_takes_the_sign_of_zeros_too(special):
    x, y = special
    assert_same_bits(each_vector(lambda x, y: copysign(x, y))(x, y), np.copysign(x, y))


def test_fma_rounds_once(dtype, count, rng):
    x, y = rng.normal(size=(2, 40 * count)).astype(dtype)
    z = (-x * y).astype(dtype)

    @compiled
    def run(x, y, z, out):
        for i in range(0, x.size, lanes(pointer(x))):
            store(pointer(out) + i, fma(load(pointer(x) + i), load(pointer(y) + i), load(pointer(z) + i)))

    def half_an_ulp_off(values):
        exact = [Fraction(float(a)) * Fraction(float(b)) + Fraction(float(c)) for a, b, c in zip(x, y, z, strict=True)]
        half = [Fraction(float(spacing)) / 2 for spacing in np.spacing(np.abs(values))]
        return [abs(Fraction(float(v)) - e) <= h for v, e, h in zip(values, exact, half, strict=True)]

    out = np.empty_like(x)
    run(x, y, z, out)
    assert all(half_an_ulp_off(out))
    assert not all(half_an_ulp_off(x * y + z))


@pytest.mark.parametrize(
    ("fused", "expected"),
    [
        (lambda x, y: fma(2.0, x, y), lambda x, y: 2 * x + y),
        (lambda x, y: fma(x, 2, y), lambda x, y: x * 2 + y),
        (lambda x, y: fma(x, y, 0.5), lambda x, y: x * y + 0.5),
        (lambda x, y: fma(2, x, 0.5), lambda x, y: 2 * x + 0.5),
    ],
)
def test_any_operand_of_fma_may_be_a_scalar(fused, expected, dtype, count, rng):
    x, y = small_integers(rng, (2, 3 * count), dtype)
    assert_same_bits(each_vector(fused)(x, y), expected(x, y))


@compiled
def _splat(value, out):
    store(pointer(out), splat(pointer(out), value))


def test_splat_fills_every_lane_with_the_rounded_scalar(dtype, count):
    out = np.empty(count, dtype)
    _splat(0.1, out)
    assert_same_bits(out, np.full(count, 0.1, dtype))


_power_of_two = each_vector(lambda x, y: power_of_two(x))


def test_power_of_two_is_exact_over_all_normal_exponents(dtype):
    limits = np.finfo(dtype)
    n = whole_vectors(np.arange(limits.minexp, limits.maxexp, dtype=dtype))
    assert_same_bits(_power_of_two(n, n), np.ldexp(np.ones(1, dtype), n.astype(int)))


def test_power_of_two_traps_nowhere(special):
    with np.errstate(all="raise"):
        _power_of_two(*special)


def test_the_binary_exponent_is_frexps(dtype, rng):
    limits = np.finfo(dtype)
    powers = np.ldexp(np.ones(1, dtype), np.arange(limits.minexp, limits.maxexp))
    x = np.concatenate((powers, np.nextafter(powers[1:], 0), powers * rng.uniform(1, 2, powers.size).astype(dtype)))
    x = whole_vectors(x.astype(dtype))
    assert_same_bits(each_vector(lambda x, _: binary_exponent(x))(x, x), (np.frexp(x)[1] - 1).astype(dtype))


_polynomial = simd.polynomial(float32=(1.0, -2.0, 3.0), float64=(2.0, 0.0, -1.0, 5.0))
_constant = simd.constant(float32=0.1, float64=0.2)


def test_polynomials_and_constants_go_by_the_element_type(dtype, count):
    x = np.arange(-count, count).astype(dtype)
    wanted = np.polyval([1, -2, 3] if dtype == np.float32 else [2, 0, -1, 5], x).astype(dtype)
    assert_same_bits(each_vector(lambda x, y: _polynomial(x))(x, x), wanted)
    wanted = np.full_like(x, 0.1 if dtype == np.float32 else 0.2)
    assert_same_bits(each_vector(lambda x, y: _constant(x))(x, x), wanted)


@compiled
def _keep(x, width, other, out):
    store(pointer(out), keep_first(load(pointer(x)), width, other))


def test_keep_first_replaces_the_lanes_beyond_even_nan(dtype, count):
    for width in range(-1, count + 2):
        x = np.arange(1, count + 1).astype(dtype)
        x[max(width, 0) :] = np.nan
        out = np.empty_like(x)
        _keep(x, width, -np.inf, out)
        assert_same_bits(out, np.where(np.arange(count) < width, x, dtype.type(-np.inf)))


@compiled
def _reductions(x):
    vector = load(pointer(x))
    return sum_lanes(vector), largest_lane(vector)


@compiled
def _wide_sums(x, y):
    sums = wide_add(wide_zeros(pointer(x)), load(pointer(x)))
    sums = wide_add(sums, load(pointer(y)))
    squares = wide_add_square(wide_add_square(wide_zeros(pointer(x)), load(pointer(x))), load(pointer(y)))
    return wide_total(sums), wide_total(squares)


def halved(values):
    """The sum in the order of halves: the upper half is added to the lower until one number is left."""
    while len(values) > 1:
        values = values[: len(values) // 2] + values[len(values) // 2 :]
    return values[0]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_sums_are_float64_in_the_order_of_halves(scale, dtype, count, rng):
    x, y = (rng.normal(size=(2, count)) * scale).astype(dtype)
    a, b = x.astype(np.float64), y.astype(np.float64)
    assert _reductions(x)[0] == halved(a)
    assert _wide_sums(x, y) == (halved(a + b), halved(a**2 + b**2))


def test_the_largest_lane_is_found_in_every_place(dtype, count):
    for lane in range(count):
        x = -np.arange(1, count + 1).astype(dtype)
        x[lane] = 7
        assert _reductions(x)[1] == 7
        x[:] = -np.inf
        x[lane] = -1
        assert _reductions(x)[1] == -1
    assert _reductions(np.full(count, -np.inf, dtype))[1] == -np.inf


@guarded.needs_mprotect
def test_what_is_prefetched_need_not_be_readable(dtype, count):
    @compiled
    def ask(x):
        prefetch(pointer(x) + x.size)
        prefetch(pointer(x) + (1 << 40))

    ask(guarded.ending(np.zeros(count, dtype)))


@functools.cache
def tile_program(rows, columns):
    """C = max(2 (a b + start), least) by one tile."""

    @compiled
    def program(depth, a, a_row, a_step, b, b_step, start, start_row, least, c, c_row, width):
        a_at, b_at = pointer(a), pointer(b)
        tile = tile_zeros(rows, columns, pointer(c))
        for _ in range(depth):
            tile = tile_multiply_add(tile, a_at, a_row, b_at, width)
            a_at += a_step
            b_at += b_step
        tile = tile_sum(tile_add(tile, pointer(start), start_row, width), tile_zeros(rows, columns, pointer(c)))
        tile_store(tile_at_least(tile_sum(tile, tile), element(pointer(c), least)), pointer(c), c_row, width)

    return program


@guarded.needs_mprotect
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (3, 2), (12, 2)])
@pytest.mark.parametrize("one_start", [False, True])
def test_tiles_do_a_whole_product_and_touch_nothing_else(rows, columns, one_start, dtype, count, rng):
    program = tile_program(rows, columns)
    for width in range(1, columns * count + 1):
        for depth, transposed in ((0, False), (3, False), (3, True)):
            a, b = small_integers(rng, (rows, depth), dtype), small_integers(rng, (depth, width), dtype)
            start = small_integers(rng, (1 if one_start else rows, width), dtype)
            stored = guarded.ending(a.T if transposed else a)
            a_row, a_step = (1, rows) if transposed else (depth, 1)
            ends = stored, a_row, a_step, guarded.ending(b), width, guarded.ending(start), 0 if one_start else width
            c = Canary((rows, width + 3), dtype)
            program(depth, *ends, -4.0, c.array, width + 3, width)
            assert_same_bits(c.array[:, :width], np.maximum(2 * (a @ b + start), dtype.type(-4)))
            assert np.isnan(c.array[:, width:]).all()
            c.check()
            tight = guarded.ending(np.zeros((rows, width), dtype))
            program(depth, *ends, -4.0, tight, width, width)
            assert_same_bits(tight, c.array[:, :width])
            if width == columns * count:
                whole = guarded.ending(np.zeros((rows, width), dtype))
                program(depth, *ends, -4.0, whole, width, None)
                assert_same_bits(whole, tight)


def test_a_tiles_floor_lets_nan_through(dtype, count):
    start = np.resize(np.array([np.nan, -np.inf, np.inf, -1, 2], dtype), (2, count))
    c = np.empty_like(start)
    empty = np.empty(0, dtype)
    tile_program(2, 1)(0, empty, 0, 0, empty, 0, start, count, 0.0, c, count, count)
    assert_same_numbers(c, np.where(start < 0, 0, 2 * start).astype(dtype))


@functools.cache
def dot_program(rows, columns):
    """The dot products of `rows` rows of a with `width` rows of b, n elements long, to c or added to it."""

    @compiled
    def program(n, a, a_row, b, b_row, c, c_row, width, adds):
        tile = tile_zeros(rows, columns, pointer(c))
        for i in range(0, n, lanes(pointer(c))):
            tile = tile_dot_add(tile, pointer(a) + i, a_row, pointer(b) + i, b_row, n - i)
        tile_lane_sums(tile, pointer(c), c_row, width, adds)

    return program


@guarded.needs_mprotect
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 2), (4, 2), (4, 4), (3, 7)])
def test_tiles_of_dot_products_touch_nothing_else(rows, columns, dtype, count, rng, canary):
    program = dot_program(rows, columns)
    for n in (0, 1, count - 1, count, count + 1, 3 * count):
        for gap, width in ((0, columns), (5, columns), (5, max(1, columns - 1))):
            a, b = small_integers(rng, (rows, n + gap), dtype), small_integers(rng, (columns, n + gap), dtype)
            ends = [guarded.ending(m.reshape(-1)[: m.size - gap]) for m in (a, b)]
            expected = a[:, :n] @ b[:width, :n].T
            c = canary((rows, columns + gap), dtype)
            program(n, ends[0], n + gap, ends[1], n + gap, c, columns + gap, width, False)
            assert_same_bits(c[:, :width], expected)
            assert np.isnan(c[:, width:]).all()
            program(n, ends[0], n + gap, ends[1], n + gap, c, columns + gap, width, True)
            assert_same_bits(c[:, :width], 2 * expected)
            assert np.isnan(c[:, width:]).all()
            tight = guarded.ending(np.zeros((rows, width), dtype))
            program(n, ends[0], n + gap, ends[1], n + gap, tight, width, width, True)
            assert_same_bits(tight, expected)


def test_a_row_that_a_tile_writes_twice_is_added_to_once(dtype, count, rng, canary):
    """Strides of 0 let a tile that is too tall take its one row twice."""
    a, b = small_integers(rng, (1, count), dtype), small_integers(rng, (2, count), dtype)
    old = small_integers(rng, (1, 2), dtype)
    c = canary((1, 2), dtype)
    c[...] = old
    dot_program(2, 2)(count, a, 0, b, count, c, 0, 2, True)
    assert_same_bits(c, old + a @ b.T)


@compiled
def _splat_tile(p, row_stride, c, c_row, width):
    tile_store(tile_splat(3, 2, pointer(p), row_stride), pointer(c), c_row, width)


@guarded.needs_mprotect
@pytest.mark.parametrize("stride", [0, 1, 4])
def test_a_tile_is_filled_with_one_element_a_row(stride, dtype, count, canary):
    elements = guarded.ending(np.arange(1, 2 * stride + 2, dtype=dtype))
    c = canary((3, 2 * count), dtype)
    _splat_tile(elements, stride, c, 2 * count, 2 * count)
    assert_same_bits(c, np.repeat(elements[[0, stride, 2 * stride]][:, None], 2 * count, axis=1))


@compiled
def _square(p, c, row):
    tile = tile_add(tile_square(pointer(p)), pointer(c), row, None)
    tile_store(tile_transposed(tile), pointer(c), row, None)


@guarded.needs_mprotect
def test_a_square_tile_holds_a_row_of_memory_and_is_transposed(dtype, count, rng):
    p, c = guarded.ending(rng.normal(size=count).astype(dtype)), rng.normal(size=(count, count + 3)).astype(dtype)
    expected = (c[:, :count] + p).T
    beyond = c[:, count:].copy()
    _square(p, c, count + 3)
    assert_same_bits(c[:, :count], np.ascontiguousarray(expected))
    assert_same_bits(c[:, count:], beyond)


@compiled
def _transpose(source, source_row, target, target_row):
    transpose_square(pointer(source), source_row, pointer(target), target_row)


@guarded.needs_mprotect
@pytest.mark.parametrize(("source_gap", "target_gap"), [(0, 0), (3, 0), (0, 5)])
def test_a_square_is_transposed_between_any_strides(source_gap, target_gap, dtype, count, canary):
    source = np.arange(count * (count + source_gap), dtype=dtype).reshape(count, count + source_gap)
    target = canary((count, count + target_gap), dtype)
    flat = source.reshape(-1)[: source.size - source_gap]
    _transpose(guarded.ending(flat), count + source_gap, target, count + target_gap)
    assert_same_bits(target[:, :count], source[:, :count].T)
    assert np.isnan(target[:, count:]).all()


@compiled
def _transpose_picked(source, source_row, picks, width, target, target_row):
    transpose_picked(pointer(source), source_row, pointer(picks), width, pointer(target), target_row)


@guarded.needs_mprotect
@pytest.mark.parametrize("gap", [0, 3])
def test_picked_rows_are_transposed_up_to_a_width(gap, dtype, count, rng, canary):
    for width in {1, count // 2, count - 1, count, count + 5}:
        held = min(width, count)
        source = np.arange(7 * (held + gap), dtype=dtype).reshape(7, held + gap)
        picks = rng.integers(0, 7, count)
        target = canary((held + 1, count + gap), dtype)
        flat = source.reshape(-1)[: source.size - gap]
        _transpose_picked(guarded.ending(flat), held + gap, guarded.ending(picks), width, target, count + gap)
        assert_same_bits(target[:held, :count], source[picks, :held].T)
        assert np.isnan(target[held]).all()
        assert np.isnan(target[:, count:]).all()
