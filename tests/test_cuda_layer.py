"""One layer's products on tensor cores, run on a processor: against float64, in every order of the threads.

Outputs are poisoned, and so is what lies between the rows of operands, which kernels must never use.
"""

import cuda_host
import numpy as np
import oracles
import pytest
from host_compiler import needs_compiler
from rulings import assert_same_bits, assert_same_special_values, small_integers

from fastmlp.kernels.contract import ACTIVATIONS
from fastmlp.kernels.cuda_cpp import layers
from fastmlp.kernels.cuda_cpp.layers import (
    BFLOAT16,
    BFLOAT16_HOPPER,
    EDGE,
    FLOAT16,
    HIGH,
    HIGHEST,
    KINDS,
    padded,
)
from fastmlp.kernels.reference.rounding import rounded

pytestmark = needs_compiler

SHAPES = [(1, 1, 1), (130, 40, 9), (70, 129, 137), (128, 64, 128), (20, 300, 260)]
"""(n, k, m): one element; tails in each direction, over the edge of a tile and of a stage; whole tiles;
more stages than there are places for, and tiles side by side."""

NAN = 0x7FC0

LARGEST_BFLOAT16 = np.float32(2.0**128 - 2.0**120)

ROUNDED_TO = {1: 0.0, 2: 2.0**-15, 3: 2.0**-22}
"""What operands in parts may cost, relative to the product of absolute values; one part is compared as it is."""


def rounded_to(kind, x):
    return x.astype(np.float16).astype(np.float32) if kind.code == FLOAT16.code else rounded(np.ascontiguousarray(x))


def bits_of(kind, x):
    return (
        x.astype(np.float16).view(np.uint16)
        if kind.code == FLOAT16.code
        else (x.view(np.uint32) >> 16).astype(np.uint16)
    )


class Operand:
    """A float32 matrix in parts, by operands.cuh's rule, its rows padded with NaN."""

    def __init__(self, kind, x, fill=True):
        rows, columns = x.shape
        self.kind, self.shape, self.stride = kind, x.shape, padded(columns)
        self.memory = np.full((kind.parts, rows, self.stride), NAN, np.uint16)
        rest = x.astype(np.float32)
        for part in range(kind.parts if fill else 0):
            near = rounded_to(kind, rest)
            if part + 1 < kind.parts:
                beyond = np.isinf(near) & np.isfinite(rest)
                near[beyond] = np.copysign(LARGEST_BFLOAT16, rest[beyond])
            self.memory[part, :, :columns] = bits_of(kind, near)
            finite = np.isfinite(rest)
            rest = np.where(finite, rest, 0) - np.where(finite, near, 0)

    @property
    def arguments(self):
        return self.memory, self.stride, self.memory[0].size

    def factor(self, deep):
        """As a product takes it: Hopper's kernels take a tensor map, here in cuda_host_hopper.h's own form."""
        if not self.kind.hopper:
            return self.arguments
        (rows, columns), box = self.shape, EDGE if deep else 64
        address, part = self.memory.ctypes.data, self.memory[0].size
        self.map = np.zeros(24, np.int64)
        self.map[:8] = address, columns, rows, self.stride, 64, box, self.kind.parts, part
        self.map[16] = address
        return self.map, self.stride, part

    @property
    def value(self):
        """What the parts add up to, in float64; the padding must be as it was."""
        assert (self.memory[:, :, self.shape[1] :] == NAN).all()
        held = self.memory[:, :, : self.shape[1]]
        if self.kind.code == FLOAT16.code:
            return np.ascontiguousarray(held).view(np.float16)[0].astype(np.float64)
        return (held.astype(np.uint32) << 16).view(np.float32).astype(np.float64).sum(axis=0)


def launch(kind, program, name, grid, arguments, order=0):
    values = [np.int64(each) if isinstance(each, int) else each for each in arguments]
    multiplies = name not in ("to_elements", "output_delta", "apply_update")
    threads, blocks = (kind.block_threads, kind.cluster) if multiplies else (kind.threads, 1)
    cuda_host.Kernel(program, name, blocks, order)(grid, (threads,), values, shared_mem=kind.shared_bytes)


def poison(shape):
    return np.full(shape, np.nan, np.float32)


def bound(kind, k):
    """Of a product over k steps: its parts' and float32's, whose sums tensor cores cut off."""
    return ROUNDED_TO[kind.parts] + (k + 2) * 2.0**-23


def assert_within(got, exact, magnitude, kind, k):
    assert (np.abs(got - exact) <= bound(kind, k) * magnitude + 1e-30).all()


def linear_forward(kind, x, w, b, activation="identity", order=0):
    (n, k), m = x.shape, w.shape[1]
    xs, ws, out = Operand(kind, x), Operand(kind, w), Operand(kind, np.zeros((n, m)), fill=False)
    y, z = poison((n, m)), poison((n, m))
    arguments = *xs.factor(True), *ws.factor(False), n, k, m, b, y, m, z, m, *out.arguments
    launch(kind, layers.linear_forward(kind, activation), "linear_forward", (kind.tiles(n, m),), arguments, order)
    return y, z, out, xs.value, ws.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_linear_forward(kind, shape, rng):
    n, k, m = shape
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((n, k), (k, m), (m,)))
    y, z, out, x64, w64 = linear_forward(kind, x, w, b, "tanh")
    if kind.parts > 1:
        x64, w64 = x.astype(np.float64), w.astype(np.float64)
    assert_within(z, x64 @ w64 + b, abs(x64) @ abs(w64) + abs(b), kind, k)
    np.testing.assert_allclose(y, np.tanh(z.astype(np.float64)), rtol=1e-6, atol=1e-7)
    assert_same_bits(Operand(kind, y).memory, out.memory)


def test_highest_is_no_worse_than_float32(rng):
    x, w, b = rng.normal(size=(130, 300)), rng.normal(size=(300, 130)), np.zeros(130)
    x, w, b = (a.astype(np.float32) for a in (x, w, b))
    y, *_ = linear_forward(HIGHEST, x, w, b)
    exact = x.astype(np.float64) @ w
    assert np.square(y - exact).mean() <= 4 * np.square(x @ w - exact).mean()
    assert np.abs(y - exact).max() <= 2 * np.abs(x @ w - exact).max()


@pytest.mark.parametrize("kind", KINDS)
def test_threads_may_go_on_in_any_order(kind, rng):
    k = 400 if kind.hopper else 100  # more stages than there are places for
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((140, k), (k, 30), (30,)))
    results = [linear_forward(kind, x, w, b, order=order)[0] for order in cuda_host.ORDERS]
    for each in results[1:]:
        assert_same_bits(each, results[0])


@pytest.mark.parametrize("kind", KINDS)
def test_small_integers_are_exact(kind, rng):
    x, w, b = (small_integers(rng, s, np.float32) for s in ((131, 50), (50, 20), (20,)))
    y, *_ = linear_forward(kind, x, w, b)
    np.testing.assert_array_equal(y, x @ w + b)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_and_inf_land_where_they_do_in_float32(kind, rng):
    x, w, b = (small_integers(rng, s, np.float32) for s in ((131, 40), (40, 20), (20,)))
    x[w.shape[1], 3], x[130, 6], w[2, 5], w[4, 4] = np.nan, np.inf, -np.inf, np.inf
    y, *_ = linear_forward(kind, x, w, b)
    with np.errstate(all="ignore"):
        assert_same_special_values(y, x @ w + b)


def test_the_largest_floats_keep_their_value_in_parts():
    """Rounded to the nearest bfloat16 they would be Inf."""
    largest = np.finfo(np.float32).max
    x, w = np.array([[largest, -largest, 1]], np.float32), np.eye(3, dtype=np.float32)
    for kind in (HIGH, HIGHEST):
        y, *_ = linear_forward(kind, x, w, np.zeros(3, np.float32))
        np.testing.assert_allclose(y, x, rtol=2**-15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(activation, rng):
    x, w, b = (rng.normal(size=s).astype(np.float32) for s in ((30, 20), (20, 11), (11,)))
    y, z, *_ = linear_forward(BFLOAT16, x, w, b, activation)
    np.testing.assert_allclose(y, oracles.ACTIVATION[activation](z.astype(np.float64)), rtol=1e-5, atol=1e-6)


def input_gradient(kind, dz, w, activation, saved, order=0):
    (n, m), k = dz.shape, w.shape[0]
    dzs, ws, out = Operand(kind, dz), Operand(kind, w), Operand(kind, np.zeros((n, k)), fill=False)
    partials, dx = poison((-(-n // EDGE), k)), poison((n, k))
    held = Operand(kind, saved) if activation in ("relu", "leaky_relu") else None
    place = (held.memory, held.stride) if held else (np.int64(0), 0) if activation == "identity" else (saved, k)
    arguments = *dzs.factor(True), *ws.factor(True), n, k, m, *place, dx, *out.arguments, partials
    launch(kind, layers.input_gradient(kind, activation), "input_gradient", (kind.tiles(n, k),), arguments, order)
    return dx, out, partials, dzs.value, ws.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_input_gradient(kind, shape, rng):
    n, k, m = shape
    dz, w, z = (rng.normal(size=s).astype(np.float32) for s in ((n, m), (k, m), (n, k)))
    dx, out, partials, dz64, w64 = input_gradient(kind, dz, w, "gelu", z)
    if kind.parts > 1:
        dz64, w64 = dz.astype(np.float64), w.astype(np.float64)
    slope = oracles.SLOPE["gelu"](z.astype(np.float64))
    magnitude = abs(dz64) @ abs(w64.T)
    assert (np.abs(dx - (dz64 @ w64.T) * slope) <= (bound(kind, m) + 1e-6) * magnitude).all()
    assert_same_bits(Operand(kind, dx).memory, out.memory)
    for block, sums in enumerate(partials):
        rows = dx[block * EDGE : (block + 1) * EDGE].astype(np.float64)
        np.testing.assert_allclose(sums, rows.sum(axis=0), atol=1e-5 * np.abs(rows).sum(axis=0).max())


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_derivatives(activation, rng):
    dz, w, saved = (rng.normal(size=s).astype(np.float32) for s in ((30, 12), (20, 12), (30, 20)))
    dx, *_, dz64, w64 = input_gradient(BFLOAT16, dz, w, activation, saved)
    slope = oracles.SLOPE_FROM_SAVED[activation](saved.astype(np.float64))
    np.testing.assert_allclose(dx, (dz64 @ w64.T) * slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [BFLOAT16, HIGHEST, BFLOAT16_HOPPER])
def test_input_gradients_come_in_any_order(kind, rng):
    dz, w, z = (rng.normal(size=s).astype(np.float32) for s in ((140, 40), (140, 40), (140, 140)))
    first, *others = [input_gradient(kind, dz, w, "tanh", z, order)[2] for order in cuda_host.ORDERS]
    for each in others:
        assert_same_bits(each, first)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_output_delta(kind, scale, rng):
    n, m = 135, 130
    dy, y = rng.normal(size=(n, m)).astype(np.float32), rng.random((n, m)).astype(np.float32)
    out, partials = Operand(kind, np.zeros((n, m)), fill=False), poison((2, m))
    arguments = dy, np.float32(scale), n, m, y, m, *out.arguments, partials
    launch(kind, layers.input_gradient(kind, "tanh"), "output_delta", (kind.tiles(n, m),), arguments)
    delta = np.float32(scale) * dy * (1 - y * y)
    np.testing.assert_allclose(out.value, Operand(kind, delta).value, rtol=2**-7 if kind.parts == 1 else 1e-6)
    np.testing.assert_allclose(partials.sum(axis=0), delta.sum(axis=0), rtol=1e-4, atol=1e-3 * scale)


def weight_update(kind, x, dz, optimizer, w, b, slots, settings, shares=1, unscale=1.0, order=0):
    (n, k), m = x.shape, dz.shape[1]
    xs, dzs, out = Operand(kind, x), Operand(kind, dz), Operand(kind, np.zeros((k, m)), fill=False)
    blocks = -(-n // EDGE)
    partials = np.array([dz[i * EDGE : (i + 1) * EDGE].sum(axis=0) for i in range(blocks)], np.float32)
    (w1, b1), (w2, b2) = [*slots, *[(np.int64(0), np.int64(0))] * (2 - len(slots))]
    step = (w, w1, w2, *out.arguments, partials, b, b1, b2, np.float32(unscale), np.array(settings, np.float32))
    product, program = (*xs.factor(False), *dzs.factor(False), n, k, m), layers.weight_update(kind, optimizer)
    if shares == 1:
        launch(kind, program, "weight_update", (kind.tiles(k, m),), (*product, *step), order)
    else:
        sums, rows = poison((shares, k, m)), -(-n // (64 * shares)) * 64
        launch(kind, program, "weight_partials", (kind.tiles(k, m), shares), (*product, rows, sums), order)
        launch(kind, program, "apply_update", (kind.tiles(k, m),), (sums, shares, n, k, m, *step), order)
    return out, xs.value, dzs.value


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_weight_gradient(kind, shape, rng):
    n, k, m = shape
    x, dz = rng.normal(size=(n, k)).astype(np.float32), rng.normal(size=(n, m)).astype(np.float32)
    dw, db = poison((k, m)), poison(m)
    _, x64, dz64 = weight_update(kind, x, dz, None, dw, db, (), (0,) * 9)
    if kind.parts > 1:
        x64, dz64 = x.astype(np.float64), dz.astype(np.float64)
    assert_within(dw, x64.T @ dz64, abs(x64.T) @ abs(dz64), kind, n)
    np.testing.assert_allclose(db, dz.sum(axis=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [BFLOAT16, BFLOAT16_HOPPER])
@pytest.mark.parametrize("shares", [1, 3])
def test_weight_gradient_in_shares_is_exact_on_small_integers(kind, shares, rng):
    x, dz = small_integers(rng, (150, 130), np.float32), small_integers(rng, (150, 9), np.float32)
    dw, db = poison((130, 9)), poison(9)
    weight_update(kind, x, dz, None, dw, db, (), (0,) * 9, shares, unscale=0.25)
    np.testing.assert_array_equal(dw, x.T @ dz / 4)
    np.testing.assert_array_equal(db, dz.sum(axis=0) / 4)


RATE, L2, SHRINK, MU, BETA1, BETA2, EPSILON = 0.5, 0.25, 0.125, 0.5, 0.75, 0.5, 1e-3


def expected_step(optimizer, w, g, slots, decays):
    """The contract's formulas, in float64; slots are stepped in place."""
    g = g + (L2 * w if decays and optimizer != "adamw" else 0)
    if optimizer == "sgd":
        return w - RATE * g
    if optimizer in ("momentum", "nesterov"):
        slots[0][...] = MU * slots[0] - RATE * g
        return w + (MU * slots[0] - RATE * g if optimizer == "nesterov" else slots[0])
    shrunk = w - (SHRINK * w if decays and optimizer == "adamw" else 0)
    slots[0][...] = BETA1 * slots[0] + (1 - BETA1) * g
    slots[1][...] = BETA2 * slots[1] + (1 - BETA2) * g * g
    return shrunk - RATE * slots[0] / (np.sqrt(slots[1]) + EPSILON)


@pytest.mark.parametrize("shares", [1, 2])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adam", "adamw"])
def test_the_optimiser_in_the_epilogue(optimizer, shares, rng):
    n, k, m = 100, 133, 18
    x, dz = small_integers(rng, (n, k), np.float32), small_integers(rng, (n, m), np.float32)
    w, b = rng.normal(size=(k, m)).astype(np.float32), rng.normal(size=m).astype(np.float32)
    count = {"sgd": 0, "adam": 2, "adamw": 2}.get(optimizer, 1)
    slots = [(rng.random((k, m)).astype(np.float32), rng.random(m).astype(np.float32)) for _ in range(count)]
    wide = [[array.astype(np.float64) for array in pair] for pair in slots]
    l2, shrink = (0, SHRINK) if optimizer == "adamw" else (L2, 0)
    settings = RATE, l2, shrink, MU, BETA1, 1 - BETA1, BETA2, 1 - BETA2, EPSILON
    new_w = expected_step(optimizer, w.astype(np.float64), (x.T @ dz).astype(np.float64), [p[0] for p in wide], True)
    new_b = expected_step(optimizer, b.astype(np.float64), dz.sum(axis=0, dtype=float), [p[1] for p in wide], False)
    out, *_ = weight_update(BFLOAT16, x, dz, optimizer, w, b, slots, settings, shares)
    np.testing.assert_allclose(w, new_w, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(b, new_b, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(slots, wide, strict=True):
        np.testing.assert_allclose(mine[0], theirs[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(mine[1], theirs[1], rtol=1e-5, atol=1e-5)
    assert_same_bits(Operand(BFLOAT16, w).memory, out.memory)


@pytest.mark.parametrize("gathers", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_to_elements(kind, gathers, rng):
    source = rng.normal(size=(9, 13)).astype(np.float32) * 10.0 ** rng.integers(-6, 4, (9, 13))
    source = source.astype(np.float32)
    source[3, :5] = np.inf, -np.inf, np.finfo(np.float32).max, 1e-45, -0.0
    near_ties = 0x3F807FFF + rng.integers(0, 3, 13) + (rng.integers(0, 9, 13) << 16)
    source[5] = near_ties.astype(np.uint32).view(np.float32)
    order = rng.integers(0, 9, 7) if gathers else None
    taken = source[order] if gathers else source[:7]
    out = Operand(kind, np.zeros((7, 13)), fill=False)
    arguments = source, np.int64(0) if order is None else order, 7, 13, *out.arguments
    launch(kind, layers.to_elements(kind), "to_elements", (2,), arguments)
    with np.errstate(over="ignore"):
        assert_same_bits(out.memory, Operand(kind, taken).memory)


@pytest.mark.parametrize("kind", KINDS)
def test_to_elements_keeps_nan(kind):
    source, out = poison((3, 5)), Operand(kind, np.zeros((3, 5)), fill=False)
    launch(kind, layers.to_elements(kind), "to_elements", (1,), (source, np.int64(0), 3, 5, *out.arguments))
    assert np.isnan(out.value).all()
