"""forward: a whole network, any number of rows, over all backends."""

import numpy as np
import oracles
import pytest
from networks import data, fill, network, wide
from rulings import assert_no_worse, assert_same_bits, assert_same_special_values, small_integers

from fastmlp.kernels import reference
from fastmlp.kernels.contract import ACTIVATIONS

MIXED = ("relu", "tanh", "gelu", "identity")


@pytest.mark.parametrize("rows", [1, 7, 100, 128])
def test_exact_on_small_integers_in_blocks_of_any_size(backend, dtype, rng, canary, rows):
    net = network((17, 33, 15, 3), ("relu", "identity", "relu"), "mse", dtype)
    parameters = canary(net.size, dtype, content=0)
    for view in (*net.weights(parameters), *net.biases(parameters)):
        view[...] = small_integers(rng, view.shape, dtype) % 2
    x, out = small_integers(rng, (100, 17), dtype), canary((100, 3), dtype)
    before = parameters.copy()
    backend.forward(net, parameters, x, out, backend.Workspace(net, rows, False))
    expected = x
    for w, b, activation in zip(net.weights(before), net.biases(before), net.activations, strict=True):
        expected = oracles.ACTIVATION[activation](expected @ w + b)
    np.testing.assert_array_equal(out, expected)
    assert_same_bits(parameters, before)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("widths", [(1, 1), (45, 46), (64, 128, 10), (10, 100, 31, 17, 3), (257, 1, 45)])
def test_no_worse_than_numpy(backend, dtype, rng, canary, widths, training):
    net = network(widths, [MIXED[i % 4] for i in range(len(widths) - 1)], "mse", dtype)
    workspace = backend.Workspace(net, 128, training)
    drawn = []
    for _ in range(5):
        parameters = fill(net, canary(net.size, dtype), rng)
        x, _ = data(net, rng, 150)
        out = canary((150, widths[-1]), dtype, offset=1)
        backend.forward(net, parameters, x, out, workspace)
        own = oracles.forward(net.activations, *wide(net, parameters, dtype), x)[1][-1]
        exact = oracles.forward(net.activations, *wide(net, parameters, np.longdouble), x.astype(np.longdouble))[1][-1]
        drawn.append([out, own, exact])
    got, own, exact = (np.array(column) for column in zip(*drawn, strict=True))
    assert own.dtype == dtype
    assert_no_worse(got, own, exact, quantile=0.999)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_inf_land_where_the_reference_has_them(backend, dtype, rng, activation):
    net = network((9, 14, 5), activation, "mse", dtype)
    parameters = fill(net, np.empty(net.size, dtype), rng)
    x, _ = data(net, rng, 30)
    x[3, 4], x[10, 0], x[20, 8] = np.nan, np.inf, -np.inf
    out, expected = np.empty((30, 5), dtype), np.empty((30, 5), dtype)
    backend.forward(net, parameters, x, out, backend.Workspace(net, 16, False))
    reference.forward(net, parameters, x, expected, reference.Workspace(net, 16, False))
    assert_same_special_values(out, expected)
    finite = np.isfinite(x).all(axis=1)
    assert np.isfinite(out[finite]).all()
    assert np.isnan(out[3]).all()


def test_same_bits_from_run_to_run(backend, dtype, rng):
    net = network((64, 128, 10), ("gelu", "identity"), "mse", dtype)
    parameters = fill(net, np.empty(net.size, dtype), rng)
    x, _ = data(net, rng, 300)
    workspace = backend.Workspace(net, 128, False)
    outs = [np.empty((300, 10), dtype) for _ in range(3)]
    for out in outs[:2]:
        backend.forward(net, parameters, x, out, workspace)
    backend.forward(net, parameters, x, outs[2], backend.Workspace(net, 128, False))
    assert_same_bits(outs[0], outs[1])
    assert_same_bits(outs[0], outs[2])


def test_no_rows(backend, dtype, rng):
    net = network((3, 4), "relu", "mse", dtype)
    parameters = fill(net, np.empty(net.size, dtype), rng)
    backend.forward(net, parameters, np.empty((0, 3), dtype), np.empty((0, 4), dtype), backend.Workspace(net, 8, False))


def test_the_workspace_says_its_size(backend, dtype):
    net = network((64, 128, 10), "relu", "mse", dtype)
    inference, training = backend.Workspace(net, 128, False), backend.Workspace(net, 128, True)
    assert inference.rows == training.rows == 128
    assert 128 * 128 * dtype.itemsize <= inference.nbytes < training.nbytes
