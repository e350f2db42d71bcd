"""The samples that a fit is judged by and does not train on: part of X, or a user's own."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.base import is_classifier
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import _check_sample_weight, check_consistent_length, validate_data

from .sparse import dense


class HeldOut(NamedTuple):
    """Samples to be judged by: `target` as the loss takes it, `y` as the score does."""

    X: Any
    target: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray | None


def split(
    estimator: Any, X: np.ndarray, y: np.ndarray, sample_weight: Any
) -> tuple[np.ndarray, np.ndarray, Any, HeldOut]:
    """X, y and sample_weight without the part that early stopping goes by, and that part, by scikit-learn's draws."""
    parts = train_test_split(
        *((X, y) if sample_weight is None else (X, y, sample_weight)),
        random_state=estimator._random_state,
        test_size=estimator.validation_fraction,
        stratify=y if is_classifier(estimator) and estimator.n_outputs_ == 1 else None,
    )
    X, X_val, y, target = parts[:4]
    sample_weight, sample_weight_val = parts[4:] or (None, None)
    if len(X_val) < 2:
        raise ValueError("The validation set is too small. Increase 'validation_fraction' or the size of your dataset.")
    y_val = estimator._label_binarizer.inverse_transform(target) if is_classifier(estimator) else target
    return X, y, sample_weight, HeldOut(X_val, target, y_val, sample_weight_val)


def of_user(estimator: Any, X_val: Any, y_val: Any, sample_weight: Any) -> HeldOut:
    """A user's own validation samples, checked as those that are trained on were."""
    dtype = estimator.coefs_[0].dtype
    kinds = {"accept_sparse": ["csr", "csc"], "dtype": (np.float64, np.float32)}
    X_val = dense(validate_data(estimator, X_val, reset=False, **kinds)).astype(dtype, copy=False)
    check_consistent_length(X_val, y_val)
    y_val = np.asarray(y_val)
    if y_val.ndim == 2 and y_val.shape[1] == 1:
        y_val = y_val[:, 0]
    names_a_class = is_classifier(estimator) and not estimator._label_binarizer.y_type_.startswith("multilabel")
    if y_val.shape[1:] != (() if names_a_class or estimator.n_outputs_ == 1 else (estimator.n_outputs_,)):
        raise ValueError(f"y_val must have as many outputs as y; got shape {y_val.shape}.")
    if not is_classifier(estimator):
        target = y_val = y_val.astype(dtype).reshape(len(y_val), -1)
    else:
        unknown = np.setdiff1d(y_val, estimator.classes_)
        if len(unknown):
            raise ValueError(f"y_val holds classes that y does not: {unknown}; y has {estimator.classes_}.")
        target = estimator._label_binarizer.transform(y_val)
    if sample_weight is not None:
        sample_weight = _check_sample_weight(sample_weight, X_val)
    return HeldOut(X_val, target.astype(dtype), y_val, sample_weight)
