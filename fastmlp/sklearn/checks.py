"""Samples, labels and scores that scikit-learn's checks would pass as they are, told with fewer looks.

Those checks take a millisecond or two a fit, whatever the number of rows. What is not plain goes to them, for they
alone convert, warn and raise.
"""

from typing import Any

import numpy as np
from sklearn.metrics import accuracy_score, r2_score
from sklearn.preprocessing import LabelBinarizer


def is_plain_matrix(X: Any) -> bool:
    """Whether X is a filled array[n, k] of finite numbers in float32 or float64."""
    return (
        type(X) is np.ndarray
        and X.ndim == 2
        and X.dtype.char in "fd"
        and X.dtype.isnative
        and X.size > 0
        and bool(np.isfinite(X).all())
    )


def is_plain_target(y: Any, n: int) -> bool:
    """Whether y is an array[n] or [n, m], m > 1, of finite numbers."""
    return (
        type(y) is np.ndarray
        and (y.ndim == 1 or (y.ndim == 2 and y.shape[1] > 1))
        and len(y) == n
        and (y.dtype.char in "fd" or y.dtype.kind in "iu")
        and y.dtype.isnative
        and bool(np.isfinite(y).all())
    )


def are_plain_labels(y: Any, n: int) -> bool:
    """Whether y is an array[n] of booleans, integers or strings."""
    return type(y) is np.ndarray and y.shape == (n,) and y.dtype.kind in "biuU" and y.dtype.isnative


def fit_labels(y: np.ndarray) -> tuple[LabelBinarizer, np.ndarray] | None:
    """A binarizer that is fitted to plain labels, and the index of each of them in its `classes_`.

    None where scikit-learn warns of too many classes.
    """
    classes, codes = np.unique(y, return_inverse=True)
    if not _are_few(classes, len(y)):
        return None
    binarizer = LabelBinarizer()
    binarizer.classes_ = classes
    binarizer.y_type_ = "multiclass" if len(classes) > 2 else "binary"
    binarizer.sparse_input_ = False
    return binarizer, codes


def codes_among(classes: np.ndarray, y: Any, n: int) -> np.ndarray | None:
    """The index in `classes`, which are sorted, of each of y[n]; None where y is not plain or has other labels."""
    if not are_plain_labels(y, n) or not _are_few(classes, n):
        return None
    codes = np.searchsorted(classes, y)
    return codes if (classes.take(codes, mode="clip") == y).all() else None


def indicators(codes: np.ndarray, n_classes: int) -> np.ndarray:
    """What a binarizer makes of such labels, as booleans: [n, 1] for one class or two, else [n, n_classes]."""
    return codes[:, np.newaxis] == (np.arange(n_classes) if n_classes > 2 else 1)


def accuracy(classes: np.ndarray, y: Any, predicted: np.ndarray, sample_weight: Any) -> float:
    """scikit-learn's accuracy_score(y, predicted) for predictions out of `classes`."""
    if sample_weight is None and predicted.ndim == 1 and codes_among(classes, y, len(predicted)) is not None:
        return float((y == predicted).mean())
    return accuracy_score(y, predicted, sample_weight=sample_weight)


def r_squared(y: Any, predicted: np.ndarray, sample_weight: Any) -> float:
    """scikit-learn's r2_score(y, predicted), by its own operations, to the bit."""
    n = len(predicted)
    if sample_weight is None and predicted.ndim == 1 and _is_plain_column(y, n, predicted.dtype):
        y_true, y_predicted = y.reshape(n, 1), predicted.reshape(n, 1)
        residual = ((y_true - y_predicted) ** 2).sum(axis=0)
        total = ((y_true - y_true.mean(axis=0)) ** 2).sum(axis=0)
        if residual[0] < np.inf and total[0] > 0:
            return float((1 - residual / total)[0])
    return r2_score(y, predicted, sample_weight=sample_weight)


def _is_plain_column(y: Any, n: int, dtype: np.dtype) -> bool:
    return type(y) is np.ndarray and y.shape in ((n,), (n, 1)) and y.dtype == dtype and is_plain_matrix(y.reshape(n, 1))


def _are_few(classes: np.ndarray, n: int) -> bool:
    """Whether scikit-learn, which before 1.9 warned of more classes than half the samples, has nothing to say."""
    return n <= 20 or 2 * len(classes) <= n


def narrowed(X: Any, dtype: np.dtype) -> Any:
    """X, sparse or not, in this dtype. Raises ValueError for a finite element beyond its range."""
    with np.errstate(over="ignore"):
        converted = X.astype(dtype, copy=False)
    if dtype.itemsize < X.dtype.itemsize:
        before, after = (each.data if hasattr(each, "tocsr") else each for each in (X, converted))
        lost = np.isinf(after) & np.isfinite(before)
        if lost.any():
            raise ValueError(
                f"X holds {before[lost][0]}, which {dtype} cannot hold. Scale the data, or use dtype='float64'."
            )
    return converted
