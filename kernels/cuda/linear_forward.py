"""One linear layer forward: z = x @ w + b; y = activation(z), all in the product's epilogue."""

import functools
from typing import Any

import numpy as np
from numba import cuda

from .activations import activation as activation_function
from .product import product


@functools.cache
def bias_and_activation(activation: str, dtype: np.dtype, keep: bool) -> Any:
    """The epilogue with extra = (b, y, z); z is written if `keep`."""
    activate = activation_function(activation, dtype)

    @cuda.jit(device=True)
    def finish(value, row, column, extra):
        b, y, z = extra
        before = value + b[column]
        if keep:
            z[row, column] = before
        y[row, column] = activate(before)

    return finish


def linear_forward(x: Any, w: Any, b: Any, y: Any, z: Any, activation: str) -> None:
    """Write activation(x[n, k] @ w[k, m] + b[m]) to y[n, m], and the activation's argument to z[n, m] if not None."""
    epilogue = bias_and_activation(activation, np.dtype(x.dtype), z is not None)
    product(x, w, epilogue, (b, y, y if z is None else z))
