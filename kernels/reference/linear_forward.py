"""One linear layer forward: z = x @ w + b; y = activation(z)."""

import numpy as np

from .activations import activate
from .bias_add import bias_add
from .matmul import matmul


def linear_forward(
    x: np.ndarray, w: np.ndarray, b: np.ndarray, y: np.ndarray, z: np.ndarray | None, activation: str
) -> None:
    """Write activation(x[n, k] @ w[k, m] + b[m]) to y[n, m], and the activation's argument to z[n, m] if not None."""
    before = y if z is None else z
    matmul(x, w, before)
    bias_add(before, b, before)
    activate(activation, before, y)
