"""CUDA C++'s forward_backward_fused and apply_gradients on the processor, against float64 on rounded operands."""

import itertools

import numpy as np
import oracles
import pytest
from cuda_host import ORDERS, Kernel
from host_compiler import needs_compiler
from networks import data, fill, gaps, network, wide
from rulings import assert_same_bits, assert_same_special_values, small_integers
from test_train import KINDS

from fastmlp.kernels import reference
from fastmlp.kernels.contract import ACTIVATIONS, OPTIMIZERS
from fastmlp.kernels.cuda_cpp import fused_training
from fastmlp.kernels.network import Network, Optimizer
from fastmlp.kernels.reference.rounding import rounded

pytestmark = needs_compiler


def bfloat16(widths, activations, loss="mse"):
    net = network(widths, activations, loss, np.float32)
    return Network(net.widths, net.activations, loss, net.dtype, True)


def gradients(net, parameters, x, t, order=None, height=32, threads=128, blocks=1, clusters=1, turns=0):
    """(terms of J, dJ/dparameters) as the kernel leaves them, one each a cluster; NaN where it wrote nothing."""
    program = fused_training.program(net, t.ndim == 1, height, threads, blocks)
    n = len(x) if order is None else len(order)
    partials, terms = np.full((clusters, net.size), np.nan, np.float32), np.full(clusters, np.nan)
    kernel = Kernel(program, "forward_backward_fused", blocks, turns)
    arguments = fused_training.arguments(parameters, x, t, order, n, partials, terms)
    kernel((clusters * blocks,), (threads,), arguments, shared_mem=program.shared_bytes)
    return terms, partials


def problem(net, rng, n, labels=True):
    return fill(net, np.empty(net.size, np.float32), rng), *data(net, rng, n, labels)


def exact(net, parameters, x, t):
    """J, [dw...], [db...] in float64, of operands that are rounded as contract.BFLOAT16 says."""
    weights, biases = wide(net, parameters, np.float64)
    factors = [rounded(w.astype(np.float32)).astype(np.float64) for w in weights]
    inputs, saved = [x], []
    for i, activation in enumerate(net.activations):
        z = rounded(inputs[-1].astype(np.float32)).astype(np.float64) @ factors[i] + biases[i]
        saved.append(z)
        inputs.append(oracles.ACTIVATION[activation](z))
    target = t if t.ndim == 1 else t.astype(np.float64)
    value, dy = oracles.LOSS[net.loss](inputs[-1], target), oracles.LOSS_GRADIENT[net.loss](inputs[-1], target)
    dw, db = [], []
    for i in reversed(range(len(factors))):
        dz = dy * oracles.SLOPE[net.activations[i]](saved[i])
        delta = rounded(dz.astype(np.float32)).astype(np.float64)
        dw.insert(0, rounded(inputs[i].astype(np.float32)).astype(np.float64).T @ delta)
        db.insert(0, dz.sum(axis=0))
        dy = delta @ factors[i].T
    return value, dw, db


def divisor(net, n):
    return {"mse": n * net.widths[-1], "binary_cross_entropy": n * net.widths[-1], "half_mse": 2 * n}.get(net.loss, n)


def compare(net, parameters, x, t, got):
    """A rounding that a last bit of float32 turns is the only difference: a 2^-9th of one element of a sum."""
    terms, partials = got
    value, dw, db = exact(net, parameters, x, t)
    assert terms.sum() / divisor(net, len(x)) == pytest.approx(value, rel=2e-5)
    gradient = partials.astype(np.float64).sum(axis=0)
    assert np.isnan(gaps(net, partials)).all()
    for mine, truth in zip([*net.weights(gradient), *net.biases(gradient)], [*dw, *db], strict=True):
        np.testing.assert_allclose(mine, truth, rtol=2**-9, atol=2**-9 * np.abs(truth).max())


def cases():
    """Every activation and loss with either kind of target, odd widths, several layers: (network, labels)."""
    shapes = [(5, 45, 1), (45, 100, 5), (1, 17, 33, 12), (100, 5, 127, 3), (33, 1, 16, 45)]
    rows = zip(itertools.cycle(ACTIVATIONS), KINDS * 2, itertools.cycle(shapes), strict=False)
    for activation, (loss, labels), widths in rows:
        if loss in oracles.CLASS_LOSSES and widths[-1] == 1:
            widths = (*widths[:-1], 2)  # of one class nothing is learnt
        activations = (*[activation] * (len(widths) - 2), "identity")
        yield pytest.param(bfloat16(widths, activations, loss), labels, id=f"{activation} {loss} {labels}")
    for activation in ACTIVATIONS:
        yield pytest.param(bfloat16((7, 20, 4), ("relu", activation), "half_mse"), False, id=f"last {activation}")
    yield pytest.param(bfloat16((3, 2), ("silu",), "mse"), False, id="one layer")


@pytest.mark.parametrize(("net", "labels"), list(cases()))
def test_every_activation_and_loss(rng, net, labels):
    parameters, x, t = problem(net, rng, 77, labels)
    compare(net, parameters, x, t, gradients(net, parameters, x, t, clusters=2))


@pytest.mark.parametrize(
    ("widths", "n", "height", "threads", "blocks", "clusters"),
    [
        ((1, 1), 1, 16, 128, 1, 1),
        ((5, 45, 100, 5), 7, 16, 256, 1, 1),
        ((127, 128, 45), 33, 48, 256, 1, 1),
        ((45, 127, 1, 100, 5), 1000, 128, 256, 1, 3),
        ((64, 64, 64, 64, 64, 1), 300, 64, 128, 1, 2),
        ((128, 128, 128, 128, 128, 10), 150, 64, 256, 2, 1),
        ((100, 127, 33, 45), 100, 32, 256, 2, 2),
        ((127, 100, 5, 128), 33, 32, 256, 4, 1),
        ((45, 128, 100, 1), 70, 16, 256, 8, 2),
    ],
)
def test_widths_batches_and_shapes_of_blocks(rng, widths, n, height, threads, blocks, clusters):
    net = bfloat16(widths, (*["tanh", "relu", "gelu", "leaky_relu"][: len(widths) - 2], "identity"))
    parameters, x, t = problem(net, rng, n)
    got = gradients(net, parameters, x, t, None, height, threads, blocks, clusters)
    compare(net, parameters, x, t, got)


@pytest.mark.parametrize("blocks", [1, 2])
def test_small_integers_give_the_references_bits(rng, blocks):
    """In an order, rows twice and rows never; the last rows of a tile are missing."""
    net = bfloat16((20, 40, 33, 3), ("relu", "identity", "leaky_relu"), "half_mse")
    parameters = np.zeros(net.size, np.float32)
    for view in net.weights(parameters):
        view[...] = small_integers(rng, view.shape, np.float32) % 2
    order = rng.integers(0, 70, 64)
    x, t = small_integers(rng, (70, 20), np.float32) % 2, 64 * small_integers(rng, (70, 3), np.float32)
    expected = np.zeros(net.size, np.float32)
    reference.gradients(net, parameters, x[order], t[order], expected, reference.Workspace(net, 64, True))
    _, partials = gradients(net, parameters, x, t, order, 48, 256, blocks, 1)
    for mine, truth in zip(net.weights(partials[0]), net.weights(expected), strict=True):
        np.testing.assert_array_equal(mine, truth)
    for mine, truth in zip(net.biases(partials[0]), net.biases(expected), strict=True):
        np.testing.assert_array_equal(mine, truth)


@pytest.mark.parametrize(("loss", "labels"), [("mse", False), ("log_loss", True)])
@pytest.mark.parametrize(("widths", "blocks"), [((20, 40, 33, 3), 1), ((20, 40, 33, 3), 2), ((20, 40), 2)])
def test_the_same_bits_whichever_thread_comes_first(widths, blocks, loss, labels):
    """A barrier too few shows: what should be written, or still be there, is not, in one of the orders."""
    results = []
    for turns in ORDERS:
        net = bfloat16(widths, ("gelu", "relu", "silu")[1 - len(widths) :], loss)
        parameters, x, t = problem(net, np.random.default_rng(1), 70, labels)
        results.append(gradients(net, parameters, x, t, None, 16, 128 * blocks, blocks, 2, turns))
    for others in results[1:]:
        for mine, theirs in zip(results[0], others, strict=True):
            assert_same_bits(mine, theirs)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("special", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["sample", "weight"])
def test_nan_and_inf_land_where_the_reference_has_them(rng, special, where, blocks):
    """Rows and columns that are not there must not spread them."""
    net = bfloat16((6, 20, 9, 5), ("relu", "tanh", "identity"), "mse")
    parameters, x, t = problem(net, rng, 10)
    if where == "sample":
        x[7, 3] = special
    else:
        net.weights(parameters)[1][3, 8] = special
    expected = np.zeros(net.size, np.float32)
    with np.errstate(all="ignore"):
        reference.gradients(net, parameters, x, t, expected, reference.Workspace(net, 10, True))
    _, partials = gradients(net, parameters, x, t, None, 32, 256, blocks, 1)
    for mine, truth in zip(net.weights(partials[0]), net.weights(expected), strict=True):
        assert_same_special_values(np.ascontiguousarray(mine), truth)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize(("activation", "layer"), [("relu", None), ("tanh", 0), ("tanh", 1), ("tanh", 2)])
def test_inf_meets_no_rows_or_columns_that_are_not_there(rng, activation, layer, blocks):
    """Their zeros times Inf, in a sample or in a layer's weight, would be NaN, where the reference has Inf or less."""
    net = bfloat16((6, 20, 9, 5), (activation, activation, "identity"), "mse")
    parameters, x, t = problem(net, rng, 10)
    parameters[...], x, t = abs(parameters), abs(x), np.zeros_like(t)
    (x if layer is None else net.weights(parameters)[layer])[3, 1] = np.inf
    expected = np.zeros(net.size, np.float32)
    with np.errstate(all="ignore"):
        reference.gradients(net, parameters, x, t, expected, reference.Workspace(net, 10, True))
    _, partials = gradients(net, parameters, x, t, None, 32, 256, blocks, 1)
    views = [*net.weights(partials[0]), *net.biases(partials[0])], [*net.weights(expected), *net.biases(expected)]
    for mine, truth in zip(*views, strict=True):
        assert_same_special_values(np.ascontiguousarray(mine), truth)
    assert not np.isnan(expected).all()
    assert np.isnan(np.concatenate([each.ravel() for each in views[1]])).mean() < 0.5


SHAPES_OF_SHARED_MEMORY = [
    ((64, 64, 64, 64, 64, 1), "relu", 64, 128, 1),
    ((127, 45, 5), "gelu", 48, 256, 1),
    ((100, 128, 33, 12), "tanh", 32, 256, 2),
    ((45, 100, 17), "sine", 16, 256, 8),
]


@pytest.mark.parametrize(("widths", "activation", "height", "threads", "blocks"), SHAPES_OF_SHARED_MEMORY)
def test_the_bytes_of_shared_memory_are_those_of_the_kernel(
    rng, monkeypatch, widths, activation, height, threads, blocks
):
    net = bfloat16(widths, activation, "half_mse")
    parameters, x, t = problem(net, rng, 5)
    gradients(net, parameters, x, t, None, height, threads, blocks)
    exact_bytes = fused_training._shared_bytes
    monkeypatch.setattr(fused_training, "_shared_bytes", lambda *args: exact_bytes(*args) - 4)
    with pytest.raises(AssertionError, match="beyond its shared memory"):
        gradients(net, parameters, x, t, None, height, threads, blocks)


def test_rows_in_shared_memory_touch_all_banks():
    """A matrix load reads 8 rows of 16 bytes at once, an epilogue writes 8 rows of 4 pairs: of 32 banks, each once."""
    for width in range(1, 129):
        stride = 2 * fused_training._pitch(width)  # bytes
        assert stride % 16 == 0
        assert stride >= 2 * width
        assert {row * stride % 128 // 16 for row in range(8)} == set(range(8))


@pytest.mark.parametrize("warps", [4, 8])
def test_warps_share_all_tiles_of_a_product(warps):
    for rows, columns in itertools.product(range(1, 9), repeat=2):
        how = fused_training.grid(rows, columns, warps)
        assert how.down * how.across == warps
        assert how.down * how.tall >= rows
        assert how.across * how.wide >= columns


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("clusters", [1, 21])
def test_gradients_are_added_up_and_applied(rng, optimizer, clusters):
    """Two updates by gradients that are sums of the clusters' small integers; L2 for weights alone, gaps left alone."""
    net = bfloat16((5, 45, 3), "relu", "half_mse")
    rule = Optimizer(optimizer, learning_rate=0.1, l2=0.3, momentum=0.8, beta1=0.7, beta2=0.6, epsilon=1e-3)
    parameters = fill(net, np.zeros(net.size, np.float32), rng)
    state = np.zeros((rule.slots, net.size), np.float32)
    exact_arrays = [a.astype(np.float64) for a in (*net.weights(parameters), *net.biases(parameters))]
    memory = [[np.zeros_like(a), np.zeros_like(a)] for a in exact_arrays]
    program = fused_training.applying(net, optimizer)
    for update in (1, 2):
        partials = small_integers(rng, (clusters, net.size), np.float32)
        terms, value = rng.normal(size=clusters), np.full(1, np.nan)
        arguments = fused_training.applying_arguments(
            parameters, state, partials, terms, clusters, 40, value, numbers(rule, update)
        )
        Kernel(program, "apply_gradients")(
            fused_training.applying_grid(net), (program.threads,), arguments, shared_mem=program.shared_bytes
        )
        assert value[0] == pytest.approx(terms.sum() / 80, rel=1e-12)
        total = partials.sum(axis=0).astype(np.float64)
        for i, g in enumerate([*net.weights(total), *net.biases(total)]):
            exact_arrays[i], memory[i] = oracles.updated(rule, exact_arrays[i], g, memory[i], update, decays=i < 2)
    for mine, truth in zip([*net.weights(parameters), *net.biases(parameters)], exact_arrays, strict=True):
        np.testing.assert_allclose(mine, truth, rtol=2e-5, atol=2e-5)
    assert (gaps(net, parameters) == 0).all()
    assert (gaps(net, state) == 0).all()


def numbers(rule, updates):
    """As kernels/cuda/optimizers.py has them, which needs a device or the simulator."""
    rate, l2, shrink = rule.learning_rate, rule.l2, 0.0
    if rule.name == "adamw":
        l2, shrink = 0.0, rate * l2
    if rule.name in ("adam", "adamw"):
        rate *= np.sqrt(1 - rule.beta2**updates) / (1 - rule.beta1**updates)
    return rate, l2, shrink, rule.momentum, rule.beta1, 1 - rule.beta1, rule.beta2, 1 - rule.beta2, rule.epsilon


HOPPER, AMPERE = ("sm_90a", 227 << 10, 132), ("sm_80", 163 << 10, 108)


@pytest.mark.parametrize(
    ("widths", "rows", "device", "chosen"),
    [
        ((64,) * 5 + (1,), 1 << 16, HOPPER, (64, 128, 1, 264)),
        ((64,) * 5 + (1,), 1000, HOPPER, (16, 256, 1, 63)),
        ((64,) * 5 + (1,), 1 << 16, AMPERE, (48, 128, 1, 216)),
        ((128,) * 5 + (10,), 1 << 16, HOPPER, (64, 256, 2, 66)),
        ((128,) * 5 + (10,), 1 << 16, AMPERE, None),
        ((128,) * 6, 1 << 18, HOPPER, None),
        ((128,) * 12, 1 << 10, HOPPER, (16, 256, 8, 16)),
        ((128,) * 30, 1 << 10, HOPPER, None),
        ((1, 1), 1, AMPERE, (16, 128, 1, 1)),
        ((129, 64), 128, HOPPER, None),
        ((64, 129), 128, HOPPER, None),
        ((64, 64), 0, HOPPER, None),
        ((64, 64), 128, (None, 48 << 10, 40), None),
    ],
)
def test_the_choice(widths, rows, device, chosen):
    how = fused_training.choose(bfloat16(widths, "relu"), rows, False, *device)
    assert (how and (how.rows, how.program.threads, how.blocks, how.clusters)) == chosen
    if how:
        assert how.program.shared_bytes <= device[1]
        assert f"{how.rows} rows at a time" in how.kernel
    assert fused_training.choose(network(widths, "relu", "mse", np.float32), rows, False, *device) is None
