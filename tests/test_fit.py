"""`fit`: the same bits as its steps one by one, however it is cut into calls; shuffling, validation, divergence."""

import copy

import numpy as np
import oracles
import pytest

from fastmlp import MLP, interrupt, network
from fastmlp.kernels.contract import LOSSES, OPTIMIZERS


def data(rng, loss="mse", n=50):
    """Fifty rows of six, for three outputs: with batches of 16, a ragged last one of 2."""
    return rng.standard_normal((n, 6)), oracles.target(loss, rng, n, 3)


def bits(net):
    return net.parameters.tobytes(), net.optimizer_state.tobytes(), net.updates, net.epochs, net.random_state


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_unshuffled_fit_is_its_steps_in_order(backend_name, dtype, optimizer, rng):
    x, y = data(rng)
    fitted = MLP((6, 9, 3), "tanh", optimizer=optimizer, dtype=dtype.name, backend=backend_name, l2=0.01)
    stepped = copy.deepcopy(fitted)
    history = fitted.fit(x, y, epochs=3, batch_size=16, shuffle=False)
    for epoch in range(3):
        losses = [stepped.train_step(x[i : i + 16], y[i : i + 16]) for i in range(0, 50, 16)]
        mean = np.average(losses, weights=(16, 16, 16, 2))
        assert history.loss[epoch] == pytest.approx(mean, rel=4 * np.finfo(float).eps)  # four products, three sums
    assert fitted.parameters.tobytes() == stepped.parameters.tobytes()
    assert fitted.optimizer_state.tobytes() == stepped.optimizer_state.tobytes()
    assert fitted.updates == stepped.updates == 12


@pytest.mark.parametrize("loss", LOSSES)
def test_a_shuffled_fit_is_its_steps_in_the_order_drawn(backend_name, loss, rng):
    x, y = data(rng, loss)
    fitted = MLP((6, 9, 3), "silu", loss=loss, optimizer="adam", backend=backend_name)
    stepped, random = copy.deepcopy(fitted), np.random.Generator(np.random.PCG64())
    random.bit_generator.state = fitted.random_state
    fitted.fit(x, y, epochs=3, batch_size=16)
    for _ in range(3):
        order = np.arange(50)
        random.shuffle(order)
        for i in range(0, 50, 16):
            stepped.train_step(x[order[i : i + 16]], y[order[i : i + 16]])
    assert fitted.parameters.tobytes() == stepped.parameters.tobytes()
    assert fitted.random_state == random.bit_generator.state


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("seconds", "positions"), [(0.0, 8192), (1e9, 1), (1e9, 10**6), (1e-4, 120)])
def test_where_calls_are_cut_changes_no_bit(backend_name, shuffle, seconds, positions, monkeypatch, rng):
    x, y = data(rng)
    whole, cut = (MLP((6, 9, 3), optimizer="adam", backend=backend_name) for _ in range(2))
    expected = whole.fit(x, y, epochs=7, batch_size=16, shuffle=shuffle)
    monkeypatch.setattr(interrupt, "SECONDS_A_CALL", seconds)
    monkeypatch.setattr(network, "POSITIONS_A_CALL", positions)
    received = cut.fit(x, y, epochs=7, batch_size=16, shuffle=shuffle)
    assert bits(cut) == bits(whole)
    assert received.loss == expected.loss


def test_watching_a_fit_changes_no_bit(backend_name, rng):
    x, y = data(rng)
    alone, watched, validated, shown = (MLP((6, 9, 3), backend=backend_name) for _ in range(4))
    expected = alone.fit(x, y, epochs=5, batch_size=16)
    for net, how in (
        (watched, {"callbacks": [lambda epoch: None]}),
        (validated, {"validation_data": (x[:9], y[:9])}),
        (shown, {"progress": True}),
    ):
        assert net.fit(x, y, epochs=5, batch_size=16, **how).loss == expected.loss
        assert bits(net) == bits(alone)


def test_a_fit_in_parts_is_one_fit(backend_name, rng):
    x, y = data(rng)
    one, parts = (MLP((6, 9, 3), optimizer="nesterov", backend=backend_name) for _ in range(2))
    expected = one.fit(x, y, epochs=6, batch_size=16)
    received = parts.fit(x, y, epochs=2, batch_size=16).loss + parts.fit(x, y, epochs=4, batch_size=16).loss
    assert received == expected.loss
    assert bits(parts) == bits(one)
    assert one.epochs == 6


def test_every_row_is_seen_once_an_epoch(backend_name, rng):
    x, y = data(rng)
    net = MLP((6, 9, 3), learning_rate=1e-30, dtype="float64", backend=backend_name)
    for b in net.biases:
        b[...] = 1
    before = net.parameters.tobytes()
    history = net.fit(x, y, epochs=3, batch_size=16)
    assert net.parameters.tobytes() == before, "a step of 1e-30 is lost in rounding"
    # A sum of 150 squares in another order: each order is within 150 eps of the exact one.
    assert history.loss == pytest.approx([net.loss(x, y)] * 3, rel=300 * np.finfo(float).eps)


@pytest.mark.parametrize("batch_size", [None, 50, 51, 10**9])
def test_a_full_batch_is_not_shuffled(backend_name, batch_size, rng):
    x, y = data(rng)
    one, other = (MLP((6, 9, 3), backend=backend_name) for _ in range(2))
    state = one.random_state
    history = one.fit(x, y, epochs=4, batch_size=batch_size)
    assert one.random_state == state
    assert history.loss == [other.train_step(x, y) for _ in range(4)]
    assert one.parameters.tobytes() == other.parameters.tobytes()


def test_batches_of_one_row(backend_name, rng):
    x, y = data(rng, n=5)
    one, other = (MLP((6, 9, 3), backend=backend_name) for _ in range(2))
    one.fit(x, y, epochs=1, batch_size=1, shuffle=False)
    for i in range(5):
        other.train_step(x[i : i + 1], y[i : i + 1])
    assert one.parameters.tobytes() == other.parameters.tobytes()


def test_the_seed_decides_the_order(backend_name, rng):
    x, y = data(rng)
    same, again, other = (MLP((6, 3), backend=backend_name, seed=s) for s in (1, 1, 2))
    other.parameters[...] = same.parameters
    for net in (same, again, other):
        net.fit(x, y, epochs=1, batch_size=16)
    assert same.parameters.tobytes() == again.parameters.tobytes()
    assert same.parameters.tobytes() != other.parameters.tobytes()


def test_validation_loss_is_that_after_each_epoch(backend_name, rng):
    x, y = data(rng)
    seen = []
    net = MLP((6, 9, 3), backend=backend_name)
    history = net.fit(
        x, y, 3, 16, validation_data=(x[:9], y[:9]), callbacks=[lambda epoch: seen.append(net.loss(x[:9], y[:9]))]
    )
    assert history.validation_loss == seen
    assert len(set(seen)) == 3


def test_history_tells_what_happened(backend_name, rng):
    x, y = data(rng)
    net = MLP((6, 9, 3), backend=backend_name)
    history = net.fit(x, y, epochs=4, batch_size=16)
    assert history.epochs == len(history.loss) == 4
    assert history.validation_loss == []
    assert history.seconds > 0
    assert "4 epochs" in repr(history)
    assert all(type(loss) is float for loss in history.loss)
    nothing = net.fit(x, y, epochs=0)
    assert (nothing.loss, nothing.epochs) == ([], 0)
    assert "0 epochs" in repr(nothing)


def test_divergence_warns_once_and_goes_on(backend_name, rng):
    x, y = data(rng)
    net = MLP((6, 9, 3), learning_rate=1e6, backend=backend_name)
    with pytest.warns(RuntimeWarning, match="the loss of epoch .* training diverges") as caught:
        history = net.fit(x, y, epochs=60, batch_size=16, callbacks=[lambda epoch: None])
    assert len(caught) == 1
    assert history.epochs == 60
    first = next(i for i, loss in enumerate(history.loss) if not np.isfinite(loss))
    assert f"epoch {first} " in str(caught[0].message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_learns(backend_name, optimizer, rng):
    x = rng.standard_normal((200, 4))
    y = np.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    rate = {"sgd": 0.1, "momentum": 0.02, "nesterov": 0.02}.get(optimizer, 0.01)
    net = MLP((4, 32, 1), "tanh", optimizer=optimizer, learning_rate=rate, l2=1e-5, backend=backend_name)
    history = net.fit(x, y, epochs=150, batch_size=20)
    assert history.loss[-1] < history.loss[0] / 5


def test_the_data_are_not_written(backend_name, rng):
    x, y = (np.ascontiguousarray(array, np.float32) for array in data(rng))
    kept = x.copy(), y.copy()
    MLP((6, 9, 3), backend=backend_name).fit(x, y, epochs=3, batch_size=16)
    np.testing.assert_array_equal((x, y)[0], kept[0])
    np.testing.assert_array_equal((x, y)[1], kept[1])


def test_a_fit_errs_no_more_than_twice_as_much_as_numpys(backend_name, rng):
    """Twenty-eight steps in float32 against the same in float64; root mean square over ten networks."""
    x, y = (array.astype(np.float32) for array in data(rng))
    squares = {backend_name: 0.0, "numpy": 0.0}
    for seed in range(10):
        exact = MLP((6, 9, 3), "tanh", dtype="float64", backend="numpy", seed=seed)
        for w64, w in zip(exact.weights, MLP((6, 9, 3), "tanh", backend="numpy", seed=seed).weights, strict=True):
            w64[...] = w
        exact.fit(x, y, epochs=7, batch_size=16)
        for name in squares:
            net = MLP((6, 9, 3), "tanh", backend=name, seed=seed)
            net.fit(x, y, epochs=7, batch_size=16)
            squares[name] += sum(np.sum((w - w64) ** 2) for w, w64 in zip(net.weights, exact.weights, strict=True))
    assert squares[backend_name] <= 4 * squares["numpy"]
