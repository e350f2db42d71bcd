"""Whose turn it is to train: threads that train one network, and Ctrl-C between two steps of anybody's own loop."""

import copy
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastmlp import MLP
from fastmlp.kernels.contract import RUNNING, WANTED
from fastmlp.turns import Turns

NARROW, WIDE = (8, 16, 4), (200, 200, 200)
"""Of which one step keeps Python's global lock on the CPU backend, and the other lets go of it."""


def batch(rng, widths, rows=64):
    return (rng.normal(size=(rows, width)).astype(np.float32) for width in (widths[0], widths[-1]))


def bits(net):
    return net.parameters.tobytes(), net.optimizer_state.tobytes(), net.updates


@pytest.mark.parametrize("widths", [NARROW, WIDE], ids=["narrow", "wide"])
def test_an_interrupted_loop_of_steps_stands_at_a_whole_step(widths, backend_name, rng, interrupts_arrive):
    x, y = batch(rng, widths)
    net = MLP(widths, optimizer="adam", learning_rate=1e-4, backend=backend_name)
    net.train_step(x, y)
    for seconds in rng.uniform(0, 0.02, 25):
        twin = copy.deepcopy(net)
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - it may come before the first step
            timer.start()
            while True:
                net.train_step(x, y)
        timer.join()
        while twin.updates < net.updates:
            twin.train_step(x, y)
        assert bits(net) == bits(twin)


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.astype(np.float64)], ids=["as they are", "judged"])
@pytest.mark.parametrize("widths", [NARROW, WIDE], ids=["narrow", "wide"])
def test_threads_get_the_gradients_of_their_own_batches(widths, convert, backend_name, rng):
    net = MLP(widths, backend=backend_name)
    batches = [[*batch(rng, widths, rows)] for rows in (64, 63, 40)]
    expected = [net.gradients(x, y) for x, y in batches]
    start = threading.Barrier(len(batches))

    def repeat(which):
        start.wait()
        x, y = batches[which]
        for i in range(60):
            loss, dw, db = net.gradients(x if i % 2 else convert(x), y)
            theirs, their_dw, their_db = expected[which]
            assert loss == theirs
            assert all(map(np.array_equal, (*dw, *db), (*their_dw, *their_db)))

    with ThreadPoolExecutor(len(batches)) as pool:
        for done in [pool.submit(repeat, which) for which in range(len(batches))]:
            done.result()


@pytest.mark.parametrize("widths", [NARROW, WIDE], ids=["narrow", "wide"])
def test_a_fit_beside_another_threads_steps_makes_all_its_own(widths, backend_name, rng):
    x, y = batch(rng, widths)
    net = MLP(widths, optimizer="adam", learning_rate=1e-5, backend=backend_name)
    with ThreadPoolExecutor(2) as pool:
        fit = pool.submit(net.fit, x, y, epochs=20, batch_size=16)
        steps = pool.submit(lambda: [net.train_step(x, y) for _ in range(50)])
        assert fit.result().epochs == net.epochs == 20
        assert np.isfinite(steps.result()).all()
    assert net.updates == 20 * 4 + 50
    assert np.isfinite(net.parameters).all()


def test_who_wants_a_turn_waits_for_a_call_that_runs():
    turns, seen = Turns(), []
    turns.counts[RUNNING] = 1

    def want():
        with turns.taken():
            seen.append(turns.counts[WANTED])

    thread = threading.Thread(target=want)
    thread.start()
    while not turns.counts[WANTED]:
        time.sleep(0.001)
    assert seen == []
    turns.counts[RUNNING] = 0
    thread.join()
    assert seen == [1]
    assert turns.counts[WANTED] == 0


def test_a_stepper_refuses_while_somebody_wants_a_turn_or_has_one(rng):
    x, y = batch(rng, NARROW)
    net = MLP(NARROW, backend="cpu")
    net.train_step(x, y)
    net.gradients(x, y)
    before = bits(net)
    for place in (RUNNING, WANTED):
        net._turns.counts[place] = 1
        assert type(net._direct_step[0](x, y, 0.1)) is int
        assert net._direct_gradients[0](x, y) is None
        net._turns.counts[place] = 0
    assert bits(net) == before
    assert type(net._direct_step[0](x, y, 0.1)) is float


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_during_a_turn_has_its_own(backend_name, rng):
    x, y = batch(rng, NARROW)
    net = MLP(NARROW, backend=backend_name)
    net.train_step(x, y)
    with net._turns.taken():
        net._turns.counts[RUNNING] = 1
        child = os.fork()
        if child == 0:
            net.train_step(x, y)
            os._exit(0 if net.updates == 2 else 1)
        net._turns.counts[RUNNING] = 0
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
