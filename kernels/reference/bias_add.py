"""out = x + b."""

import numpy as np


def bias_add(x: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Add b[m] to every row of x[n, m]; `out` may be x itself."""
    np.add(x, b, out=out)
