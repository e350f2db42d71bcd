"""CUDA C++'s forward_fused on the processor, against the reference."""

import numpy as np
import pytest
from cuda_host import Kernel
from host_compiler import needs_compiler
from networks import fill, network
from rulings import assert_same_bits, assert_same_special_values, small_integers

from fastmlp.kernels import reference
from fastmlp.kernels.contract import ACTIVATIONS
from fastmlp.kernels.cuda_cpp import fused

pytestmark = needs_compiler


def run(net, parameters, x, out, height, blocks, order=0):
    program = fused.program(net, height)
    kernel = Kernel(program, "forward_fused", order=order)
    kernel((blocks,), (fused.THREADS,), fused.arguments(parameters, x, out), shared_mem=program.shared_bytes)
    return out


def expected(net, parameters, x):
    out = np.empty((len(x), net.widths[-1]), x.dtype)
    reference.forward(net, parameters, x, out, reference.Workspace(net, len(x), False))
    return out


def problem(net, rng, n):
    return fill(net, np.empty(net.size, np.float32), rng), rng.normal(size=(n, net.widths[0])).astype(np.float32)


SHAPES = [(7, 9, 5), (64, 64, 64, 64, 1), (40, 3), (1, 20, 33, 2), (12, 100, 8)]


@pytest.mark.parametrize(("place", "activation"), list(enumerate(ACTIVATIONS)))
def test_every_activation(rng, canary, place, activation):
    """By blocks of every height, with rows left over, and each block more than once."""
    height = fused.HEIGHTS[place % 4]
    net = network(SHAPES[place % 5], activation, "mse", np.float32)
    parameters, x = problem(net, rng, 2 * height + height // 2 + 1)
    out = run(net, parameters, x, canary((len(x), net.widths[-1]), np.float32), height, 2)
    np.testing.assert_allclose(out, expected(net, parameters, x), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize(("height", "widths"), [(64, (260, 256, 10)), (4, (1024, 256, 255)), (16, (33, 31))])
def test_small_integers_give_the_references_bits(rng, canary, height, widths):
    """Several tiles of a thread, sums over more than one stretch, and widths that are no multiples of 4."""
    net = network(widths, "relu", "mse", np.float32)
    parameters = np.zeros(net.size, np.float32)
    for view in (*net.weights(parameters), *net.biases(parameters)):
        view[...] = small_integers(rng, view.shape, np.float32)
    x = small_integers(rng, (height + 1, widths[0]), np.float32)
    out = run(net, parameters, x, canary((len(x), widths[-1]), np.float32), height, 1)
    assert_same_bits(out, expected(net, parameters, x))


def test_long_sums_are_as_exact_as_the_references(rng):
    net = network((1024, 3), "identity", "mse", np.float32)
    parameters, x = problem(net, rng, 300)
    exact = x.astype(np.float64) @ net.weights(parameters)[0].astype(np.float64) + net.biases(parameters)[0]
    out = run(net, parameters, x, np.empty((300, 3), np.float32), 64, 2)
    error, reference_error = (np.sqrt(np.square(each - exact).mean()) for each in (out, expected(net, parameters, x)))
    assert error <= 2 * reference_error


@pytest.mark.parametrize("height", [64, 4])
def test_the_same_bits_whichever_thread_comes_first_and_however_large_the_grid(rng, height):
    net = network((40, 100, 36, 5), "tanh", "mse", np.float32)
    parameters, x = problem(net, rng, 3 * height + 1)
    results = [
        run(net, parameters, x, np.empty((len(x), 5), np.float32), height, blocks, order)
        for blocks, order in [(2, 0), (1, 1), (4, 2)]
    ]
    for other in results[1:]:
        assert_same_bits(results[0], other)


def test_nan_and_inf_land_where_the_reference_has_them(rng):
    """In rows beside whole ones, and in a weight, whose zeros all around must not make NaN of it."""
    net = network((7, 9, 5), "relu", "mse", np.float32)
    parameters, x = problem(net, rng, 20)
    x[3, 2], x[7, 6], x[19, 0] = np.nan, np.inf, -np.inf
    net.weights(parameters)[0][6, 8] = np.inf
    with np.errstate(all="ignore"):
        wanted = expected(net, parameters, x)
    assert_same_special_values(run(net, parameters, x, np.empty((20, 5), np.float32), 16, 1), wanted)


def test_the_bytes_of_shared_memory_are_those_of_the_kernel(rng, monkeypatch):
    exact, spared = fused._shared_bytes, 0
    monkeypatch.setattr(fused, "_shared_bytes", lambda *args: exact(*args) - spared)
    for place, widths in enumerate(SHAPES):
        net = network(widths, "relu", "mse", np.float32)
        parameters, x = problem(net, rng, 5)
        spared = 0
        run(net, parameters, x, np.empty((5, widths[-1]), np.float32), fused.HEIGHTS[place % 4], 1)
        spared = 4
        with pytest.raises(AssertionError, match="beyond its shared memory"):
            run(net, parameters, x, np.empty((5, widths[-1]), np.float32), fused.HEIGHTS[place % 4], 1)


@pytest.mark.parametrize(
    ("widths", "rows", "device", "chosen"),
    [
        ((64, 64, 64, 64, 1), 1, ("sm_90a", 227 << 10, 132), (4, 1)),
        ((64, 64, 64, 64, 1), 1 << 18, ("sm_90a", 227 << 10, 132), (64, 528)),
        ((64, 64, 64, 64, 1), 2200, ("sm_90a", 227 << 10, 132), (16, 138)),
        ((784, 256, 128, 10), 1 << 14, ("sm_90a", 227 << 10, 132), (32, 132)),
        ((784, 256, 128, 10), 1 << 14, ("sm_80", 163 << 10, 108), (16, 108)),
        ((64, 257), 128, ("sm_90a", 227 << 10, 132), None),
        ((1025, 64), 128, ("sm_90a", 227 << 10, 132), None),
        ((64, 64), 0, ("sm_90a", 227 << 10, 132), None),
        ((64, 64), 128, (None, 48 << 10, 40), None),
    ],
)
def test_the_choice(widths, rows, device, chosen):
    how = fused.choose(network(widths, "relu", "mse", np.float32), rows, *device)
    assert (how and (how.rows, how.blocks)) == chosen
    if how:
        assert how.program.shared_bytes <= device[1]
    assert fused.choose(network(widths, "relu", "mse", np.float64), rows, *device) is None
