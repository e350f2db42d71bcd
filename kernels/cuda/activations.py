"""The activations y = f(z) and their derivatives f'(z) as device functions, by the formulas of the reference.

One function a name and dtype: what it computes is settled when it is compiled.
"""

import functools
import math

import numpy as np
from numba import cuda

from ..contract import LEAKY_SLOPE
from .elementary import cos, erfc, exp, log1p, sin, tanh


@functools.cache
def activation(name: str, dtype: np.dtype):
    """f(z) for one element."""
    real = dtype.type
    zero, half, one = real(0), real(0.5), real(1)
    leak, minus_root_half = real(LEAKY_SLOPE), real(-math.sqrt(0.5))

    def identity(z):
        return z

    def relu(z):
        return z if z > zero or z != z else zero  # NaN stays NaN

    def leaky_relu(z):
        return z if z > zero else leak * z

    def hyperbolic(z):
        return tanh(z)

    def sigmoid(z):
        return one / (one + exp(-z))

    def gelu(z):
        return z * (half * erfc(z * minus_root_half))

    def silu(z):
        return z / (one + exp(-z))

    def softplus(z):
        small = log1p(exp(-abs(z)))
        return small + z if z > zero else small

    def sine(z):
        return sin(z)

    functions = {
        "identity": identity,
        "relu": relu,
        "leaky_relu": leaky_relu,
        "tanh": hyperbolic,
        "sigmoid": sigmoid,
        "gelu": gelu,
        "silu": silu,
        "softplus": softplus,
        "sine": sine,
    }
    return cuda.jit(device=True)(functions[name])


@functools.cache
def derivative(name: str, dtype: np.dtype):
    """The product dy * f' for one element, from dy and what contract.ACTIVATIONS says is saved: y or z."""
    real = dtype.type
    zero, half, one = real(0), real(0.5), real(1)
    leak, minus_root_half, density = real(LEAKY_SLOPE), real(-math.sqrt(0.5)), real(1 / math.sqrt(2 * math.pi))

    def identity(dy, y):
        return dy

    def relu(dy, y):
        return dy if y > zero else zero

    def leaky_relu(dy, y):
        return dy if y > zero else dy * leak

    def hyperbolic(dy, y):
        return dy * (one - y * y)

    def sigmoid(dy, y):
        return dy * (y * (one - y))

    def gelu(dy, z):
        return dy * (half * erfc(z * minus_root_half) + z * (exp(z * z * -half) * density))

    def silu(
        dy, z
    ):  # g (1 + z (1 - g)), g = sigmoid(z); 1 - g as sigmoid(-z), which keeps its digits where g is near 1
        return dy * (one / (one + exp(-z)) * (one + z * (one / (one + exp(z)))))

    def softplus(dy, z):
        return dy * (one / (one + exp(-z)))

    def sine(dy, z):
        return dy * cos(z)

    functions = {
        "identity": identity,
        "relu": relu,
        "leaky_relu": leaky_relu,
        "tanh": hyperbolic,
        "sigmoid": sigmoid,
        "gelu": gelu,
        "silu": silu,
        "softplus": softplus,
        "sine": sine,
    }
    return cuda.jit(device=True)(functions[name])
