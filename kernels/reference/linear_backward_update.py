"""One linear layer backward, its parameters stepped by the optimiser."""

from collections.abc import Callable

import numpy as np

from ..network import Optimizer
from .activations import differentiate
from .matmul import matmul
from .optimizers import apply_l2, step
from .rounding import operand


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
    """Write dz[n, m] = dy * activation'(saved) and dx[n, k] = dz @ w.T, then step w[k, m] and b[m].

    dx may be None, dz may be dy. `state[slots, (k + 1) m]` holds w's memory, then b's. NumPy cannot step w without its
    whole gradient in memory, so this allocates it.
    """
    dw, db = np.empty_like(w), np.empty_like(b)
    linear_backward(x, w, saved, dy, dz, dx, dw, db, activation)
    scratch = np.empty_like(w)
    apply_l2(optimizer, w, dw, scratch)
    step(optimizer, w, dw, state[:, : w.size].reshape(len(state), *w.shape), updates, scratch)
    step(optimizer, b, db, state[:, w.size :], updates, np.empty_like(b))


def linear_backward(
    x: np.ndarray,
    w: np.ndarray,
    saved: np.ndarray,
    dy: np.ndarray,
    dz: np.ndarray,
    dx: np.ndarray | None,
    dw: np.ndarray,
    db: np.ndarray,
    activation: str,
    rounded: np.ndarray | None = None,
    product: Callable[..., None] = matmul,
    note: Callable[[str], None] | None = None,
) -> None:
    """The gradients alone: dz = dy * activation'(saved); dw = x.T @ dz; db = sum of dz over the rows; dx = dz @ w.T.

    For a network of dtype bfloat16 x and w are rounded already, and the products take dz from `rounded`[n, m].
    `product` multiplies as matmul does. `note` is told when a part of contract.STEP_PHASES has ended.
    """
    differentiate(activation, saved, dy, dz)
    if note is not None:
        note("derivative")
    factor = operand(dz, rounded)
    product(x, factor, dw, transpose_a=True)
    np.add.reduce(dz, axis=0, out=db)
    if note is not None:
        note("weight gradient")
    if dx is not None:
        product(factor, w, dx, transpose_b=True)
        if note is not None:
            note("input gradient")
