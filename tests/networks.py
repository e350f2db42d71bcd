"""Small networks for the tests: parameters, data and canaried flat buffers."""

import copy
import pickle

import numpy as np
import oracles
import pytest
from rulings import small_integers

from fastmlp import MLP
from fastmlp.kernels import reference
from fastmlp.kernels.network import Network


def network(widths, activations, loss, dtype):
    if isinstance(activations, str):
        activations = (activations,) * (len(widths) - 1)
    return Network(tuple(widths), tuple(activations), loss, np.dtype(dtype))


def fill(net, buffer, rng):
    """Random parameters, about 1/sqrt(inputs) in size, zeros in the gaps between them."""
    buffer[...] = 0
    for layer, w, b in zip(net.layers, net.weights(buffer), net.biases(buffer), strict=True):
        w[...] = rng.normal(size=w.shape) / np.sqrt(layer.inputs)
        b[...] = rng.normal(size=b.shape) / 2
    return buffer


def data(net, rng, n, labels=True):
    """Inputs and targets of n samples in the network's dtype."""
    x = rng.normal(size=(n, net.widths[0])).astype(net.dtype)
    t = oracles.target(net.loss, rng, n, net.widths[-1], labels)
    return x, t if t.ndim == 1 else t.astype(net.dtype)


def assert_exact_on_small_integers(backend, net, rng, n, scale=1):
    """Outputs and gradients of n samples, `scale` times as large, have the reference's bits: no sum is rounded."""
    parameters = np.zeros(net.size, np.float32)
    for view in (*net.weights(parameters), *net.biases(parameters)):
        view[...] = small_integers(rng, view.shape, np.float32)
    x = small_integers(rng, (n, net.widths[0]), np.float32) * np.float32(scale)
    t, results = small_integers(rng, (n, net.widths[-1]), np.float32), []
    for module in (backend, reference):
        out, gradient = np.empty_like(t), np.zeros(net.size, np.float32)
        module.forward(net, parameters, x, out, module.Workspace(net, 3, False))
        value = module.gradients(net, parameters, x, t, gradient, module.Workspace(net, n, True))
        results.append((out, gradient, value))
    (out, gradient, value), (expected, expected_gradient, expected_value) = results
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(gradient, expected_gradient)
    assert value == pytest.approx(expected_value, rel=1e-6)


def gaps(net, buffer):
    """The elements of a flat buffer that belong to no weight and no bias."""
    used = np.zeros(net.size, bool)
    for view in (*net.weights(used), *net.biases(used)):
        view[...] = True
    return buffer[..., ~used]


def wide(net, buffer, kind):
    """Weights and biases of a flat buffer as copies in another precision."""
    return [w.astype(kind) for w in net.weights(buffer)], [b.astype(kind) for b in net.biases(buffer)]


def copied(net, way, folder):
    """A network as it comes back from a file in the folder, from a pickle or from copy.deepcopy."""
    if way == "file":
        net.save(folder / "net")
        return MLP.load(folder / "net", net.backend)
    return pickle.loads(pickle.dumps(net)) if way == "pickle" else copy.deepcopy(net)
