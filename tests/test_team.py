"""The team of threads: the same bits whoever computes, callers that never wait for each other, fork and exit."""

import ctypes
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import oracles
import pytest
from networks import data, fill, network

import fastmlp
from fastmlp import get_num_threads, num_threads, set_num_threads
from fastmlp.kernels import cores, cpu
from fastmlp.kernels.contract import step_flops
from fastmlp.kernels.cores import MAX_THREADS, usable_cores
from fastmlp.kernels.cpu import phases, team
from fastmlp.kernels.network import Optimizer, aligned_zeros

ROOT = Path(__file__).resolve().parents[1]
WIDTHS, BATCH = (40, 150, 60, 10), 130
NARROW_WIDTHS, LARGE_BATCH = (20, 33, 5), 2500
PATIENCE = 120
"""Seconds after which a child process counts as hung."""


@pytest.fixture(autouse=True)
def default_threads():
    """The default, and the environment read anew, in every test."""
    cores._from_environment.cache_clear()
    yield
    cores._from_environment.cache_clear()
    set_num_threads(None)


def matmul(seed):
    rng = np.random.default_rng(seed)
    results = []
    for transpose_a, transpose_b in ((False, False), (True, False), (False, True)):
        a, b = rng.normal(size=(2, 211, 211)).astype(np.float32)
        results.append(np.empty_like(a))
        cpu.matmul(a, b, results[-1], transpose_a, transpose_b)
    a, b, out = rng.normal(size=(97, 401)), rng.normal(size=(401, 350)), np.empty((97, 350))
    cpu.matmul(a, b, out)
    return [*results, out]


def linear_backward_update(seed):
    rng = np.random.default_rng(seed)
    n, k, m = 201, 103, 99
    x, w, b = (rng.normal(size=shape).astype(np.float32) for shape in ((n, k), (k, m), m))
    saved, dy, dx = (rng.normal(size=shape).astype(np.float32) for shape in ((n, m), (n, m), (n, k)))
    state = np.zeros((2, (k + 1) * m), np.float32)
    cpu.linear_backward_update(x, w, b, saved, dy, dy, dx, "gelu", Optimizer("adam"), state, 1)
    return [w, b, dy, dx, state]


def linear_forward(seed):
    rng = np.random.default_rng(seed)
    x, w, b = (rng.normal(size=shape).astype(np.float32) for shape in ((301, 203), (203, 99), 99))
    y, z = np.empty((301, 99), np.float32), np.empty((301, 99), np.float32)
    cpu.linear_forward(x, w, b, y, z, "tanh")
    return [y, z]


def large_network(seed, widths=WIDTHS, rows=3 * BATCH + 7):
    """A network whose every step is work enough for all threads, its parameters and its data."""
    rng = np.random.default_rng(seed)
    net = network(widths, ("gelu",) * (len(widths) - 2) + ("identity",), "cross_entropy", np.float32)
    return net, fill(net, aligned_zeros(net.size, net.dtype), rng), *data(net, rng, rows), rng


def train(seed, widths=WIDTHS, batch_size=BATCH, penalties=None):
    net, parameters, x, t, rng = large_network(seed, widths, 3 * batch_size + 7)
    rule, losses = Optimizer("adam", l2=0.01), np.empty(6)
    state = rule.new_state(net.size, net.dtype)
    order = np.concatenate([rng.permutation(len(x)), rng.permutation(len(x))])
    workspace = cpu.Workspace(net, batch_size, True)
    cpu.train(net, rule, parameters, state, 0, x, t, order, 0, batch_size, losses, workspace, penalties)
    return [parameters, state.copy(), losses, *([] if penalties is None else [penalties])]


def train_with_penalties(seed, *settings):
    return train(seed, *settings, penalties=np.empty(6))


def train_narrow_with_penalties(seed):
    return train_with_penalties(seed, NARROW_WIDTHS, LARGE_BATCH)


def train_narrow(seed):
    """The way of narrow networks, whose vectors run across the batch."""
    return train(seed, NARROW_WIDTHS, LARGE_BATCH)


def gradients(seed):
    net, parameters, x, t, _ = large_network(seed)
    gradient = aligned_zeros(net.size, net.dtype)
    value = cpu.gradients(net, parameters, x, t, gradient, cpu.Workspace(net, len(x), True))
    return [gradient, np.array(value)]


def forward(seed):
    net, parameters, x, _, _ = large_network(seed)
    out = np.empty((len(x), WIDTHS[-1]), np.float32)
    cpu.forward(net, parameters, x, out, cpu.Workspace(net, BATCH, False))
    return [out]


def loss(seed):
    rng = np.random.default_rng(seed)
    net = network((1, 500), "identity", "binary_cross_entropy", np.float32)
    y, dy = rng.normal(size=(1000, 500)).astype(np.float32), np.empty((1000, 500), np.float32)
    value = cpu.loss(net, y, oracles.target(net.loss, rng, 1000, 500).astype(np.float32), dy)
    return [dy, np.array(value)]


JOBS = {
    job.__name__: job
    for job in (
        matmul,
        linear_forward,
        linear_backward_update,
        train,
        train_narrow,
        train_with_penalties,
        train_narrow_with_penalties,
        gradients,
        forward,
        loss,
    )
}


def bits(name, seed=1):
    """What the job comes to."""
    return [result.tobytes() for result in JOBS[name](seed)]


@pytest.fixture(scope="module")
def alone():
    """What each job comes to on one thread, by name."""
    set_num_threads(1)
    expected = {name: bits(name) for name in JOBS}
    set_num_threads(None)
    return expected


@pytest.fixture
def runs(monkeypatch):
    """How many members the runs of a test had; every run is worth waking the workers for."""
    sizes, conduct = [], team._conducting()

    def spy(*arguments):
        sizes.append(conduct(*arguments))
        return sizes[-1]

    monkeypatch.setattr(team, "_conducting", lambda: spy)
    monkeypatch.setattr(team, "LONG_FLOPS", 0)
    return sizes


@pytest.fixture
def new_team(monkeypatch):
    """A function that puts a team that is still to be made in the place of the last one."""
    made = []

    def forget():
        if team._team is not None:
            made.append(team._team)
        monkeypatch.setattr(team, "_team", None)

    forget()
    yield forget
    forget()
    for each in made[1:]:
        each.end()


def python_entry(function):
    """A Python function of no arguments in the place of a compiled entry, and its address."""
    callback = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * 4)(lambda *_: function())
    return callback, ctypes.cast(callback, ctypes.c_void_p).value


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("name", JOBS)
def test_the_same_bits_on_any_number_of_threads(name, threads, alone, runs):
    set_num_threads(threads)
    for _ in range(5):
        assert bits(name) == alone[name]
    assert set(runs) == {threads}, "a job too small for threads would prove nothing"


@pytest.mark.skipif(usable_cores() == 1, reason="one core is all there is")
@pytest.mark.parametrize("widths", [WIDTHS, NARROW_WIDTHS])
def test_a_network_that_was_trained_on_one_thread_uses_more_when_told(widths, runs):
    net = fastmlp.MLP(widths, backend="cpu")
    rng = np.random.default_rng(0)
    x, y = rng.random((LARGE_BATCH, widths[0]), np.float32), rng.random((LARGE_BATCH, widths[-1]))
    with num_threads(1):
        net.train_step(x, y)
        net.predict(x)
    runs.clear()
    net.train_step(x, y)
    net.predict(x)
    assert set(runs) == {min(usable_cores(), MAX_THREADS)}


def test_the_number_of_threads_is_what_was_set_and_goes_back():
    for count in (1, np.int64(3), MAX_THREADS):
        set_num_threads(count)
        assert get_num_threads() == count
    set_num_threads(None)
    assert get_num_threads() == min(usable_cores(), MAX_THREADS)


@pytest.mark.parametrize("count", [0, -1, 257, 2.0, "2", True])
def test_what_is_no_number_of_threads_is_refused_and_changes_nothing(count):
    set_num_threads(3)
    with pytest.raises(fastmlp.ArgumentError, match=r"count must be an integer from 1 to 256; got"):
        set_num_threads(count)
    assert get_num_threads() == 3


def test_a_block_has_its_own_number_of_threads_in_its_own_thread():
    set_num_threads(3)
    with num_threads(1), ThreadPoolExecutor(1) as pool:
        assert get_num_threads() == 1
        assert pool.submit(get_num_threads).result(PATIENCE) == 3
        with num_threads(5):
            assert get_num_threads() == 5
            set_num_threads(2)
        assert get_num_threads() == 1
        with (
            pytest.raises(fastmlp.ArgumentError, match="count must be an integer from 1 to 256; got 0"),
            num_threads(0),
        ):
            pass
        assert get_num_threads() == 1
    assert get_num_threads() == 2


def test_a_block_ends_with_an_error_too():
    set_num_threads(3)
    with pytest.raises(KeyError), num_threads(1):
        raise KeyError
    assert get_num_threads() == 3


def test_the_environment_sets_the_default(monkeypatch):
    monkeypatch.setenv("FASTMLP_NUM_THREADS", "5")
    assert get_num_threads() == 5
    set_num_threads(2)
    assert get_num_threads() == 2
    monkeypatch.setenv("FASTMLP_NUM_THREADS", "")
    cores._from_environment.cache_clear()
    set_num_threads(None)
    assert get_num_threads() == min(usable_cores(), MAX_THREADS)


@pytest.mark.parametrize("value", ["0", "-1", "257", "1.5", "two", " 2", "²"])
def test_a_wrong_environment_is_an_error_that_names_it(value, monkeypatch):
    monkeypatch.setenv("FASTMLP_NUM_THREADS", value)
    with pytest.raises(fastmlp.ArgumentError, match="FASTMLP_NUM_THREADS must be an integer from 1 to 256; got"):
        get_num_threads()


def test_small_work_takes_one_thread_and_large_work_all():
    set_num_threads(7)
    assert team.threads_for(team.PARALLEL_FLOPS) == 7
    assert team.threads_for(team.PARALLEL_FLOPS - 1) == 1
    assert team.threads_for(team.PARALLEL_STEP - 1, 10**9) == 1
    assert team.threads_for(team.PARALLEL_STEP, -(-team.PARALLEL_FLOPS // team.PARALLEL_STEP)) == 7
    assert team.threads_for(step_flops(WIDTHS, BATCH), 6) == 7


def program(code, *options, **variables):
    """Run `code` in a fresh interpreter: (exit status, stdout, stderr)."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), **variables}
    environment.pop("FASTMLP_NUM_THREADS", None)
    done = subprocess.run(
        [sys.executable, *options, "-c", code], env=environment, capture_output=True, text=True, timeout=PATIENCE
    )
    return done.returncode, done.stdout.strip(), done.stderr.strip()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this platform")
def test_affinity_limits_the_threads():
    code = (
        "import os\n"
        "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
        "from fastmlp import get_num_threads\n"
        "print(get_num_threads())\n"
    )
    assert program(code) == (0, "1", "")


def test_many_callers_at_once_get_what_each_alone_would():
    set_num_threads(1)
    expected = {(name, seed): bits(name, seed) for name in JOBS for seed in range(2)}
    set_num_threads(3)
    calls = list(expected) * 8
    with ThreadPoolExecutor(8) as pool:
        for call, got in zip(calls, pool.map(lambda call: bits(*call), calls), strict=True):
            assert got == expected[call], call


def test_a_caller_that_finds_the_team_busy_runs_alone(alone, runs):
    set_num_threads(3)
    assert bits("matmul") == alone["matmul"]
    team._team._memory[phases.TAKEN * phases.LINE] = 1
    assert bits("matmul") == alone["matmul"]
    team._team._memory[phases.TAKEN * phases.LINE] = 0
    assert bits("matmul") == alone["matmul"]
    calls = len(runs) // 3
    assert runs == [3] * calls + [1] * calls + [3] * calls


def test_a_call_from_inside_a_run_runs_alone(alone, runs):
    """Every member calls a kernel of its own while the team is at work."""
    set_num_threads(3)
    all_inside, found = threading.Barrier(3), []

    def member():
        all_inside.wait(PATIENCE)
        found.append(bits("train"))
        all_inside.wait(PATIENCE)

    callback, entry = python_entry(member)
    assert team.conduct(entry, (), 3, 0) == 3
    assert found == [alone["train"]] * 3
    assert runs == [1, 1, 1, 3]
    del callback


def test_a_short_run_does_not_wake_sleepers_unless_runs_follow_one_another():
    callback, entry = python_entry(lambda: None)
    set_num_threads(3)
    team.conduct(entry, (), 3, team.LONG_FLOPS)
    asleep = team._team._memory[phases.ASLEEP * phases.LINE :]
    for _ in range(3):
        time.sleep(0.01)
        deadline = time.monotonic() + PATIENCE
        while asleep[0] < len(team._team.workers):
            assert time.monotonic() < deadline, "the workers do not go to sleep"
            time.sleep(0.01)
        assert team.conduct(entry, (), 3, team.LONG_FLOPS - 1) == 1
        assert 3 in [team.conduct(entry, (), 3, team.LONG_FLOPS - 1) for _ in range(1000)]
    del callback


def test_a_callback_may_call_kernels_from_another_thread(alone):
    set_num_threads(3)
    x, t = np.random.default_rng(3).random((2, 400, 60), np.float32)
    found = []

    def callback(epoch):
        with ThreadPoolExecutor(1) as pool:
            found.append(pool.submit(bits, "matmul").result(PATIENCE))

    fits = []
    for callbacks in ((), (callback,)):
        net = fastmlp.MLP((60, 200, 60), backend="cpu", seed=1)
        net.fit(x, t, epochs=3, batch_size=200, callbacks=callbacks)
        fits.append(net.parameters.tobytes())
    assert found == [alone["matmul"]] * 3
    assert fits[0] == fits[1]


@pytest.mark.parametrize("seconds", [0, 0.0002, 0.001, 0.02])
@pytest.mark.parametrize("name", ["matmul", "train", "train_narrow", "loss"])
def test_a_worker_that_comes_late_changes_nothing(name, seconds, alone, new_team, monkeypatch):
    live = team._Worker._live

    def live_late(worker):
        time.sleep(seconds * worker._rank)
        live(worker)

    monkeypatch.setattr(team._Worker, "_live", live_late)
    set_num_threads(3)
    for _ in range(5):
        new_team()
        for _ in range(3):
            assert bits(name) == alone[name]


def test_workers_that_never_come_are_not_waited_for(alone, runs, new_team, monkeypatch):
    monkeypatch.setattr(team._Worker, "_live", lambda worker: None)
    set_num_threads(3)
    for name in JOBS:
        assert bits(name) == alone[name]
    assert set(runs) == {3}


def test_where_the_system_grants_no_thread_fewer_do_it(alone, runs, new_team, monkeypatch):
    def refuse(team, rank):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(team, "_Worker", refuse)
    set_num_threads(3)
    assert bits("matmul") == alone["matmul"]
    made = team._team
    assert bits("matmul") == alone["matmul"]
    assert set(runs) == {1}
    assert team._team is made, "it asks again at every call"


def test_workers_that_sleep_in_python_come_when_called(alone, runs, tmp_path):
    """Where the system has no futex: in a process of its own, since that is compiled in."""
    code = (
        "import platform, time\n"
        "platform.machine = lambda: 'elsewhere'\n"
        "import numpy as np\n"
        "from fastmlp.kernels import cpu\n"
        "from fastmlp import set_num_threads\n"
        "from fastmlp.kernels.cpu import phases, team\n"
        "assert team.FUTEX is None\n"
        "set_num_threads(3)\n"
        "a = np.random.default_rng(0).normal(size=(300, 300))\n"
        "expected, out = np.empty_like(a), np.empty_like(a)\n"
        "cpu.matmul(a, a, expected)\n"
        "for pause in (0, 0.001, 0.02) * 20:\n"
        "    time.sleep(pause)\n"
        "    cpu.matmul(a, a, out)\n"
        "    assert (out == expected).all()\n"
        "entered = team._team._memory[phases.ENTERED * phases.LINE]\n"
        "assert entered > 10, entered\n"
    )
    assert program(code, "-W", "error", FASTMLP_CACHE_DIR=str(tmp_path)) == (0, "", "")


def in_a_child(sender, threads):
    """Send what the jobs come to, and how many workers this process has for them."""
    set_num_threads(threads)
    sender.send(({name: bits(name) for name in ("train", "matmul")}, len(team._team.workers)))


def from_a_child(method):
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=in_a_child, args=(sender, 3), daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: of any fork beside any thread
        child.start()
    sender.close()
    if not receiver.poll(PATIENCE):
        child.kill()
        pytest.fail("the child hangs")
    result = receiver.recv()
    child.join(PATIENCE)
    assert child.exitcode == 0
    return result


@pytest.mark.filterwarnings("ignore:os.fork\\(\\) was called")  # by JAX, where another test imported it
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_children_of_a_process_that_used_its_team_have_their_own(method, alone):
    set_num_threads(3)
    assert bits("train") == alone["train"]
    found, workers = from_a_child(method)
    assert found == {name: alone[name] for name in found}
    assert workers == 2
    assert bits("train") == alone["train"]


@pytest.mark.filterwarnings("ignore:os.fork\\(\\) was called")  # by JAX, where another test imported it
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this platform does not fork")
def test_a_child_forked_in_the_middle_of_a_run_has_its_own_team(alone):
    set_num_threads(3)
    in_the_run, over = threading.Event(), threading.Event()

    def member():
        in_the_run.set()
        over.wait(PATIENCE)

    callback, entry = python_entry(member)
    other = threading.Thread(target=team.conduct, args=(entry, (), 3, team.LONG_FLOPS))
    other.start()
    assert in_the_run.wait(PATIENCE)
    found, workers = from_a_child("fork")
    over.set()
    other.join(PATIENCE)
    del callback
    assert found == {name: alone[name] for name in found}
    assert workers == 2


def test_threads_that_call_a_thousand_times_each_get_what_they_would_alone():
    set_num_threads(3)
    sizes = (7, 60, 130, 200)
    operands = [np.random.default_rng(n).normal(size=(2, n, n)).astype(np.float32) for n in sizes]
    expected = [np.empty_like(a) for a, _ in operands]
    for (a, b), out in zip(operands, expected, strict=True):
        cpu.matmul(a, b, out)

    def caller(first):
        wrong = 0
        for call in range(1000):
            (a, b), right = operands[(first + call) % 4], expected[(first + call) % 4]
            out = np.empty_like(a)
            cpu.matmul(a, b, out)
            wrong += not np.array_equal(out, right)
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(caller, range(8))) == [0] * 8


def test_loky_workers_train(alone):
    set_num_threads(3)
    assert bits("train") == alone["train"]
    parallel = joblib.Parallel(n_jobs=2, backend="loky", timeout=PATIENCE)
    assert parallel(joblib.delayed(bits)("train") for _ in range(4)) == [alone["train"]] * 4
    assert bits("train") == alone["train"]


def test_a_process_with_parked_workers_ends_cleanly():
    code = (
        "import numpy as np\n"
        "from fastmlp.kernels import cpu\n"
        "from fastmlp import set_num_threads\n"
        "from fastmlp.kernels.cpu import team\n"
        "set_num_threads(4)\n"
        "a = np.ones((300, 300), np.float32)\n"
        "cpu.matmul(a, a, np.empty_like(a))\n"
        "assert len(team._team.workers) == 3\n"
    )
    assert program(code, "-W", "error") == (0, "", "")
