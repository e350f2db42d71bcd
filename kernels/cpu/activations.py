"""The activations and their derivatives on a block that is still in the cache: rows x columns, strided rows."""

import math

import numpy as np

from ..contract import ACTIVATIONS, LEAKY_SLOPE
from .compile import jit
from .elementary import SINE_END, cos, erf, exp, sigmoid, sin, softplus, tanh
from .simd import (
    absolute,
    any_lane,
    element,
    fma,
    lanes,
    load,
    load_first,
    load_first_of_pairs,
    select,
    specialised,
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
def _activated(code, z):
    if code == RELU:
        return _relu(z)
    if code == LEAKY_RELU:
        return _leaky_relu(z)
    if code == TANH:
        return tanh(z)
    if code == SIGMOID:
        return sigmoid(z)
    if code == GELU:
        return _gelu(z)
    return _silu(z) if code == SILU else softplus(z)


@jit
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


@jit
def floor_of(code, like):
    """What a matrix product may cut its result off at, so that relu costs no pass of its own: 0 for relu, else -inf."""
    return element(like, 0.0) if code == RELU else element(like, -np.inf)


@jit
def copy_block(rows, columns, source, source_row, target, target_row):
    """Target = source."""
    for i in range(rows):
        for j in range(0, columns, lanes(source)):
            count = min(lanes(source), columns - j)
            store_first(target + (i * target_row + j), load_first(source + (i * source_row + j), count), count)


@jit
def _activate_block(code, rows, columns, block, block_row):
    specialised()
    for i in range(rows):
        row = block + i * block_row
        whole = columns // lanes(block) * lanes(block)
        for j in range(0, whole, lanes(block)):
            store(row + j, _activated(code, load(row + j)))
        if whole < columns:
            left = columns - whole
            store_first(row + whole, _activated(code, load_first(row + whole, left)), left)


@jit
def activate(code, rows, columns, block, block_row):
    """Block = activation(block)."""
    if block_row == columns:  # nothing lies between the rows: one long row has fewer vectors that are not whole
        rows, columns = min(rows, 1), rows * columns
    if code == SINE:
        _sine_block(rows, columns, block, block_row)
    elif code == RELU:  # to choose the function for each vector would show with the most frequent ones
        _activate_block(RELU, rows, columns, block, block_row)
    elif code == TANH:
        _activate_block(TANH, rows, columns, block, block_row)
    elif code == SIGMOID:
        _activate_block(SIGMOID, rows, columns, block, block_row)
    elif code != IDENTITY:
        _activate_block(code, rows, columns, block, block_row)


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


@jit
def _back(code, dy, saved):
    if code == RELU:
        return _relu_back(dy, saved)
    if code == LEAKY_RELU:
        return _leaky_relu_back(dy, saved)
    if code == TANH:
        return _tanh_back(dy, saved)
    if code == SIGMOID:
        return _sigmoid_back(dy, saved)
    if code == GELU:
        return _gelu_back(dy, saved)
    return _silu_back(dy, saved) if code == SILU else _softplus_back(dy, saved)


@jit
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


@jit
def _back_block(code, rows, columns, block, block_row, saved, saved_row):
    specialised()
    for i in range(rows):
        row, saved_at = block + i * block_row, saved + i * saved_row
        whole = columns // lanes(block) * lanes(block)
        for j in range(0, whole, lanes(block)):
            store(row + j, _back(code, load(row + j), load(saved_at + j)))
        if whole < columns:
            left = columns - whole
            dy, saved_values = load_first(row + whole, left), load_first(saved_at + whole, left)
            store_first(row + whole, _back(code, dy, saved_values), left)


@jit
def _back_block_of_pairs(code, rows, columns, block, block_row, saved, saved_row):
    specialised()
    for i in range(rows):
        row, saved_at = block + i * block_row, saved + i * saved_row
        for j in range(0, columns, lanes(block)):
            count = min(lanes(block), columns - j)
            y = load_first_of_pairs(saved_at + j // 2, count)
            store_first(row + j, _back(code, load_first(row + j, count), y), count)


@jit
def multiply_by_sign(code, rows, columns, block, block_row, saved, saved_row):
    """What `multiply_by_derivative` does for relu and leaky_relu, from pairs across of y: its sign is all they need."""
    if code == RELU:
        _back_block_of_pairs(RELU, rows, columns, block, block_row, saved, saved_row)
    else:
        _back_block_of_pairs(LEAKY_RELU, rows, columns, block, block_row, saved, saved_row)


@jit
def multiply_by_derivative(code, rows, columns, block, block_row, saved, saved_row):
    """Block = block * activation'(saved), where saved is y, or z for the activations that need it."""
    if block_row == columns and saved_row == columns:
        rows, columns = min(rows, 1), rows * columns
    if code == SINE:
        _sine_back(rows, columns, block, block_row, saved, saved_row)
    elif code == RELU:
        _back_block(RELU, rows, columns, block, block_row, saved, saved_row)
    elif code == TANH:
        _back_block(TANH, rows, columns, block, block_row, saved, saved_row)
    elif code == SIGMOID:
        _back_block(SIGMOID, rows, columns, block, block_row, saved, saved_row)
    elif code != IDENTITY:
        _back_block(code, rows, columns, block, block_row, saved, saved_row)
