"""CUDA C++'s train_resident on the processor: the tests of `train`, for one block and for clusters."""

import itertools

import numpy as np
import pytest
from cuda_host import ORDERS, Kernel
from host_compiler import needs_compiler
from networks import data, network
from rulings import assert_same_bits, assert_same_special_values
from test_train import KINDS, Run, an_order, compare, rule

from fastmlp.kernels import reference
from fastmlp.kernels.contract import ACTIVATIONS, OPTIMIZERS
from fastmlp.kernels.cuda_cpp import resident
from fastmlp.kernels.network import Network, Optimizer

pytestmark = needs_compiler


class Host:
    """The part of a backend that `Run` uses, on the processor."""

    def __init__(self, blocks=1, order=0):
        self.blocks, self.order = blocks, order

    def Workspace(self, net, rows, training):
        return None

    def train(self, net, optimizer, parameters, state, updates, x, target, order, start, batch_size, losses, workspace,
              penalties=None):  # fmt: skip
        how = resident.resident(net, optimizer, min(batch_size, len(x)), target.ndim == 1, self.blocks)
        kernel = Kernel(how.program, "train_resident", how.blocks, self.order)
        args = resident.arguments(
            optimizer, parameters, state, updates, x, target, order, start, batch_size, losses, penalties
        )
        kernel((how.blocks,), (resident.THREADS,), args, shared_mem=how.shared_bytes)


def cases():
    """Every activation, optimiser, loss and kind of target at least once: (network, optimiser, labels)."""
    shapes = [(6, 9, 5), (5, 3, 8, 1), (12, 17, 4), (1, 20, 33)]
    rows = zip(ACTIVATIONS, itertools.cycle(OPTIMIZERS), itertools.cycle(KINDS), itertools.cycle(shapes), strict=False)
    for activation, optimizer, (loss, labels), widths in rows:
        activations = (*[activation] * (len(widths) - 2), "identity")
        yield pytest.param(network(widths, activations, loss, np.float32), optimizer, labels, id=f"{activation} {loss}")
    yield pytest.param(network((3, 2), ("silu",), "mse", np.float32), "nesterov", False, id="one layer")


CASES = list(cases())


@pytest.mark.parametrize(("net", "optimizer", "labels"), CASES)
def test_every_activation_loss_and_optimizer(rng, canary, net, optimizer, labels):
    run = Run(net, rule(optimizer, 0.05), rng, canary, labels)
    order = an_order(rng, 4)
    compare(run, run.steps(Host(), order, 0, 7, 13), order, 0, 7)


@pytest.mark.parametrize("blocks", [2, 4, 8])
def test_blocks_of_a_cluster_share_a_batch(rng, canary, blocks):
    """Five epochs of two whole batches and a short one, which leaves the last blocks without a row."""
    net = network((10, 20, 12, 3), ("tanh", "relu", "identity"), "cross_entropy", np.float32)
    run = Run(net, rule("adam", 0.05), rng, canary)
    order = an_order(rng, 5)
    compare(run, run.steps(Host(blocks), order, 0, 11, 15), order, 0, 11)


@pytest.mark.parametrize("blocks", [1, 4])
def test_slices_in_turn_without_an_order(rng, canary, blocks):
    net = network((6, 9, 5), ("tanh", "identity"), "mse", np.float32)
    run = Run(net, rule("momentum"), rng, canary)
    compare(run, run.steps(Host(blocks), None, 20, 10, 8), None, 20, 10)


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_l2_shared_among_the_rows_of_a_batch(rng, canary, blocks, optimizer):
    net = network((6, 9, 4), ("relu", "identity"), "half_mse", np.float32)
    run = Run(net, rule(optimizer, 2.0), rng, canary)
    order, penalties = an_order(rng, 3), canary(7, np.float64, content=np.nan)
    losses = run.steps(Host(blocks), order, 0, 10, 7, penalties)
    compare(run, losses, order, 0, 10, penalties)


def deep(rng, optimizer="adam", samples=300):
    """64-64-64-1, and enough samples for a batch of 256."""
    net = network((64, 64, 64, 1), ("relu", "relu", "identity"), "mse", np.float32)
    run = Run(net, rule(optimizer, hidden=64), rng)
    run.x, run.t = data(net, rng, samples)
    return run


def test_the_tiles_of_a_whole_batch(rng):
    run = deep(rng)
    order = rng.permutation(300).astype(np.int64)
    compare(run, run.steps(Host(8), order, 0, 256, 2), order, 0, 256)


def test_many_calls_are_one(rng):
    """The optimiser's memory and the count of updates go on from call to call."""
    runs = []
    for calls in ([9], [1, 2, 6]):
        runs.append(
            Run(network((6, 9, 5), ("tanh", "identity"), "mse", np.float32), rule("adam"), np.random.default_rng(5))
        )
        start = 0
        for count in calls:
            runs[-1].steps(Host(), np.tile(np.arange(23), 9), start, 23, count)
            start += count * 23
    assert_same_bits(runs[0].parameters, runs[1].parameters)
    assert_same_bits(runs[0].state, runs[1].state)


@pytest.mark.parametrize("blocks", [1, 4])
def test_the_same_bits_whichever_thread_comes_first(blocks):
    """A barrier too few shows: what should be written, or still be there, is not, in one of the orders."""
    results = []
    for order in ORDERS:
        rng = np.random.default_rng(1)
        net = network((10, 20, 12, 3), ("gelu", "tanh", "identity"), "log_loss", np.float32)
        run = Run(net, rule("adam", 0.05), rng)
        penalties = np.full(5, np.nan)
        losses = run.steps(Host(blocks, order), an_order(rng, 3), 0, 11, 5, penalties)
        results.append((losses, penalties, run.parameters, run.state))
    for others in results[1:]:
        for mine, theirs in zip(results[0], others, strict=True):
            assert_same_bits(mine, theirs)


@pytest.mark.parametrize("blocks", [1, 8])
@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_nan_and_inf_land_where_the_reference_has_them(special, blocks):
    """One sample of a short batch: rows that are not there must not spread it."""
    results = []
    for backend in (Host(blocks), reference):
        run = Run(network((6, 9, 5), ("relu", "identity"), "mse", np.float32), rule("sgd"), np.random.default_rng(2))
        run.x[21, 3] = special
        with np.errstate(all="ignore"):
            run.steps(backend, None, 16, 8, 1)
        results.append(run.parameters)
    assert_same_special_values(*results)
    assert not np.isfinite(results[0]).all()


@pytest.mark.parametrize("blocks", [1, 8])
@pytest.mark.parametrize("layer", [0, 1])
def test_an_infinite_weight_meets_no_rows_that_are_not_there(layer, blocks):
    """Their zeros times Inf would be NaN, where the reference has 0 (layer 0) or -Inf (layer 1)."""
    results = []
    for backend in (Host(blocks), reference):
        run = Run(network((6, 9, 5), ("relu", "identity"), "mse", np.float32), rule("sgd"), np.random.default_rng(2))
        run.x, run.t = abs(run.x), np.zeros_like(run.t)
        run.parameters[...] = abs(run.parameters)
        run.net.weights(run.parameters)[layer][3, 1] = np.inf
        if layer == 0:
            run.x[:, 3] *= -1
        with np.errstate(all="ignore"):
            run.steps(backend, None, 16, 8, 1)
        results.append(run.parameters)
    assert_same_special_values(*results)
    assert np.isnan(results[1]).sum() <= 1, "the weight itself, stepped by Inf"


@pytest.mark.parametrize("blocks", [1, 8])
def test_the_bytes_of_shared_memory_are_those_of_the_kernel(rng, blocks, monkeypatch):
    exact, spared = resident._shared_bytes, 0
    monkeypatch.setattr(resident, "_shared_bytes", lambda *args: exact(*args) - spared)
    cases = [each.values for each in CASES] if blocks == 1 else [(deep(rng).net, "adam", False)]
    for net, optimizer, labels in cases:
        run, host = Run(net, rule(optimizer, 0.05), rng, labels=labels), Host(blocks)
        spared = 0
        run.steps(host, None, 0, 7 if blocks == 1 else 23, 1)
        spared = 4
        with pytest.raises(AssertionError, match="beyond its shared memory"):
            run.steps(host, None, 0, 7 if blocks == 1 else 23, 1)


def small(widths, loss="mse", dtype=np.float32, bfloat16=False):
    return Network(widths, (*["relu"] * (len(widths) - 2), "identity"), loss, np.dtype(dtype), bfloat16)


HOPPER, AMPERE = ("sm_90a", 227 << 10), ("sm_80", 163 << 10)


@pytest.mark.parametrize(
    ("widths", "optimizer", "rows", "device", "blocks"),
    [
        ((10, 5, 2), "sgd", 100, HOPPER, 1),
        ((10, 5, 2), "sgd", 100, AMPERE, 1),
        ((64, 64, 64, 1), "adam", 256, HOPPER, 8),
        ((64, 64, 64, 1), "adam", 256, AMPERE, None),
        ((64, 64, 64, 1), "adam", 256, ("sm_90a", 99 << 10), None),
        ((64, 64, 64, 1), "adam", 1 << 14, HOPPER, None),
        ((784, 256, 128, 10), "adam", 128, HOPPER, None),
        ((64, 64, 64, 1), "adam", 256, ("sm_120", 99 << 10), None),
        ((32, 32, 1), "adam", 64, ("compute_121", 99 << 10), 8),
        ((10, 5, 2), "sgd", 100, (None, 48 << 10), None),
        ((10, 5, 2), "sgd", 0, HOPPER, None),
        ((3, 513), "sgd", 4, HOPPER, 1),
    ],
)
def test_the_choice(widths, optimizer, rows, device, blocks):
    how = resident.choose(small(widths), Optimizer(optimizer), rows, False, *device)
    assert (how and how.blocks) == blocks
    if how:
        assert how.shared_bytes <= device[1]
        assert f"{how.shared_bytes / 1024:.0f} KiB of shared memory" in how.kernel


def test_what_no_block_takes():
    for net in (small((3, 2), dtype=np.float64), small((3, 2), bfloat16=True), small((3, 513), "cross_entropy")):
        assert resident.choose(net, Optimizer(), 8, True, *HOPPER) is None
