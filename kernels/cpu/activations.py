"""The activations and their derivatives on a block that is still in the cache: rows x columns, strided rows.

Compiled code is given an activation as its way: the code of one that is part of every kernel, else the address of a
routine, for most networks have one or two, and a kernel with all of them takes a second longer to compile.
"""

import math

import numpy as np
from numba import types

from ..contract import ACTIVATIONS, LEAKY_SLOPE
from .compile import Routine, jit
from .elementary import SINE_END, cos, erf, exp, sigmoid, sin, softplus, tanh
from .simd import (
    absolute,
    any_lane,
    call_at,
    element,
    fma,
    lanes,
    load,
    load_first,
    load_first_of_pairs,
    select,
    store,
    store_first,
)

IDENTITY, RELU, LEAKY_RELU, TANH, SIGMOID, GELU, SILU, SOFTPLUS, SINE = (
    ACTIVATIONS[name].code
    for name in ("identity", "relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "softplus", "sine")
)

SQRT_HALF = math.sqrt(0.5)
INVERSE_SQRT_TWO_PI = 1.0 / math.sqrt(2.0 * math.pi)


@jit
def _relu(z):
    return select(z < 0.0, 0.0, z)


@jit
def _leaky_relu(z):
    return select(z > 0.0, z, z * LEAKY_SLOPE)


@jit
def _gelu(z):
    return z * 0.5 * (erf(z * SQRT_HALF) + 1.0)


@jit
def _silu(z):
    return z * sigmoid(z)


@jit
def floor_of(way, like):
    """What a matrix product may cut its result off at, so that relu costs no pass of its own: 0 for relu, else -inf."""
    return element(like, 0.0) if way == RELU else element(like, -np.inf)


@jit
def copy_block(rows, columns, source, source_row, target, target_row):
    """Target = source."""
    for i in range(rows):
        for j in range(0, columns, lanes(source)):
            count = min(lanes(source), columns - j)
            store_first(target + (i * target_row + j), load_first(source + (i * source_row + j), count), count)


def _over_block(activated):
    """A block's function of one for vectors."""

    def activate_block(rows, columns, block, block_row):
        for i in range(rows):
            row = block + i * block_row
            whole = columns // lanes(block) * lanes(block)
            for j in range(0, whole, lanes(block)):
                store(row + j, activated(load(row + j)))
            if whole < columns:
                left = columns - whole
                store_first(row + whole, activated(load_first(row + whole, left)), left)

    return activate_block


def _sine_block(rows, columns, block, block_row):
    for i in range(rows):
        row = block + i * block_row
        for j in range(0, columns, lanes(block)):
            count = min(lanes(block), columns - j)
            z = load_first(row + j, count)
            if any_lane(absolute(z) > SINE_END(z)):
                for index in range(j, j + count):
                    row[index] = math.sin(row[index])
            else:
                store_first(row + j, sin(z), count)


def _block(pointer):
    return types.void(types.int64, types.int64, pointer, types.int64)


_ROUTINES = {
    code: Routine(function, _block, f"activate_{name}")
    for code, name, function in (
        (LEAKY_RELU, "leaky_relu", _over_block(_leaky_relu)),
        (TANH, "tanh", _over_block(tanh)),
        (SIGMOID, "sigmoid", _over_block(sigmoid)),
        (GELU, "gelu", _over_block(_gelu)),
        (SILU, "silu", _over_block(_silu)),
        (SOFTPLUS, "softplus", _over_block(softplus)),
        (SINE, "sine", _sine_block),
    )
}

_relu_block = jit(_over_block(_relu))


def way_of(activation: str, dtype: np.dtype) -> int:
    """The way of an activation for blocks of this element type, compiled if need be."""
    code = ACTIVATIONS[activation].code
    return _ROUTINES[code].address(dtype) if code in _ROUTINES else code


@jit
def activate(way, rows, columns, block, block_row):
    """Block = activation(block)."""
    if block_row == columns:  # nothing lies between the rows: one long row has fewer vectors that are not whole
        rows, columns = min(rows, 1), rows * columns
    if way == RELU:
        _relu_block(rows, columns, block, block_row)
    elif way != IDENTITY:
        call_at(way, (rows, columns, block, block_row))


@jit
def _relu_back(dy, y):
    return select(y > 0.0, dy, 0.0)


@jit
def _leaky_relu_back(dy, y):
    return select(y > 0.0, dy, dy * LEAKY_SLOPE)


@jit
def _tanh_back(dy, y):
    return dy * fma(-y, y, 1.0)


@jit
def _sigmoid_back(dy, y):
    return dy * (y * (1.0 - y))


@jit
def _gelu_back(dy, z):
    density = exp(z * z * -0.5) * INVERSE_SQRT_TWO_PI
    return dy * fma(z, density, erf(z * SQRT_HALF) * 0.5 + 0.5)


@jit
def _silu_back(dy, z):
    small = exp(-absolute(z))
    larger, smaller = 1.0 / (small + 1.0), small / (small + 1.0)
    s, rest = select(z < 0.0, smaller, larger), select(z < 0.0, larger, smaller)
    return dy * (s * fma(z, rest, 1.0))


@jit
def _softplus_back(dy, z):
    return dy * sigmoid(z)


def _back_over_block(back):
    """A block's function of one for vectors of dy and of what was saved."""

    def back_block(rows, columns, block, block_row, saved, saved_row):
        for i in range(rows):
            row, saved_at = block + i * block_row, saved + i * saved_row
            whole = columns // lanes(block) * lanes(block)
            for j in range(0, whole, lanes(block)):
                store(row + j, back(load(row + j), load(saved_at + j)))
            if whole < columns:
                left = columns - whole
                dy, saved_values = load_first(row + whole, left), load_first(saved_at + whole, left)
                store_first(row + whole, back(dy, saved_values), left)

    return back_block


def _sine_back(rows, columns, block, block_row, saved, saved_row):
    for i in range(rows):
        row, saved_at = block + i * block_row, saved + i * saved_row
        for j in range(0, columns, lanes(block)):
            count = min(lanes(block), columns - j)
            z = load_first(saved_at + j, count)
            if any_lane(absolute(z) > SINE_END(z)):
                for index in range(j, j + count):
                    row[index] *= math.cos(saved_at[index])
            else:
                store_first(row + j, load_first(row + j, count) * cos(z), count)


def _two_blocks(pointer):
    return types.void(types.int64, types.int64, pointer, types.int64, pointer, types.int64)


_BACK_ROUTINES = {
    code: Routine(function, _two_blocks, f"back_{name}")
    for code, name, function in (
        (TANH, "tanh", _back_over_block(_tanh_back)),
        (SIGMOID, "sigmoid", _back_over_block(_sigmoid_back)),
        (GELU, "gelu", _back_over_block(_gelu_back)),
        (SILU, "silu", _back_over_block(_silu_back)),
        (SOFTPLUS, "softplus", _back_over_block(_softplus_back)),
        (SINE, "sine", _sine_back),
    )
}

_relu_back_block, _leaky_relu_back_block = jit(_back_over_block(_relu_back)), jit(_back_over_block(_leaky_relu_back))


def way_back_of(activation: str, dtype: np.dtype) -> int:
    """The way of an activation's derivative, as `way_of`."""
    code = ACTIVATIONS[activation].code
    return _BACK_ROUTINES[code].address(dtype) if code in _BACK_ROUTINES else code


def _back_over_pairs(back):
    """A block's function of one for vectors of dy and of y, which lies in pairs across."""

    @jit
    def back_block(rows, columns, block, block_row, saved, saved_row):
        for i in range(rows):
            row, saved_at = block + i * block_row, saved + i * saved_row
            for j in range(0, columns, lanes(block)):
                count = min(lanes(block), columns - j)
                y = load_first_of_pairs(saved_at + j // 2, count)
                store_first(row + j, back(load_first(row + j, count), y), count)

    return back_block


_relu_back_pairs, _leaky_relu_back_pairs = _back_over_pairs(_relu_back), _back_over_pairs(_leaky_relu_back)


@jit
def multiply_by_sign(way_back, rows, columns, block, block_row, saved, saved_row):
    """What `multiply_by_derivative` does for relu and leaky_relu, from pairs across of y: its sign is all they need."""
    if way_back == RELU:
        _relu_back_pairs(rows, columns, block, block_row, saved, saved_row)
    else:
        _leaky_relu_back_pairs(rows, columns, block, block_row, saved, saved_row)


@jit
def multiply_by_derivative(way_back, rows, columns, block, block_row, saved, saved_row):
    """Block = block * activation'(saved), where saved is y, or z for the activations that need it."""
    if block_row == columns and saved_row == columns:
        rows, columns = min(rows, 1), rows * columns
    if way_back == RELU:
        _relu_back_block(rows, columns, block, block_row, saved, saved_row)
    elif way_back == LEAKY_RELU:
        _leaky_relu_back_block(rows, columns, block, block_row, saved, saved_row)
    elif way_back != IDENTITY:
        call_at(way_back, (rows, columns, block, block_row, saved, saved_row))
