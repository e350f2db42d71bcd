"""train: many whole steps in one call, against a few lines of plain float64 NumPy, over all backends."""

import itertools

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import data, fill, gaps, network, wide
from rulings import assert_same_bits

from fastmlp import num_threads
from fastmlp.kernels import backend as backends
from fastmlp.kernels.contract import ACTIVATIONS, LOSSES, OPTIMIZERS
from fastmlp.kernels.network import Optimizer, aligned_zeros

SAMPLES = 23

NARROW_AND_WIDE = pytest.mark.parametrize("hidden", [9, 70, 130])
"""A hidden layer's width: backends may train narrow networks in a way of their own."""


def rule(name, l2=0.0, hidden=9):
    """Settings under which a dozen updates move parameters far, no two rules agree and no wide layer diverges."""
    return Optimizer(name, learning_rate=min(0.05, 2 / hidden), l2=l2, momentum=0.8, beta1=0.7, beta2=0.6, epsilon=1e-3)


class Run:
    """One call of `train` on fresh buffers; the same arguments start from the same parameters."""

    def __init__(self, net, optimizer, rng, canary=None, labels=True, samples=SAMPLES):
        self.net, self.optimizer = net, optimizer
        allocate = canary or (lambda shape, dtype, content: np.full(shape, content, dtype))
        self.parameters = fill(net, allocate(net.size, net.dtype, content=0), rng)
        self.state = allocate((optimizer.slots, net.size), net.dtype, content=0)
        self.losses = allocate
        self.x, self.t = data(net, rng, samples, labels)
        self.initial = self.parameters.copy()
        self.updates = 0

    def steps(self, backend, order, start, batch_size, count, penalties=None):
        losses = self.losses(count, np.float64, content=np.nan)
        self.workspace = workspace = backend.Workspace(self.net, min(batch_size, len(self.x)), True)
        kept = self.x.copy(), self.t.copy()
        backend.train(
            self.net, self.optimizer, self.parameters, self.state, self.updates, self.x, self.t, order, start,
            batch_size, losses, workspace, penalties,
        )  # fmt: skip
        self.updates += count
        assert_same_bits(self.x, kept[0])
        assert_same_bits(self.t, kept[1])
        return losses


def compare(run, losses, order, start, batch_size, penalties=None):
    """Half of the digits must agree with float64 NumPy; a wrong formula or a wrong row agrees in one or two."""
    net = run.net
    t = run.t if run.t.ndim == 1 else run.t.astype(np.float64)
    weights, biases = wide(net, run.initial, np.float64)
    expected_penalties = None if penalties is None else []
    expected, weights, biases = oracles.train(
        net.activations, net.loss, run.optimizer, weights, biases, run.x.astype(np.float64), t, order, start,
        batch_size, len(losses), expected_penalties,
    )  # fmt: skip
    digits = np.sqrt(np.finfo(net.dtype).eps)
    np.testing.assert_allclose(losses, expected, rtol=digits, atol=digits)
    if penalties is not None:
        np.testing.assert_allclose(penalties, expected_penalties, rtol=digits)
    got = [*net.weights(run.parameters), *net.biases(run.parameters)]
    for mine, theirs in zip(got, [*weights, *biases], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=digits, atol=digits)
    assert (gaps(net, run.parameters) == 0).all()
    assert (gaps(net, run.state) == 0).all()
    assert np.abs(run.parameters - run.initial).max() > 30 * digits


def an_order(rng, epochs, samples=SAMPLES):
    return np.concatenate([rng.permutation(samples) for _ in range(epochs)]).astype(np.int64)


PAIRS = [
    (activation, optimizer, list(LOSSES)[i % len(LOSSES)])
    for i, (activation, optimizer) in enumerate(itertools.product(ACTIVATIONS, OPTIMIZERS))
]


@NARROW_AND_WIDE
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("activation", "optimizer", "loss"), PAIRS)
def test_every_activation_with_every_optimizer(
    backend, dtype, rng, canary, activation, optimizer, loss, shuffled, hidden
):
    net = network((6, hidden, 5), (activation, "identity"), loss, dtype)
    run = Run(net, rule(optimizer, hidden=hidden), rng, canary)
    order = an_order(rng, 4) if shuffled else None
    losses = run.steps(backend, order, 0, 7, 16)
    compare(run, losses, order, 0, 7)


KINDS = [(loss, labels) for loss in LOSSES for labels in ((True, False) if loss in oracles.CLASS_LOSSES else (False,))]


@NARROW_AND_WIDE
@pytest.mark.parametrize("l2", [0.0, 0.2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("loss", "labels"), KINDS)
def test_every_loss_with_every_optimizer_and_l2(backend, dtype, rng, canary, loss, labels, optimizer, l2, hidden):
    net = network((6, hidden, 4), ("tanh", "identity"), loss, dtype)
    run = Run(net, rule(optimizer, l2), rng, canary, labels)
    order = an_order(rng, 3)
    compare(run, run.steps(backend, order, 0, 10, 7), order, 0, 10)


@NARROW_AND_WIDE
@pytest.mark.parametrize("l2", [0.0, 2.0])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_l2_shared_among_the_rows_of_a_batch(backend, dtype, rng, canary, optimizer, l2, hidden):
    """A whole batch and the short one at an epoch's end: each has its own share, in the gradient and in the penalty."""
    net = network((6, hidden, 4), ("relu", "identity"), "half_mse", dtype)
    run = Run(net, rule(optimizer, l2), rng, canary)
    order, penalties = an_order(rng, 3), canary(7, np.float64, content=np.nan)
    compare(run, run.steps(backend, order, 0, 10, 7, penalties), order, 0, 10, penalties)
    assert (penalties > 0).all() == (l2 > 0)


@NARROW_AND_WIDE
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("batch_size", [1, 7, 22, 23, 24, 1000])
@pytest.mark.parametrize("start", [0, 5, 22, 23, 30])
def test_positions(backend, dtype, rng, canary, start, batch_size, shuffled, hidden):
    """Ragged last batches, starts inside an epoch, batches larger than the data: never across an epoch's end."""
    net = network((6, hidden, 5), ("tanh", "identity"), "half_mse", dtype)
    run = Run(net, rule("momentum"), rng, canary)
    count = 5
    order = an_order(rng, 8) if shuffled else None
    losses = run.steps(backend, order, start, batch_size, count)
    compare(run, losses, order, start, batch_size)


@pytest.mark.parametrize("widths", [(1, 1), (3, 1), (1, 17, 1), (6, 33, 15, 14, 2), (100, 46, 45, 3)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_any_widths(backend, dtype, rng, canary, widths, optimizer):
    net = network(widths, ["softplus", "sigmoid", "gelu", "leaky_relu"][: len(widths) - 1], "mse", dtype)
    run = Run(net, rule(optimizer, 0.01), rng, canary)
    compare(run, run.steps(backend, None, 0, 16, 6), None, 0, 16)


@settings(max_examples=30, deadline=None)
@given(
    widths=st.lists(st.integers(1, 20), min_size=2, max_size=5),
    batch_size=st.integers(1, 30),
    start=st.integers(0, 40),
    count=st.integers(0, 6),
    shuffled=st.booleans(),
    optimizer=st.sampled_from(list(OPTIMIZERS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_network_and_batch(backend, widths, batch_size, start, count, shuffled, optimizer, seed):
    rng = np.random.default_rng(seed)
    net = network(widths, ["tanh"] * (len(widths) - 2) + ["identity"], "mse", np.float64)
    run = Run(net, rule(optimizer), rng)
    order = an_order(rng, 10) if shuffled else None
    losses = run.steps(backend, order, start, batch_size, count)
    expected, weights, biases = oracles.train(
        net.activations, "mse", run.optimizer, *wide(net, run.initial, np.float64), run.x, run.t, order, start,
        batch_size, count,
    )  # fmt: skip
    np.testing.assert_allclose(losses, expected, rtol=1e-8, atol=1e-8)
    for mine, theirs in zip(
        [*net.weights(run.parameters), *net.biases(run.parameters)], [*weights, *biases], strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_call_or_many_give_the_same_bits(backend, dtype, optimizer):
    net = network((6, 9, 5), ("gelu", "identity"), "cross_entropy", dtype)
    whole, parts = (Run(net, rule(optimizer, 0.01), np.random.default_rng(7)) for _ in range(2))
    order = an_order(np.random.default_rng(8), 3)
    together = whole.steps(backend, order, 0, 7, 12)
    # Batches of 7 in 23 samples: 7, 7, 7, 2; so that step 5 begins at position 30.
    apart = np.concatenate([parts.steps(backend, order, 0, 7, 5), parts.steps(backend, order, 30, 7, 7)])
    assert_same_bits(together, apart)
    assert_same_bits(whole.parameters, parts.parameters)
    assert_same_bits(whole.state, parts.state)


@pytest.mark.parametrize("rows", [1, 2, 13, SAMPLES])
@pytest.mark.parametrize("widths", [(300, 700, 10), (1030, 257, 520, 3), (10000, 70, 3)])
def test_few_rows_of_wide_networks_give_the_same_bits_on_any_number_of_threads(backend, dtype, widths, rows):
    """The CPU's threads then share the steps of a layer's sums, and one alone, but for one row, does them in turn."""
    results = []
    for threads in (1, 2, 3):
        with num_threads(threads):
            activations = ("gelu", *["relu"] * (len(widths) - 3), "identity")
            run = Run(network(widths, activations, "mse", dtype), rule("adam", hidden=700), np.random.default_rng(8))
            losses = run.steps(backend, None, 0, rows, 8)
            compare(run, losses, None, 0, rows)
            results.append(run.parameters)
    for other in results[1:]:
        assert_same_bits(other, results[0])


LARGE = pytest.mark.parametrize(("samples", "batch_size"), [(1025, 1025), (2600, 2100), (3073, 5000)])
"""Batches that backends may take in parts, and add up the parts' gradients: of two, of three and none, of four."""


@LARGE
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize(("loss", "optimizer"), [("mse", "sgd"), ("log_loss", "adam"), ("half_mse", "momentum")])
def test_large_batches(backend, dtype, rng, canary, samples, batch_size, shuffled, loss, optimizer):
    net = network((6, 130, 20, 5), ("gelu", "relu", "identity"), loss, dtype)
    run = Run(net, rule(optimizer, 0.1, 130), rng, canary, samples=samples)
    order, start = an_order(rng, 5, samples) if shuffled else None, 300
    compare(run, run.steps(backend, order, start, batch_size, 4), order, start, batch_size)


@LARGE
def test_l2_shared_among_the_rows_of_a_large_batch(backend, dtype, rng, samples, batch_size):
    net = network((6, 130, 5), ("tanh", "identity"), "half_mse", dtype)
    run = Run(net, rule("adam", 20.0), rng, samples=samples)
    penalties = np.full(3, np.nan)
    losses = run.steps(backend, None, 0, batch_size, 3, penalties)
    compare(run, losses, None, 0, batch_size, penalties)


@LARGE
def test_large_batches_give_the_same_bits_on_any_number_of_threads(backend, dtype, samples, batch_size):
    net, results = network((6, 130, 5), ("tanh", "identity"), "log_loss", dtype), []
    for threads in (1, 2, 3):
        with num_threads(threads):
            run = Run(net, rule("adam"), np.random.default_rng(8), samples=samples)
            results.append((run.steps(backend, None, 0, batch_size, 3), run.parameters))
    for losses, parameters in results[1:]:
        assert_same_bits(losses, results[0][0])
        assert_same_bits(parameters, results[0][1])


@LARGE
def test_gradients_of_large_batches(backend, dtype, rng, samples, batch_size):
    net = network((6, 130, 5), ("tanh", "identity"), "cross_entropy", dtype)
    run = Run(net, rule("sgd"), rng, samples=samples)
    gradient = aligned_zeros(net.size, dtype)
    value = backend.gradients(net, run.initial, run.x, run.t, gradient, backend.Workspace(net, samples, True))
    weights, biases = wide(net, run.initial, np.float64)
    expected, dw, db = oracles.gradients(net.activations, net.loss, weights, biases, run.x.astype(np.float64), run.t)
    digits = float(np.sqrt(np.finfo(dtype).eps))
    assert value == pytest.approx(expected, rel=digits)
    for mine, theirs in zip([*net.weights(gradient), *net.biases(gradient)], [*dw, *db], strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=digits, atol=digits * np.abs(theirs).max())


def test_the_room_for_a_large_batch_is_that_for_a_part_of_it():
    cpu, net = backends.load("cpu"), network((300, 400, 10), ("tanh", "identity"), "log_loss", np.dtype(np.float32))
    small, large = (cpu.Workspace(net, rows, True).nbytes for rows in (1024, 10**6))
    assert large - small < 2 * net.size * net.dtype.itemsize


@pytest.mark.parametrize("widths", [(6, 9, 5), (24, 8, 2), (48, 16, 3)])
@pytest.mark.parametrize("batch_size", [7, 17])
def test_the_order_of_all_rows_is_no_order(backend, dtype, widths, batch_size):
    net = network(widths, ("relu", "identity"), "mse", dtype)
    plain, gathered = (Run(net, rule("adam"), np.random.default_rng(7)) for _ in range(2))
    order = np.tile(np.arange(SAMPLES), 6)
    losses = plain.steps(backend, None, 0, batch_size, 12)
    compare(plain, losses, None, 0, batch_size)
    assert_same_bits(losses, gathered.steps(backend, order, 0, batch_size, 12))
    assert_same_bits(plain.parameters, gathered.parameters)


@pytest.mark.parametrize("widths", [(6, 9, 5), (24, 8, 2), (48, 16, 3), (140, 3)])
def test_an_order_gives_the_bits_of_rows_that_lie_in_it(backend, dtype, rng, widths):
    """Of batches so large that they are cut into pieces."""
    net = network(widths, ("relu",) * (len(widths) - 2) + ("identity",), "mse", dtype)
    x, t = data(net, rng, 1500)
    order = rng.permutation(len(x)).astype(np.int64)
    results = []
    for used, x_used, t_used in ((order, x, t), (None, x[order], t[order])):
        parameters, losses = fill(net, aligned_zeros(net.size, dtype), np.random.default_rng(0)), np.empty(3)
        backend.train(
            net, rule("sgd"), parameters, np.empty((0, net.size), dtype), 0, x_used, t_used, used, 0, 600, losses,
            backend.Workspace(net, 600, True),
        )  # fmt: skip
        results.append((parameters, losses))
    for one, other in zip(*results, strict=True):
        assert_same_bits(one, other)


def test_losses_are_those_of_gradients(backend, dtype, rng):
    """Of one full batch, `train` and `gradients` see the same J, and SGD steps along the same gradient."""
    net = network((6, 9, 5), ("tanh", "identity"), "mse", dtype)
    run = Run(net, rule("sgd"), rng)
    gradient = aligned_zeros(net.size, dtype)
    value = backend.gradients(net, run.initial, run.x, run.t, gradient, backend.Workspace(net, SAMPLES, True))
    losses = run.steps(backend, None, 0, SAMPLES, 1)
    eps = float(np.finfo(dtype).eps)
    assert losses[0] == pytest.approx(value, rel=4 * eps)
    np.testing.assert_allclose(run.parameters, run.initial - 0.05 * gradient, rtol=4 * eps, atol=4 * eps)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_nan_in_a_batch_reaches_the_losses_and_no_gap(backend, dtype, rng, canary, optimizer):
    net = network((6, 9, 5), ("relu", "identity"), "mse", dtype)
    run = Run(net, rule(optimizer), rng, canary)
    run.x[9, 3] = np.nan  # in the second batch of 7
    losses = run.steps(backend, None, 0, 7, 4)
    np.testing.assert_array_equal(np.isnan(losses), [False, True, True, True])
    assert (gaps(net, run.parameters) == 0).all()
