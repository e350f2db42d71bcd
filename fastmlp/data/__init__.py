"""Data that comes with the package, so that a benchmark on real data needs no network."""

from importlib.resources import files

import numpy as np


def load_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The optical handwritten digits: `(x_train, y_train, x_test, y_test)`.

    `x_train[1442, 64]` and `x_test[355, 64]` are float32 in [0, 1], one 8x8 image a row; `y_train[1442]` and
    `y_test[355]` are int64 labels 0 to 9. The split is fixed: in the order of the source, every fifth image of
    each digit is a test image. Each call returns fresh arrays. Source and licence: `fastmlp/data/README.md`.
    """
    with files(__name__).joinpath("digits.npz").open("rb") as file, np.load(file, allow_pickle=False) as stored:
        x_train, x_test = (stored[name].astype(np.float32) / np.float32(16) for name in ("x_train", "x_test"))
        y_train, y_test = (stored[name].astype(np.int64) for name in ("y_train", "y_test"))
    return x_train, y_train, x_test, y_test
