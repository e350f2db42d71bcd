"""J = mean((y - t)^2), and its gradient."""

import numpy as np

from .loss import value_and_gradient
from .losses import MSE


def mse(y: np.ndarray, t: np.ndarray, gradient: np.ndarray | None = None) -> float:
    """The mean squared error of y[n, m] against t[n, m]; NaN where there is no element, as NumPy's mean.

    Writes 2 (y - t) / (n m) to gradient[n, m] if given.
    """
    return value_and_gradient(MSE, y, t, gradient)
