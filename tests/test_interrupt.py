"""Ctrl-C during a fit: the weights at a whole step, the counters true, the network usable."""

import copy
import os
import signal
import threading

import numpy as np
import pytest

from fastmlp import MLP, num_threads
from fastmlp.interrupt import interrupt_held
from fastmlp.kernels import backend as backends
from fastmlp.kernels.network import Optimizer

ROWS, BATCH, STEPS = 200, 16, 13

pytestmark = pytest.mark.usefixtures("interrupts_arrive")


def problem(rng):
    return rng.standard_normal((ROWS, 8)).astype(np.float32), rng.standard_normal((ROWS, 4)).astype(np.float32)


def interrupted(net, seconds, *args, **kwargs):
    """A fit that a SIGINT, sent from outside after so many seconds, ends."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may come before the fit has begun
        timer.start()
        net.fit(*args, **kwargs)
    timer.join()


def replayed(net, x, y, updates):
    """`updates` steps of a new fit of `net` in one call of its backend, and the random state once these are drawn."""
    random = np.random.Generator(np.random.PCG64())
    random.bit_generator.state = net.random_state
    order = np.tile(np.arange(ROWS), (-(-updates // STEPS), 1))
    for epoch in order:
        random.shuffle(epoch)
    backend = backends.load(net.backend)
    parameters, state, losses = net.parameters.copy(), net.optimizer_state.copy(), np.empty(updates)
    workspace = backend.Workspace(net.structure, BATCH, True)
    optimizer = Optimizer("adam", net.learning_rate)
    backend.train(
        net.structure, optimizer, parameters, state, net.updates, x, y, order.reshape(-1), 0, BATCH, losses, workspace
    )  # fmt: skip
    return parameters, state, random.bit_generator.state


@pytest.mark.parametrize("seconds", [0.02, 0.05, 0.08, 0.13, 0.21])
def test_an_interrupted_fit_stands_at_a_whole_step(backend_name, seconds, rng):
    x, y = problem(rng)
    net = MLP((8, 16, 4), optimizer="adam", learning_rate=1e-4, backend=backend_name)
    net.train_step(x[:BATCH], y[:BATCH])  # whatever the backend compiles at first is compiled now
    net = MLP((8, 16, 4), optimizer="adam", learning_rate=1e-4, backend=backend_name)
    untouched = copy.deepcopy(net)

    interrupted(net, seconds, x, y, epochs=10**6, batch_size=BATCH)

    assert net.updates > 0
    assert net.epochs == net.updates // STEPS
    parameters, state, random_state = replayed(untouched, x, y, net.updates)
    assert net.parameters.tobytes() == parameters.tobytes()
    assert net.optimizer_state.tobytes() == state.tobytes()
    assert net.random_state == random_state


def test_two_hundred_interrupts_at_random_moments(rng):
    """On a team of threads: each ends a fit at a whole step, whatever it interrupts."""
    x, y = rng.standard_normal((ROWS, 60)).astype(np.float32), rng.standard_normal((ROWS, 90)).astype(np.float32)
    net = MLP((60, 250, 90), optimizer="adam", learning_rate=1e-6, backend="cpu")
    with num_threads(2):
        net.fit(x, y, epochs=1, batch_size=BATCH)
        for seconds in rng.uniform(0, 0.01, 200):
            before = copy.deepcopy(net)
            interrupted(net, seconds, x, y, epochs=10**6, batch_size=BATCH)
            updates = net.updates - before.updates
            assert net.epochs - before.epochs == updates // STEPS
            parameters, state, random_state = replayed(before, x, y, updates)
            assert net.parameters.tobytes() == parameters.tobytes()
            assert net.optimizer_state.tobytes() == state.tobytes()
            assert net.random_state == random_state


def test_an_interrupted_network_is_usable(backend_name, tmp_path, rng):
    x, y = problem(rng)
    net = MLP((8, 16, 4), optimizer="adam", backend=backend_name)
    net.train_step(x, y)
    interrupted(net, 0.05, x, y, epochs=10**6, batch_size=BATCH)
    net.save(tmp_path / "net")
    twin = MLP.load(tmp_path / "net", backend=backend_name)
    for each in (net, twin):
        assert each.fit(x, y, epochs=2, batch_size=BATCH).epochs == 2
    assert twin.parameters.tobytes() == net.parameters.tobytes()
    assert np.isfinite(net.predict(x)).all()


def test_an_interrupt_in_a_callback_comes_at_the_end_of_its_epoch(backend_name, rng):
    x, y = problem(rng)
    net = MLP((8, 16, 4), backend=backend_name)

    def press(epoch):
        if epoch.index == 2:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        net.fit(x, y, epochs=10, batch_size=BATCH, callbacks=[press])
    assert (net.epochs, net.updates) == (3, 3 * STEPS)


def test_an_interrupt_is_held_to_the_end_of_the_block_and_goes_to_the_handler_before():
    before, seen = signal.getsignal(signal.SIGINT), []

    def interrupted_block():
        with interrupt_held():
            signal.raise_signal(signal.SIGINT)
            seen.append("finished")

    with pytest.raises(KeyboardInterrupt):
        interrupted_block()
    assert seen == ["finished"]
    assert signal.getsignal(signal.SIGINT) is before
    with interrupt_held():
        pass

    seen.clear()
    signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:
        with interrupt_held():
            signal.raise_signal(signal.SIGINT)
            assert seen == []
        assert seen == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_a_handler_that_is_not_pythons_is_left_alone(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        with interrupt_held():
            assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_fit_runs_in_any_thread(backend_name, rng):
    x, y = problem(rng)
    here, there = (MLP((8, 16, 4), backend=backend_name) for _ in range(2))
    here.fit(x, y, epochs=3)
    thread = threading.Thread(target=there.fit, args=(x, y), kwargs={"epochs": 3})
    thread.start()
    thread.join()
    assert there.parameters.tobytes() == here.parameters.tobytes()
