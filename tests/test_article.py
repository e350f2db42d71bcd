"""The article's program, its import and class lines replaced, against the same arithmetic in float64."""

import copy
import pickle

import numpy as np
import pytest

import fastmlp
from fastmlp import ArgumentError, ShapeError
from fastmlp.kernels import backend as backends

PROGRAM = """
import numpy as np
from fastmlp import NeuralNetwork, train, test

x_train = np.random.rand(100, 10)
y_train = np.random.randint(0, 2, (100, 2))
x_test = np.random.rand(100, 10)
y_test = np.random.randint(0, 2, (100, 2))

model = NeuralNetwork(10, 5, 2)

train(model, x_train, y_train, learning_rate=0.1, epochs=1000)

accuracy = test(model, x_test, y_test)
print("Test accuracy:", accuracy)
"""


def parameters(model):
    return [model.weights["h"], model.weights["o"], model.biases["h"], model.biases["o"]]


def trained_in_numpy(first, x, y, learning_rate, epochs, dtype):
    """The article's arithmetic: loss = mean((y - y_pred)^2), a gradient-descent step an epoch."""
    x, y = x.astype(dtype), y.astype(dtype)
    wh, wo, bh, bo = (array.astype(dtype) for array in first)
    rate = dtype(learning_rate)
    for _ in range(epochs):
        h = x @ wh + bh
        dy = (h @ wo + bo - y) * dtype(2 / y.size)
        dh = dy @ wo.T
        wo = wo - rate * (h.T @ dy)
        bo = bo - rate * dy.sum(0)
        wh = wh - rate * (x.T @ dh)
        bh = bh - rate * dh.sum(0)
    return [wh, wo, bh, bo]


@pytest.mark.parametrize("data_seed", [0, 1, 2])
def test_its_program_trains_the_same_weights(backend_name, data_seed, monkeypatch, capsys):
    """Each weight errs, against float64, at most twice as much as the worst of NumPy's own float32 run."""
    resolve = backends.resolve
    monkeypatch.setattr(backends, "resolve", lambda name, *_: resolve(backend_name if name == "auto" else name))
    random = np.random.RandomState(data_seed)
    monkeypatch.setattr(np.random, "rand", random.rand)
    monkeypatch.setattr(np.random, "randint", random.randint)
    program = {}
    exec(PROGRAM, program)
    model, x, y = program["model"], program["x_train"], program["y_train"]
    assert model.network.backend == backend_name

    first = parameters(fastmlp.NeuralNetwork(10, 5, 2))
    exact = trained_in_numpy(first, x, y, 0.1, 1000, np.float64)
    single = trained_in_numpy(first, x, y, 0.1, 1000, np.float32)
    allowed = 2 * max(np.abs(w - w64).max() for w, w64 in zip(single, exact, strict=True))
    assert allowed < 1e-4, "the comparison itself would mean nothing"
    for w, w64 in zip(parameters(model), exact, strict=True):
        assert w.dtype == np.float32
        assert np.abs(w - w64).max() <= allowed

    wh, wo, bh, bo = exact
    hits = ((program["x_test"] @ wh + bh) @ wo + bo).argmax(1) == program["y_test"].argmax(1)
    assert program["accuracy"] == hits.mean()
    assert capsys.readouterr().out == f"Test accuracy: {hits.mean()}\n"


def test_in_double_precision(backend_name, rng):
    """1000 steps of a contraction: rounding errors of some eps a step do not grow beyond 1000 of them."""
    x, y = rng.random((100, 10)), rng.integers(0, 2, (100, 2))
    model = fastmlp.NeuralNetwork(10, 5, 2, dtype="float64", backend=backend_name)
    expected = trained_in_numpy(parameters(model), x, y, 0.1, 1000, np.float64)
    history = fastmlp.train(model, x, y, 0.1)
    assert history.epochs == 1000
    for w, w64 in zip(parameters(model), expected, strict=True):
        assert np.abs(w - w64).max() <= 1000 * 10 * np.finfo(np.float64).eps


def test_forward_is_the_formula(backend_name, rng):
    model = fastmlp.NeuralNetwork(3, 4, 2, backend=backend_name)
    for array in parameters(model):
        array[...] = rng.integers(-3, 4, array.shape)
    x = rng.integers(-3, 4, (6, 3))
    wh, wo, bh, bo = parameters(model)
    np.testing.assert_array_equal(model.forward(x), (x @ wh + bh) @ wo + bo)


def test_weights_and_biases_are_standard_normal():
    model = fastmlp.NeuralNetwork(100, 200, 300, backend="numpy")
    assert [array.shape for array in parameters(model)] == [(100, 200), (200, 300), (200,), (300,)]
    for array in parameters(model):
        assert abs(array.mean()) < 5 / np.sqrt(array.size)
        assert abs(array.std() - 1) < 5 / np.sqrt(2 * array.size)
    other = fastmlp.NeuralNetwork(100, 200, 300, backend="numpy", seed=1)
    assert not np.array_equal(model.weights["h"], other.weights["h"])


def test_weights_stay_views_of_one_network(backend_name, rng):
    model = fastmlp.NeuralNetwork(3, 4, 2, backend=backend_name)
    with pytest.raises(TypeError):
        model.weights["h"] = np.zeros((3, 4))
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        for model_array, twin_array in zip(parameters(model), parameters(twin), strict=True):
            np.testing.assert_array_equal(model_array, twin_array)
            assert np.shares_memory(twin_array, twin.network.parameters)
            assert not np.shares_memory(model_array, twin_array)


def test_accuracy_takes_what_the_article_takes(backend_name):
    model = fastmlp.NeuralNetwork(2, 2, 2, backend=backend_name)
    for w in model.weights.values():
        w[...] = np.eye(2)
    for b in model.biases.values():
        b[...] = 0
    x = np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0], [2.0, 3.0]])
    assert fastmlp.test(model, x, [[1, 0], [0, 1], [0, 1], [0, 1]]) == 0.75


def test_bad_input_is_refused_before_anything_is_written(backend_name):
    model = fastmlp.NeuralNetwork(3, 4, 2, backend=backend_name)
    before = model.network.parameters.tobytes()
    x, y = np.ones((5, 3)), np.ones((5, 2))
    for bad in (0, -1, np.nan, np.inf, "fast", None):
        with pytest.raises(ArgumentError, match="learning_rate must be"):
            fastmlp.train(model, x, y, bad)
    with pytest.raises(ShapeError, match="y must have shape"):
        fastmlp.train(model, x, y.T, 0.1)
    with pytest.raises(ShapeError, match="y must have shape"):
        fastmlp.test(model, x, y[:3])
    with pytest.raises(ShapeError, match="y must have shape"):
        fastmlp.test(model, x, y.argmax(1))
    assert model.network.parameters.tobytes() == before
