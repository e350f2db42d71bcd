"""One linear layer forward: z = x @ w + b; y = activation(z)."""

from collections.abc import Callable

import numpy as np

from .activations import activate
from .bias_add import bias_add
from .matmul import matmul


def linear_forward(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    y: np.ndarray,
    z: np.ndarray | None,
    activation: str,
) -> None:
    """Write activation(x[n, k] @ w[k, m] + b[m]) to y[n, m], and the activation's argument to z[n, m] if not None."""
    forward_layer(x, w, b, y, z, activation)


def forward_layer(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    y: np.ndarray,
    z: np.ndarray | None,
    activation: str,
    product: Callable[..., None] = matmul,
    note: Callable[[str], None] | None = None,
) -> None:
    """As `linear_forward`, in training and with products of other precisions.

    `product` multiplies as matmul does. `note` is told when a part of contract.STEP_PHASES has ended.
    """
    before = y if z is None else z
    product(x, w, before)
    bias_add(before, b, before)
    if note is not None:
        note("forward")
    activate(activation, before, y)
    if note is not None:
        note("activation")
