"""gradients: dJ/dparameters of a whole network, against central differences and against plain NumPy."""

import itertools

import guarded
import numpy as np
import oracles
import pytest
from networks import data, fill, gaps, network, wide
from rulings import assert_no_worse, assert_same_bits, assert_same_special_values

from fastmlp.kernels import reference
from fastmlp.kernels.contract import ACTIVATIONS, LOSSES
from fastmlp.kernels.cpu import across
from fastmlp.kernels.network import aligned_zeros


def losses_at(backend, net, parameters, x, t, workspace):
    out = np.empty((len(x), net.widths[-1]), net.dtype)
    backend.forward(net, parameters, x, out, workspace)
    return backend.loss(net, out, t)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_central_differences(backend, rng, canary, activation, loss):
    """Every parameter of a small float64 network.

    With a step of eps^(1/3) truncation and rounding are both of the order eps^(2/3) times J and its third derivative.
    """
    net = network((4, 5, 3, 2), activation, loss, np.float64)
    parameters = fill(net, canary(net.size, np.float64), rng)
    x, t = data(net, rng, 7, labels=activation != "tanh")
    workspace = backend.Workspace(net, 7, True)
    gradient = canary(net.size, np.float64, content=0)
    value = backend.gradients(net, parameters, x, t, gradient, workspace)
    assert value == pytest.approx(losses_at(backend, net, parameters, x, t, workspace), rel=1e-14)
    assert (gaps(net, gradient) == 0).all()

    eps = np.finfo(np.float64).eps
    step = eps ** (1 / 3)
    differences = np.zeros(net.size)
    for i in range(net.size):
        kept = parameters[i]
        parameters[i] = kept + step
        above = losses_at(backend, net, parameters, x, t, workspace)
        parameters[i] = kept - step
        below = losses_at(backend, net, parameters, x, t, workspace)
        parameters[i] = kept
        differences[i] = (above - below) / (2 * step)
    tolerance = 100 * eps ** (2 / 3) * max(1, value)
    np.testing.assert_allclose(gradient, differences, rtol=0, atol=tolerance)
    assert np.abs(gradient).max() > 1e6 * tolerance


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_no_worse_than_numpy(backend, dtype, rng, canary, activation, loss):
    net = network((45, 46, 17), (activation, "identity"), loss, dtype)
    workspace = backend.Workspace(net, 128, True)
    drawn = []
    for _ in range(5):
        parameters = fill(net, canary(net.size, dtype), rng)
        x, t = data(net, rng, 100)
        gradient = canary(net.size, dtype, content=0)
        backend.gradients(net, parameters, x, t, gradient, workspace)
        t64 = t if t.ndim == 1 else t.astype(np.longdouble)
        own = oracles.gradients(net.activations, loss, *wide(net, parameters, dtype), x, t)
        exact = oracles.gradients(
            net.activations, loss, *wide(net, parameters, np.longdouble), x.astype(np.longdouble), t64
        )
        pairs = (net.weights(gradient), net.biases(gradient)), own[1:], exact[1:]
        drawn.append([np.concatenate([a.ravel() for a in (*dw, *db)]) for dw, db in pairs])
    got, own, exact = (np.array(column) for column in zip(*drawn, strict=True))
    assert own.dtype == dtype
    assert_no_worse(got, own, exact, quantile=0.999)


def test_exact_on_small_integers(backend, dtype, canary):
    """Two samples, relu, mse: every number on the way is an integer over a power of two."""
    net = network((2, 2, 1), ("relu", "identity"), "mse", dtype)
    parameters = canary(net.size, dtype, content=0)
    net.weights(parameters)[0][...] = [[1, -1], [2, 1]]
    net.weights(parameters)[1][...] = [[3], [-2]]
    net.biases(parameters)[0][...] = [0, 1]
    net.biases(parameters)[1][...] = [1]
    x, t = np.array([[1, 2], [-1, -3]], dtype), np.array([[4], [2]], dtype)
    gradient = canary(net.size, dtype, content=0)
    # Hidden: [5, 2] and [0, 0]; outputs 12 and 1; y - t = 8 and -1; J = (64 + 1) / 2.
    assert backend.gradients(net, parameters, x, t, gradient, backend.Workspace(net, 2, True)) == 32.5
    np.testing.assert_array_equal(net.weights(gradient)[1], [[40], [16]])
    np.testing.assert_array_equal(net.biases(gradient)[1], [7])
    np.testing.assert_array_equal(net.weights(gradient)[0], [[24, -16], [48, -32]])
    np.testing.assert_array_equal(net.biases(gradient)[0], [24, -16])


NETWORKS = [
    *((5, 3, 2), (3, 9, 17, 1), (20, 65, 33, 5), (64, 64, 10), (1, 128, 4), (129, 3)),
    *((24, 8, 2), (48, 16, 3), (128, 8, 1), (128, 16)),
]
"""Widths on both sides of a vector, of a tile and of where a backend may begin to train in another way; and first
layers of as many outputs as a vector has lanes."""


ROWS = [1, 7, 16, 17, 33, 48, 49, 64, 65, 129, 256, 257, 600]
LARGE = [((4, 8, 3), 9001), ((5, 3, 16, 2), 8500), ((2, 1), 20000), ((8, 8, 3), 8500), ((32, 16, 2), 9001)]
"""Batches so large that one member takes several blocks of rows, one after the other."""


@pytest.mark.parametrize(("widths", "n"), [*itertools.product(NETWORKS, ROWS), *LARGE])
def test_exact_whatever_the_batch_is_cut_into(backend, dtype, rng, canary, widths, n):
    """The targets lie whole multiples of n from the outputs, so that dJ/dy and all that follows are integers."""
    net = network(widths, ("relu",) * (len(widths) - 2) + ("identity",), "half_mse", dtype)
    parameters = canary(net.size, dtype, content=0)
    for view in (*net.weights(parameters), *net.biases(parameters)):
        view[...] = rng.integers(-1, 2, view.shape)
    x, dy = rng.integers(-1, 2, (n, widths[0])), rng.integers(-1, 2, (n, widths[-1]))
    weights, biases = wide(net, parameters, np.float64)
    y = oracles.forward(net.activations, weights, biases, x.astype(np.float64))[0][-1]
    t = y - n * dy
    _, dw, db = oracles.gradients(net.activations, net.loss, weights, biases, x.astype(np.float64), t)
    assert max(np.abs(a).max() for a in (t, *dw, *db)) < 2**20, "no longer exact in float32"
    gradient, workspace = canary(net.size, dtype, content=0), backend.Workspace(net, n, True)
    for _ in range(2):  # then among what the first time has left
        value = backend.gradients(net, parameters, x.astype(dtype), t.astype(dtype), gradient, workspace)
        assert value == pytest.approx(n * np.sum(dy**2) / 2, rel=4 * np.finfo(np.float64).eps)
        for got, exact in zip([*net.weights(gradient), *net.biases(gradient)], [*dw, *db], strict=True):
            np.testing.assert_array_equal(got, exact)
        assert (gaps(net, gradient) == 0).all()


@guarded.needs_mprotect
@pytest.mark.parametrize("n", [1, 9, 17, 100, 300])
@pytest.mark.parametrize("widths", [(5, 3, 2), (24, 8, 2), (48, 16, 3)])
def test_nothing_beyond_the_batch_is_read(backend, dtype, rng, widths, n):
    net = network(widths, ("tanh", "identity"), "mse", dtype)
    parameters = fill(net, aligned_zeros(net.size, net.dtype), rng)
    x, t = data(net, rng, n)
    gradients = np.zeros((2, net.size), dtype)
    for gradient, place in zip(gradients, (np.array, guarded.ending), strict=True):
        backend.gradients(net, parameters, place(x), place(t), gradient, backend.Workspace(net, n, True))
    assert_same_bits(*gradients)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("widths", NETWORKS)
def test_special_values_land_as_in_the_reference(backend, dtype, rng, widths, special):
    """One in the inputs of one row, then in a bias, which reaches every row: also those that only fill a vector."""
    net = network(widths, ("relu",) * (len(widths) - 2) + ("identity",), "mse", dtype)
    for place in ("input", "bias"):
        parameters = fill(net, np.zeros(net.size, dtype), rng)
        x, t = data(net, rng, 70)
        if place == "input":
            x[3, 0] = special
        else:
            net.biases(parameters)[0][1] = special
        got, expected = np.zeros(net.size, dtype), np.zeros(net.size, dtype)
        with np.errstate(invalid="ignore"):
            for module, gradient in ((backend, got), (reference, expected)):
                module.gradients(net, parameters, x, t, gradient, module.Workspace(net, 70, True))
        assert_same_special_values(got, expected)


def test_a_larger_workspace_changes_nothing(backend, dtype, rng):
    net = network((45, 46, 17), ("gelu", "identity"), "cross_entropy", dtype)
    parameters = fill(net, np.empty(net.size, dtype), rng)
    x, t = data(net, rng, 33)
    kept = parameters.copy(), x.copy(), t.copy()
    results = []
    for rows in (33, 33, 128):
        gradient = np.zeros(net.size, dtype)
        backend.gradients(net, parameters, x, t, gradient, backend.Workspace(net, rows, True))
        results.append(gradient)
    assert_same_bits(results[0], results[1])
    assert_same_bits(results[0], results[2])
    for now, before in zip((parameters, x, t), kept, strict=True):
        assert_same_bits(now, before)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("widths", [(3, 20, 5), (5, 20, 5), (3, 4, 2)])
def test_an_earlier_batch_leaves_nothing_behind(backend, dtype, rng, widths, loss):
    """The rows that fill a vector after a short batch hold what an earlier one left: here NaN."""
    net = network(widths, ("tanh", "identity"), loss, dtype)
    parameters = fill(net, np.zeros(net.size, dtype), rng)
    workspace = backend.Workspace(net, 100, True)
    for n in (1, 5, 17, 33, 50):
        x, t = data(net, rng, n)
        used, fresh = np.zeros(net.size, dtype), np.zeros(net.size, dtype)
        spoilt, targets = data(net, rng, 100)
        spoilt[...] = np.nan
        with np.errstate(invalid="ignore"):
            backend.gradients(net, parameters, spoilt, targets, used, workspace)
        assert np.isnan(used).any()
        value = backend.gradients(net, parameters, x, t, used, workspace)
        assert value == backend.gradients(net, parameters, x, t, fresh, backend.Workspace(net, 100, True))
        assert np.isfinite(used).all()
        assert_same_bits(used, fresh)


@pytest.mark.parametrize("count", [4, 16])
@pytest.mark.parametrize("block", [48, 80, 272])
def test_a_batch_is_cut_into_chunks_for_which_there_is_room(block, count):
    """The more rows, the more chunks; they hold all rows, as equal as whole vectors can be."""
    chunks_of, part_start = across.chunks_of.py_func, across.part_start.py_func
    room = 0
    for rows in range(1, 40 * block, 7):
        chunks = chunks_of(rows, block, 100, count)
        assert room <= chunks <= across.MOST_CHUNKS
        room = chunks
        starts = [part_start(rows, part, chunks, count) for part in range(chunks + 1)]
        assert (starts[0], starts[-1]) == (0, rows)
        sizes = np.diff(starts)
        assert (sizes > 0).all()
        assert chunks == across.MOST_CHUNKS or (sizes <= block).all()
        assert max(sizes) - min(sizes) < 2 * count
    assert chunks_of(99, block, 100, count) == chunks_of(99, block, 10**9, count)
    assert chunks_of(4 * count, block, 4 * count, count) == 2
