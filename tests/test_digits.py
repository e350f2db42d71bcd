"""The digits that come with the package, and a classifier trained on them."""

import numpy as np
import pytest
from sklearn.datasets import load_digits as scikit_digits

from fastmlp import MLP
from fastmlp.data import load_digits


def test_the_digits_are_scikit_learns_in_the_documented_split():
    source = scikit_digits()
    rank = np.array([np.sum(source.target[:i] == digit) for i, digit in enumerate(source.target)])
    test = rank % 5 == 4
    x_train, y_train, x_test, y_test = load_digits()
    for x, y, rows in ((x_train, y_train, ~test), (x_test, y_test, test)):
        assert (x.dtype, y.dtype) == (np.float32, np.int64)
        np.testing.assert_array_equal(16 * x, source.data[rows])
        np.testing.assert_array_equal(y, source.target[rows])
    assert x_train.shape == (1442, 64)
    assert x_test.shape == (355, 64)
    assert set(np.bincount(y_test)) <= {34, 35, 36}
    assert (x_train.min(), x_train.max()) == (0, 1)


def test_each_call_returns_fresh_arrays():
    load_digits()[0][...] = 7
    assert load_digits()[0].max() == 1


@pytest.fixture(scope="module")
def accuracy():
    """Test accuracy of 64-128-10 after 30 epochs, by backend and seed; each trained once."""
    found = {}
    x_train, y_train, x_test, y_test = load_digits()

    def of(backend_name, seed):
        if (backend_name, seed) not in found:
            net = MLP((64, 128, 10), loss="cross_entropy", optimizer="adam", learning_rate=3e-3, backend=backend_name,
                      seed=seed)  # fmt: skip
            net.fit(x_train, y_train, epochs=30, batch_size=128)
            found[backend_name, seed] = float(np.mean(net.predict(x_test).argmax(axis=1) == y_test))
        return found[backend_name, seed]

    return of


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_classifier_reaches_96_percent_as_the_reference_does(backend_name, seed, accuracy):
    assert accuracy(backend_name, seed) >= 0.96
    assert abs(accuracy(backend_name, seed) - accuracy("numpy", seed)) <= 0.005
