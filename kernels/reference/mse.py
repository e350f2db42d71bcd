"""J = mean((y - t)^2), and its gradient."""

import numpy as np

from .blocks import blocks


def mse(y: np.ndarray, t: np.ndarray, gradient: np.ndarray | None = None) -> float:
    """The mean squared error of y[n, m] against t[n, m]; NaN where there is no element, as NumPy's mean.

    Writes 2 (y - t) / (n m) to gradient[n, m] if given.
    """
    count = y.size
    total = squared_error(y, t, gradient)
    if count == 0:
        return float("nan")
    if gradient is not None:
        np.divide(gradient, count / 2, out=gradient)
    return total / count


def squared_error(y: np.ndarray, t: np.ndarray, difference: np.ndarray | None) -> float:
    """The sum of (y - t)^2; writes y - t to `difference` if given.

    The difference is taken in the arrays' own dtype; its squares are taken and summed in float64, pairwise.
    """
    if difference is not None:
        np.subtract(y, t, out=difference)
        return sum(_squares(block) for (block,) in blocks(difference))
    return sum(_squares(np.subtract(y_, t_)) for y_, t_ in blocks(y, t))


def _squares(block: np.ndarray) -> float:
    return float(np.add.reduce(np.square(block, dtype=np.float64)))
