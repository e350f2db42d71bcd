"""The MLP itself: its first weights, its views, one step, gradients, predictions, copies."""

import copy
import itertools
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles
import pytest

import fastmlp
from fastmlp import MLP, ArgumentError
from fastmlp.kernels import backend as backends
from fastmlp.kernels.contract import ACTIVATIONS, ALIGNMENT, LOSSES, OPTIMIZERS
from fastmlp.kernels.network import Network


def exact_network(backend_name, dtype, **settings):
    """Small whole numbers and powers of two everywhere: each step's arithmetic is exact in either dtype."""
    net = MLP((3, 4, 2), loss="half_mse", learning_rate=2.0**-4, dtype=dtype, backend=backend_name, **settings)
    rng = np.random.default_rng(5)
    for array in (*net.weights, *net.biases):
        array[...] = rng.integers(-2, 3, array.shape)
    return net, rng.integers(-3, 4, (8, 3)).astype(dtype), rng.integers(-3, 4, (8, 2)).astype(dtype)


def test_the_outputs_are_the_formula(backend_name, dtype):
    net, x, _ = exact_network(backend_name, dtype)
    (w1, w2), (b1, b2) = net.weights, net.biases
    np.testing.assert_array_equal(net.predict(x), np.maximum(x @ w1 + b1, 0) @ w2 + b2)
    assert net.predict(x).dtype == dtype


def test_a_step_descends_along_the_gradients_and_returns_the_loss_before_it(backend_name, dtype):
    net, x, y = exact_network(backend_name, dtype)
    expected_loss = float(np.sum((net.predict(x) - y) ** 2) / (2 * len(x)))
    loss, dw, db = net.gradients(x, y)
    before = [array.copy() for array in (*net.weights, *net.biases)]
    assert loss == expected_loss
    assert net.loss(x, y) == expected_loss
    assert net.train_step(x, y) == expected_loss
    for old, gradient, new in zip(before, (*dw, *db), (*net.weights, *net.biases), strict=True):
        np.testing.assert_array_equal(new, old - dtype.type(2.0**-4) * gradient)
    assert net.updates == 1


def test_gradients_by_hand(backend_name, dtype):
    net, x, y = exact_network(backend_name, dtype)
    (w1, w2), (b1, b2) = net.weights, net.biases
    h = np.maximum(x @ w1 + b1, 0)
    dy = (h @ w2 + b2 - y) / len(x)
    dh = (dy @ w2.T) * (h > 0)
    _, dw, db = net.gradients(x, y)
    for received, expected in zip((*dw, *db), (x.T @ dh, h.T @ dy, dh.sum(0), dy.sum(0)), strict=True):
        np.testing.assert_array_equal(received, expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_agree_with_central_differences(backend_name, loss, rng):
    net = MLP((4, 5, 3), "tanh", loss=loss, dtype="float64", backend=backend_name)
    x, y = rng.standard_normal((7, 4)), oracles.target(loss, rng, 7, 3)
    _, dw, db = net.gradients(x, y)
    h = 6e-6  # about eps^(1/3): rounding eps/h and truncation h^2 are both below 1e-10, times derivatives of order 1
    for array, gradient in zip((*net.weights, *net.biases), (*dw, *db), strict=True):
        for i in np.ndindex(array.shape):
            middle = array[i]
            array[i] = middle + h
            above = net.loss(x, y)
            array[i] = middle - h
            below = net.loss(x, y)
            array[i] = middle
            assert abs((above - below) / (2 * h) - gradient[i]) < 1e-9


def test_gradients_leave_the_network_alone_and_are_fresh(backend_name, rng):
    net = MLP((4, 5, 3), backend=backend_name, l2=0.1)
    x, y = rng.standard_normal((7, 4)), rng.standard_normal((7, 3))
    before = net.parameters.tobytes()
    _, dw, _ = net.gradients(x, y)
    kept = dw[0].copy()
    net.gradients(2 * x, y)
    np.testing.assert_array_equal(dw[0], kept)
    assert (net.parameters.tobytes(), net.updates) == (before, 0)


def test_all_parameters_are_views_of_one_aligned_buffer(backend_name, dtype, rng):
    net = MLP((3, 5, 7, 2), optimizer="adam", dtype=dtype.name, backend=backend_name)
    for _ in range(3):
        net.train_step(rng.standard_normal((6, 3)), rng.standard_normal((6, 2)))
    views = (*net.weights, *net.biases)
    assert [view.shape for view in views] == [(3, 5), (5, 7), (7, 2), (5,), (7,), (2,)]
    for view in views:
        assert view.ctypes.data % ALIGNMENT == 0
        assert np.shares_memory(view, net.parameters)
    inside = sum(np.count_nonzero(view) for view in views)
    assert inside == np.count_nonzero(net.parameters), "the gaps between the views must stay zero"


def test_assigning_to_a_weight_writes_through(backend_name, dtype):
    net = MLP((3, 2), dtype=dtype.name, backend=backend_name)
    net.weights[0] = np.ones((3, 2))
    net.biases[0] = [5, 6]
    net.weights[0] *= 2
    net.weights[0][0, 0] = 10
    np.testing.assert_array_equal(net.predict(np.ones((1, 3))), [[10 + 2 + 2 + 5, 6 + 6]])
    with pytest.raises(ValueError, match="broadcast"):
        net.weights[0] = np.ones((2, 3))


def test_assigning_to_all_weights_is_all_or_nothing(backend_name):
    net = MLP((3, 4, 2), backend=backend_name)
    net.weights[:] = [np.ones((3, 4)), 2.0]
    assert [set(w.ravel()) for w in net.weights] == [{1.0}, {2.0}]
    before = net.parameters.tobytes()
    with pytest.raises(fastmlp.ShapeError, match="2 arrays of a network take as many values; got 1"):
        net.weights[:] = [np.zeros((3, 4))]
    with pytest.raises(ValueError, match="broadcast"):
        net.weights[:] = [np.zeros((3, 4)), np.zeros((9, 9))]
    for change in (lambda w: w.append(1), lambda w: w.clear(), lambda w: w.pop(), lambda w: w.__delitem__(0)):
        with pytest.raises(ArgumentError, match="one weight and one bias a layer"):
            change(net.weights)
    assert net.parameters.tobytes() == before


def test_one_seed_gives_the_same_weights_rounded_in_both_dtypes(backend_name):
    single, double = (MLP((9, 8, 7), "tanh", dtype=d, backend=backend_name, seed=3) for d in ("float32", "float64"))
    for w32, w64 in zip(single.weights, double.weights, strict=True):
        np.testing.assert_array_equal(w32, w64.astype(np.float32))
    again, other = (MLP((9, 8, 7), "tanh", backend=backend_name, seed=s) for s in (3, 4))
    assert again.parameters.tobytes() == single.parameters.tobytes()
    assert other.parameters.tobytes() != single.parameters.tobytes()
    drawn = {MLP((9, 8, 7), backend=backend_name, seed=None).parameters.tobytes() for _ in range(2)}
    assert len(drawn) == 2


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_first_weights_have_the_documented_spread(activation):
    k, m = 200, 300
    first, second = MLP((k, m, m), (activation, activation), dtype="float64", backend="numpy").weights
    for i, (w, inputs) in enumerate(((first, k), (second, m))):
        if activation in ("relu", "leaky_relu", "gelu", "silu"):
            deviation = np.sqrt(2 / inputs)
        else:
            limit = np.sqrt(6 / (inputs + m))
            if activation == "sine":
                limit = 30 / inputs if i == 0 else np.sqrt(6 / inputs)
            assert np.abs(w).max() <= limit
            deviation = limit / np.sqrt(3)
        # The deviation of N draws has a relative error of about 1/sqrt(2 N), their mean one of deviation/sqrt(N).
        assert abs(w.std() / deviation - 1) < 5 / np.sqrt(2 * w.size)
        assert abs(w.mean()) < 5 * deviation / np.sqrt(w.size)


def test_biases_begin_at_zero():
    assert not any(b.any() for b in MLP((3, 4, 5), backend="numpy").biases)


@pytest.mark.parametrize(
    ("activation", "output", "expected"),
    [
        ("tanh", "identity", ("tanh", "tanh", "identity")),
        ("tanh", "sigmoid", ("tanh", "tanh", "sigmoid")),
        (("relu", "sine"), "tanh", ("relu", "sine", "tanh")),
        (["relu", "sine", "tanh"], "identity", ("relu", "sine", "tanh")),
    ],
)
def test_activations_are_one_name_or_one_a_layer(activation, output, expected):
    assert MLP((3, 4, 5, 2), activation, output, backend="numpy").structure.activations == expected


def test_predictions_come_in_blocks_and_for_any_number_of_rows(backend_name, dtype, rng):
    net, _, _ = exact_network(backend_name, dtype)
    x = rng.integers(-3, 4, (10_001, 3)).astype(dtype)
    (w1, w2), (b1, b2) = net.weights, net.biases
    np.testing.assert_array_equal(net.predict(x), np.maximum(x @ w1 + b1, 0) @ w2 + b2)
    for n in (0, 1, 7):
        assert net.predict(x[:n]).shape == (n, 2)
    y = np.zeros((10_001, 2))
    assert net.loss(x, y) == pytest.approx(np.mean(np.sum(net.predict(x).astype("f8") ** 2, axis=1)) / 2, rel=1e-6)


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("widths", [(10, 5, 2), (60, 300, 4)])
def test_a_few_rows_give_the_same_bits_from_any_array(backend_name, dtype, widths, rows, rng):
    """They take a way of their own on the CPU; read-only, strided and sliced arrays, and new weights, as all others."""
    net = MLP(widths, dtype=dtype, backend=backend_name)
    many = rng.standard_normal((50, widths[0])).astype(dtype)
    expected = net.predict(many[:rows].copy())
    read_only = many[:rows].copy()
    read_only.flags.writeable = False
    for x in (many[:rows], read_only, np.asfortranarray(many)[:rows], many[:rows].tolist()):
        assert net.predict(x).tobytes() == expected.tobytes()
    net.weights[0] *= -1
    twin = copy.deepcopy(net)
    changed = net.predict(many[:rows])
    assert changed.tobytes() != expected.tobytes()
    assert twin.predict(many[:rows]).tobytes() == changed.tobytes()


@pytest.mark.parametrize("rows", [1, 40])
def test_threads_may_predict_with_one_network(backend_name, rows, rng):
    net = MLP((20, 64, 64, 3), activation="tanh", backend=backend_name)
    inputs = rng.standard_normal((8, rows, 20)).astype(np.float32)
    expected = [net.predict(x).tobytes() for x in inputs]

    def caller(x):
        return {net.predict(x).tobytes() for _ in range(200)}

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(caller, inputs)) == [{each} for each in expected]


def test_predictions_are_fresh_arrays(backend_name, rng):
    net = MLP((3, 2), backend=backend_name)
    first = net.predict(rng.standard_normal((4, 3)))
    kept = first.copy()
    net.predict(rng.standard_normal((4, 3)))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize("loss", ["cross_entropy", "binary_cross_entropy"])
def test_probabilities_are_finite_for_extreme_logits(backend_name, loss):
    net = MLP((1, 2), loss=loss, backend=backend_name)
    net.weights[0] = [[1.0, -1.0]]
    p = net.predict_proba([[0.0], [1.0], [1e4], [-1e4]])
    if loss == "cross_entropy":
        expected = [[0.5, 0.5], [1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))], [1, 0], [0, 1]]
    else:
        expected = [[0.5, 0.5], [1 / (1 + np.exp(-1)), 1 / (1 + np.exp(1))], [1, 0], [0, 1]]
    np.testing.assert_allclose(p, expected, rtol=4 * np.finfo(np.float32).eps)  # exp, a sum, a quotient


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_of_any_sizes_give_the_bits_of_a_fresh_workspace(backend_name, optimizer, rng):
    batches = [(rng.standard_normal((n, 6)), rng.standard_normal((n, 3))) for n in (5, 40, 1, 17)]
    one = MLP((6, 9, 3), "gelu", optimizer=optimizer, backend=backend_name)
    other = copy.deepcopy(one)
    for x, y in batches:
        fresh = copy.deepcopy(other)
        assert one.train_step(x, y) == fresh.train_step(x, y)
        other = fresh
    assert one.parameters.tobytes() == other.parameters.tobytes()
    assert one.optimizer_state.tobytes() == other.optimizer_state.tobytes()


def test_inputs_that_are_the_weights_are_read_as_they_were(backend_name, rng):
    one, other = (MLP((5, 5, 5), "tanh", loss="half_mse", backend=backend_name) for _ in range(2))
    for _ in range(3):
        one.train_step(one.weights[0], one.weights[1])
        other.train_step(other.weights[0].copy(), other.weights[1].copy())
    one.fit(one.weights[0], one.weights[1], epochs=3, batch_size=2)
    other.fit(other.weights[0].copy(), other.weights[1].copy(), epochs=3, batch_size=2)
    assert one.parameters.tobytes() == other.parameters.tobytes()


@pytest.mark.parametrize("widths", [(5, 5, 5), (5, 140, 5)], ids=["narrow", "wide"])
def test_inputs_that_are_the_optimisers_memory_are_read_as_they_were(backend_name, widths, rng):
    one, other = (MLP(widths, "tanh", optimizer="momentum", backend=backend_name) for _ in range(2))
    x, y = rng.normal(size=(5, 5)).astype(np.float32), rng.normal(size=(5, 5)).astype(np.float32)
    for net in (one, other):
        net.train_step(x, y)
    for _ in range(3):
        memory = [net.optimizer_state[0, -32:-7].reshape(5, 5) for net in (one, other)]
        one.train_step(memory[0], y)
        other.train_step(memory[1].copy(), y)
        assert one.parameters.tobytes() == other.parameters.tobytes()


def test_the_learning_rate_may_change_between_steps(backend_name, dtype):
    net, x, y = exact_network(backend_name, dtype)
    _, dw, _ = net.gradients(x, y)
    before = net.weights[0].copy()
    net.learning_rate = 0.5
    net.train_step(x, y)
    np.testing.assert_array_equal(net.weights[0], before - dtype.type(0.5) * dw[0])


@pytest.mark.parametrize("replica", [copy.deepcopy, copy.copy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_go_on_apart_and_alike(backend_name, replica, rng):
    x, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))
    net = MLP((4, 6, 2), optimizer="adam", backend=backend_name)
    net.fit(x, y, epochs=2, batch_size=8)
    twin = replica(net)
    assert not np.shares_memory(twin.parameters, net.parameters)
    assert np.shares_memory(twin.weights[0], twin.parameters)
    for each in (net, twin):
        each.fit(x, y, epochs=2, batch_size=8)
    assert twin.parameters.tobytes() == net.parameters.tobytes()
    assert (twin.updates, twin.epochs, twin.backend) == (net.updates, net.epochs, net.backend)


class Named(MLP):
    def __init__(self, names):
        super().__init__((4, len(names)))
        self.names = names


@pytest.mark.parametrize("replica", [copy.deepcopy, copy.copy, lambda net: pickle.loads(pickle.dumps(net))])
def test_copies_keep_their_class_and_what_was_added(replica, tmp_path):
    net = Named(["a", "b"])
    net.scale = 3
    twin = replica(net)
    assert type(twin) is Named
    assert (twin.names, twin.scale, str(twin.plan())) == (["a", "b"], 3, str(net.plan()))
    net.save(tmp_path / "net")
    loaded = Named.load(tmp_path / "net")
    assert type(loaded) is Named
    assert loaded.parameters.tobytes() == net.parameters.tobytes()


def test_auto_says_what_it_chose():
    net = MLP((3, 2))
    assert net.backend in backends.BACKENDS
    assert backends.status()[net.backend] is None
    assert repr(net.backend) in repr(net)


def test_its_representation_tells_the_settings_that_differ():
    text = repr(MLP((3, 4, 2), "tanh", optimizer="adam", learning_rate=0.25, backend="numpy"))
    for part in ("[3, 4, 2]", "'tanh'", "'adam'", "0.25", "26 parameters", "'numpy'"):
        assert part in text


def test_a_configuration_builds_the_same_network():
    net = MLP((3, 4, 2), ["sine"], "tanh", "half_mse", "nesterov", 0.5, "float64", "numpy", l2=0.1, momentum=0.5)
    again = MLP(**net.configuration, backend="numpy")
    assert again.configuration == net.configuration
    assert again.parameters.tobytes() == net.parameters.tobytes()


@pytest.mark.parametrize(("loss", "width"), list(itertools.product(LOSSES, (2, 5))))
def test_training_lowers_every_loss(backend_name, loss, width, rng):
    x, y = rng.standard_normal((32, 4)), oracles.target(loss, rng, 32, width)
    if loss in oracles.BINARY_LOSSES:
        y = y.round()  # of probabilities between, the loss has a floor far above zero
    net = MLP((4, 16, width), "tanh", loss=loss, optimizer="adam", learning_rate=0.02, backend=backend_name)
    first = net.train_step(x, y)
    for _ in range(200):
        last = net.train_step(x, y)
    assert last < first / 2


def test_a_network_changes_its_backend(dtype):
    """Weights, the optimiser's memory and its views go along; an absent or unknown backend changes nothing."""
    moving, staying = (MLP((3, 4, 2), "tanh", optimizer="momentum", dtype=dtype, backend="numpy") for _ in range(2))
    rng = np.random.default_rng(5)
    x, t = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    digits = float(np.sqrt(np.finfo(dtype).eps))
    weights = moving.weights

    def step_and_compare():
        assert moving.train_step(x, t) == pytest.approx(staying.train_step(x, t), rel=digits)
        np.testing.assert_allclose(weights[0], staying.weights[0], rtol=digits, atol=digits)
        np.testing.assert_allclose(moving.predict(x), staying.predict(x), rtol=digits, atol=digits)

    for name in ("cpu", "numpy", "auto"):
        assert moving.to(name) is moving
        assert moving.backend == ("cpu" if name == "auto" else name)
        step_and_compare()
    assert "backend cpu (auto, by rule" in str(moving.plan())
    with pytest.raises(ArgumentError, match="Did you mean 'numpy'"):
        moving.to("numpi")
    assert moving.backend == "cpu"
    step_and_compare()


@pytest.mark.parametrize("widths", [(3, 1), (5, 7, 2), (24, 8, 2), (24_000, 24_000)])
def test_gradients_are_the_weights_and_the_biases_of_what_was_filled(widths):
    """Of a buffer of 2 GiB too, which no structured dtype can describe."""
    structure = Network(widths, ("tanh",) * (len(widths) - 1), "mse", np.dtype(np.float32))
    filled = []
    _, weights, biases = structure.gradients_by(lambda x, y, buffer: filled.append(buffer) or 0.0)(0, 0)
    (buffer,) = filled
    assert buffer.size == structure.size
    usual = structure.weights(buffer), structure.biases(buffer)
    for mine, theirs in zip([*weights, *biases], [*usual[0], *usual[1]], strict=True):
        assert type(mine) is np.ndarray
        assert mine.flags.writeable
        assert mine.flags.c_contiguous
        assert mine.__array_interface__ == theirs.__array_interface__
