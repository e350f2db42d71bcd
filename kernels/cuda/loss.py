"""The losses J of a network's outputs and their gradients dJ/dy."""

from typing import Any

import numpy as np

from ..network import Network
from . import losses
from .memory import empty
from .reduction import mean, partial_sums


def loss(network: Network, y: Any, target: Any, dy: Any = None) -> float:
    """J of outputs y[n, m] against the target; writes dJ/dy to dy[n, m] if given. NaN where there is no element.

    Waits for the device.
    """
    if y.size == 0:
        return float("nan")
    out = empty(1, np.dtype(float))
    loss_to(network, y, target, dy, partial_sums(), out, 0)
    return float(out[0])


def loss_to(network: Network, y: Any, target: Any, dy: Any, partials: Any, out: Any, place: int) -> None:
    """As `loss`, for at least one element, but writes J to out[place] on the device and waits for nothing."""
    n, m = y.shape
    dtype, gradient = np.dtype(y.dtype), dy is not None
    written = dy if gradient else y
    clips = network.loss in ("log_loss", "binary_log_loss")
    if network.loss in ("cross_entropy", "log_loss"):
        term = losses.cross_entropy(dtype, gradient, target.ndim == 1, clips)
        mean(term, n, (y, target, written, float(n)), n, partials, out, place)
        return
    if network.loss in ("binary_cross_entropy", "binary_log_loss"):
        term = losses.binary_cross_entropy(dtype, gradient, clips)
        scale = divisor = n if clips else n * m
    else:
        term = losses.squared_error(dtype, gradient)
        scale, divisor = (n * m / 2, n * m) if network.loss == "mse" else (n, 2 * n)
    extra = y.reshape(-1), target.reshape(-1), written.reshape(-1), float(scale)
    mean(term, n * m, extra, divisor, partials, out, place)
