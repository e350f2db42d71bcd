"""J = mean((y - t)^2), and its gradient."""

from typing import Any

import numpy as np

from . import losses
from .memory import empty
from .reduction import mean, partial_sums


def mse(y: Any, t: Any, gradient: Any = None) -> float:
    """The mean squared error of y[n, m] against t[n, m]; NaN where there is no element. Waits for the device.

    Writes 2 (y - t) / (n m) to gradient[n, m] if given.
    """
    if y.size == 0:
        return float("nan")
    term = losses.squared_error(np.dtype(y.dtype), gradient is not None)
    out = empty(1, np.dtype(float))
    extra = y.reshape(-1), t.reshape(-1), (y if gradient is None else gradient).reshape(-1), y.size / 2
    mean(term, y.size, extra, y.size, partial_sums(), out, 0)
    return float(out[0])
