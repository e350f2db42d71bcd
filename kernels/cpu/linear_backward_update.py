"""One layer backward: dz = dy * activation'(saved), dx = dz @ w.T, and w, b stepped along (x.T @ dz, sum of dz)."""

import numpy as np

from ..contract import GRADIENT_CODE, OPERATIONS, OPTIMIZERS
from ..network import Optimizer
from .activations import IDENTITY, copy_block, multiply_by_derivative, way_back_of
from .compile import entry, jit
from .direct import address
from .layer import PART_ROWS, input_gradient, parts_of_batch, update_layer
from .losses import chunk_rows
from .optimizers import L2, settings_of
from .packing import Shape, block_start
from .phases import claim, finish
from .simd import float64_at, pointer_at
from .team import conduct_by
from .workspace import products_for, room_for


@jit
def _activation_gradient(shared, me, n, m, derivative, dy, saved, dz):
    """A phase: dz[n, m] = dy * derivative(saved)."""
    rows = chunk_rows(n)
    chunks = -(-n // rows)
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        start = chunk * rows * m
        count = min(rows, n - chunk * rows)
        copy_block(count, m, dy + start, m, dz + start, m)
        multiply_by_derivative(derivative, count, m, dz + start, m, saved + start, m)
        chunk = claim(shared, me, chunks)
    finish(shared, me, chunks)


@entry
def _linear_backward_update(
    shared, me, like, zeros_address, packed_address, capacity, scratch_address, settings_address, summing_address,
    total_address, updates, n, k, m, x_address, w_address, b_address, saved, dy, dz_address, dx, state_address,
    derivative,
):  # fmt: skip
    zeros, packed = pointer_at(zeros_address, like), pointer_at(packed_address, like)
    scratch = pointer_at(scratch_address, like)
    x, w, b = pointer_at(x_address, like), pointer_at(w_address, like), pointer_at(b_address, like)
    dz, settings = pointer_at(dz_address, like), float64_at(settings_address)
    _activation_gradient(shared, me, n, m, derivative, pointer_at(dy, like), pointer_at(saved, like), dz)
    if dx != 0:
        dx_at = pointer_at(dx, like)
        input_gradient(shared, me, n, k, m, dz, w, dx_at, IDENTITY, dz, zeros, packed, capacity, scratch)
    state, total, slot = pointer_at(state_address, like), pointer_at(total_address, like), (k + 1) * m
    parts = parts_of_batch(n)
    for part in range(parts):
        first, end = block_start(n, part, parts), block_start(n, part + 1, parts)
        is_last, rows = part + 1 == parts, dz + first * m
        rule, w0 = (settings, state) if is_last else (float64_at(summing_address), total)
        b0 = w0 + k * m
        update_layer(
            shared, me, end - first, k, m, x + first * k, rows, end - first, rows, w, b, None, None, w0, w0 + slot, b0,
            b0 + slot, rule, settings[L2], updates, part > 0, total, total + k * m, zeros, packed, capacity, scratch,
        )  # fmt: skip


def linear_backward_update(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    saved: np.ndarray,
    dy: np.ndarray,
    dz: np.ndarray,
    dx: np.ndarray | None,
    activation: str,
    optimizer: Optimizer,
    state: np.ndarray,
    updates: int,
) -> None:
    """See kernels/README.md; writes w, b, state, dz and, if it is not None, dx. `updates` counts from 1."""
    (n, k), m = x.shape, w.shape[1]
    settings = settings_of(optimizer, OPTIMIZERS[optimizer.name].code, w.dtype)
    summing, total = settings, 0
    if n > PART_ROWS:
        summing, total = settings_of(optimizer, GRADIENT_CODE, w.dtype), room_for("total", (k + 1) * m, w.itemsize)
    flops = OPERATIONS["linear_backward_update"].flops(n, k, m)
    products, crew = products_for(w.dtype, [Shape(min(n, PART_ROWS), m), Shape(m, k)], flops)
    job = (
        *products.addresses, address(settings), address(summing), total, updates - 1,
        n, k, m, address(x), address(w), address(b), address(saved), address(dy), address(dz),
        0 if dx is None else address(dx), address(state), way_back_of(activation, w.dtype),
    )  # fmt: skip
    conduct_by(crew, _linear_backward_update.address(w.dtype), job, flops)
