"""Sparse samples: our kernels multiply dense ones, and are told when to take a dense copy."""

from typing import Any

import numpy as np

FEW_FEATURES = 512
"""With so many or fewer, dense steps are faster at any density: 1.4 to 12 times, where scikit-learn walks the rows."""

LEAST_DENSITY = 0.3
"""Of entries that are stored, for dense steps of many features to be faster: 1.6 to 4.7 times at 5000."""

MOST_BYTES = 2**28
"""Of a dense copy, so that nobody who saved memory by sparse samples loses it to us."""


def why_left_sparse(X: Any) -> str | None:
    """Why the sparse matrix X[n, k] should not be made dense; None if it should, or is."""
    if isinstance(X, np.ndarray):
        return None
    n, k = X.shape
    if k > FEW_FEATURES and X.nnz < LEAST_DENSITY * n * k:
        return f"X is sparse, with {k} features of which {X.nnz / (n * k):.2g} are stored"
    size = n * k * X.dtype.itemsize
    return f"X is sparse, and would take {size / 2**20:.0f} MiB if it were dense" if size > MOST_BYTES else None


def dense(X: Any) -> np.ndarray:
    """X, or what a sparse matrix stands for."""
    return X if isinstance(X, np.ndarray) else X.toarray(order="C")
