"""One linear layer backward, its parameters stepped by the optimiser in the weight gradient's epilogue.

The weight gradient never reaches memory: each of its elements goes from a register into the optimiser. The bias
gradient is its last row, x having a column of ones that is not stored.
"""

import functools
from typing import Any

import numpy as np
from numba import cuda

from ..network import Optimizer
from .activations import derivative
from .launch import THREADS, blocks_for, launch
from .matmul import store
from .optimizers import rule, settings
from .product import product


@functools.cache
def _differentiate(activation: str, dtype: np.dtype) -> Any:
    function = derivative(activation, dtype)

    @cuda.jit
    def kernel(saved, dy, dz):
        for i in range(cuda.grid(1), dy.size, cuda.gridsize(1)):
            dz[i] = function(dy[i], saved[i])

    return kernel


def differentiate(activation: str, saved: Any, dy: Any, dz: Any) -> None:
    """Write dy * activation'(saved) to dz[n, m], which may be dy; nothing to do if it is and there is no activation."""
    if activation != "identity" or dz is not dy:
        kernel = _differentiate(activation, np.dtype(dy.dtype))
        launch(kernel, blocks_for(dy.size), THREADS, saved.reshape(-1), dy.reshape(-1), dz.reshape(-1))


@functools.cache
def _times_derivative(activation: str, dtype: np.dtype) -> Any:
    """The epilogue with extra = (saved, dz): the input gradient, times the derivative of the layer below."""
    function = derivative(activation, dtype)

    @cuda.jit(device=True)
    def finish(value, row, column, extra):
        saved, dz = extra
        dz[row, column] = function(value, saved[row, column])

    return finish


def input_gradient(dz: Any, w: Any, dx: Any, activation: str | None = None, saved: Any = None) -> None:
    """Write dx[n, k] = dz @ w.T, times activation'(saved[n, k]) of the layer below if that is given."""
    if activation is None:
        product(dz, w, store, (dx,), transpose_b=True)
    else:
        product(dz, w, _times_derivative(activation, np.dtype(dz.dtype)), (saved, dx), transpose_b=True)


@functools.cache
def _update(name: str, dtype: np.dtype, decays: bool) -> Any:
    """The epilogue with extra = (w, b, state, places of w and b in it, settings)."""
    step_weight, step_bias = rule(name, dtype, decays), rule(name, dtype, False)

    @cuda.jit(device=True)
    def finish(value, row, column, extra):
        w, b, state, w_place, b_place, numbers = extra
        if row < w.shape[0]:
            place = w_place + row * w.shape[1] + column
            w[row, column] = step_weight(w[row, column], value, state, place, numbers)
        else:
            b[column] = step_bias(b[column], value, state, b_place + column, numbers)

    return finish


def update(
    x: Any, dz: Any, w: Any, b: Any, state: Any, w_place: int, b_place: int, optimizer: Optimizer, numbers: Any
) -> None:
    """Step w[k, m] and b[m] along x.T @ dz and the sums of dz; their memory begins at these places of state[slots].

    numbers: optimizers.settings of the update, a tuple of them or an array on the device.
    """
    epilogue = _update(optimizer.name, np.dtype(x.dtype), optimizer.l2 != 0)
    memory = state if optimizer.slots else w  # never read then
    extra = w, b, memory, w_place, b_place, numbers
    product(x, dz, epilogue, extra, transpose_a=True, ones_row=True)


@cuda.jit(device=True)
def _keep(value, row, column, extra):
    """The epilogue with extra = (dw, db)."""
    dw, db = extra
    if row < dw.shape[0]:
        dw[row, column] = value
    else:
        db[column] = value


def parameter_gradients(x: Any, dz: Any, dw: Any, db: Any) -> None:
    """Write dw[k, m] = x.T @ dz and db[m], the sums of dz over the rows."""
    product(x, dz, _keep, (dw, db), transpose_a=True, ones_row=True)


def linear_backward_update(
    x: Any,
    w: Any,
    b: Any,
    saved: Any,
    dy: Any,
    dz: Any,
    dx: Any,
    activation: str,
    optimizer: Optimizer,
    state: Any,
    updates: int,
) -> None:
    """Write dz[n, m] = dy * activation'(saved) and dx[n, k] = dz @ w.T, then step w[k, m] and b[m].

    dx may be None, dz may be dy. `state[slots, (k + 1) m]` holds w's memory, then b's.
    """
    differentiate(activation, saved, dy, dz)
    if dx is not None:
        input_gradient(dz, w, dx)  # before w is stepped
    update(x, dz, w, b, state, 0, w.size, optimizer, settings(optimizer, updates))
