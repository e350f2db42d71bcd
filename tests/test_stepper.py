"""Single steps and gradients called directly: the bits of the usual way, and nothing done that has to be judged."""

import gc
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from layouts import Subclass, misaligned, read_only

from fastmlp import MLP, num_threads, set_num_threads
from fastmlp.computing import no_step
from fastmlp.errors import ArgumentError, DTypeError, ShapeError
from fastmlp.kernels import cpu
from fastmlp.kernels.contract import LOSSES, OPTIMIZERS
from fastmlp.kernels.cpu import direct, phases, team

ROOT = Path(__file__).resolve().parents[1]

NARROW, WIDE = (5, 8, 3), (7, 140, 3)
"""Widths of networks that are trained across the batch, and row-major."""


@pytest.fixture(autouse=True)
def default_threads():
    assert direct.reads_arrays()
    yield
    set_num_threads(None)


def batch(net, rows, seed=0):
    """Inputs and their targets, arrays that need no judging."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, net.layers[0])).astype(net.dtype)
    kind, outputs = LOSSES[net.structure.loss].target, net.layers[-1]
    if kind == "classes":
        return x, rng.integers(0, outputs, rows)
    return x, rng.random((rows, outputs)).astype(net.dtype)


def twins(widths, **options):
    """Two networks with the same parameters: the second one never calls anything directly."""
    nets = [MLP(widths, "tanh", seed=1, backend="cpu", **options) for _ in range(2)]
    nets[1]._stepper = lambda rule: no_step
    return nets


def calls_of(net, monkeypatch):
    """Which calls the network's steppers made, from now on: 1, or 0 for those that they refused."""
    answers = []
    make = net._stepper

    def spied(rule):
        step = make(rule)

        def call(*given):
            loss = step(*given)
            answers.append(int(type(loss) is float))
            return loss

        return call

    monkeypatch.setattr(net, "_stepper", spied)
    return answers


def bits(net):
    return net.parameters.tobytes(), net.optimizer_state.tobytes(), net.updates


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("widths", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_and_gradients_have_the_bits_of_the_usual_way(dtype, widths, loss, optimizer, monkeypatch):
    net, usual = twins(widths, loss=loss, optimizer=optimizer, l2=0.01, dtype=dtype)
    answers = calls_of(net, monkeypatch)
    for step, rows in enumerate((33, 1, 20, 33)):
        x, y = batch(net, rows, step)
        assert net.train_step(x, y) == usual.train_step(x, y)
        assert bits(net) == bits(usual)
        (loss_here, dw, db), (usual_loss, usual_dw, usual_db) = net.gradients(x, y), usual.gradients(x, y)
        assert loss_here == usual_loss
        assert [g.tobytes() for g in (*dw, *db)] == [g.tobytes() for g in (*usual_dw, *usual_db)]
    assert answers == [1] * 6, "after the first of each kind all go directly"


def test_a_changed_learning_rate_and_a_larger_batch_are_heeded(monkeypatch):
    net, usual = twins(NARROW, optimizer="adam")
    answers = calls_of(net, monkeypatch)
    for rows, rate in ((8, 0.1), (8, 0.1), (8, 0.01), (8, 0.01), (30, 0.01), (30, 0.01)):
        net.learning_rate = usual.learning_rate = rate
        assert net.train_step(*batch(net, rows)) == usual.train_step(*batch(net, rows))
        assert bits(net) == bits(usual)
    assert answers == [1, 1, 1, 0, 1]


def test_another_backend_takes_over():
    net, usual = twins(NARROW)
    x, y = batch(net, 9)
    for backend in ("cpu", "cpu", "numpy", "numpy", "cpu", "cpu"):
        net.to(backend)
        usual.to(backend)
        assert net.train_step(x, y) == usual.train_step(x, y)
        assert net.gradients(x, y)[0] == usual.gradients(x, y)[0]
    assert bits(net) == bits(usual)


ALIKE = {
    "a list": lambda x: x.tolist(),
    "another dtype": lambda x: x.astype(np.float64),
    "columns first": np.asfortranarray,
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "a subclass": lambda x: x.view(Subclass),
    "misaligned": misaligned,
    "the other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
}


@pytest.mark.parametrize("way", ALIKE)
@pytest.mark.parametrize("place", [0, 1], ids=["x", "y"])
def test_what_is_not_taken_as_it_is_goes_the_usual_way(way, place, monkeypatch):
    net, usual = twins(NARROW)
    given = batch(net, 12)
    net.train_step(*given), usual.train_step(*given)
    net.gradients(*given)
    given = [ALIKE[way](array) if index == place else array for index, array in enumerate(given)]
    expected = usual.train_step(*given)
    assert net.train_step(*given) == expected
    assert bits(net) == bits(usual)
    assert net.gradients(*given)[0] == usual.gradients(*given)[0]


def changed(array, place, value):
    array = array.copy()
    array[place] = value
    return array


WRONG = {
    "a row short": ("mse", lambda x, y: (x, y[:-1]), ShapeError),
    "a column short": ("mse", lambda x, y: (x, y[:, :-1].copy()), ShapeError),
    "x a column short": ("mse", lambda x, y: (x[:, :-1].copy(), y), ShapeError),
    "x of one dimension": ("mse", lambda x, y: (x[0], y), ShapeError),
    "no row": ("mse", lambda x, y: (x[:0], y[:0]), ShapeError),
    "one dimension for three outputs": ("mse", lambda x, y: (x, y[:, 0].copy()), ShapeError),
    "None": ("mse", lambda x, y: (x, None), DTypeError),
    "NaN": ("mse", lambda x, y: (x, changed(y, (3, 1), np.nan)), ArgumentError),
    "infinity": ("mse", lambda x, y: (x, changed(y, (11, 2), -np.inf)), ArgumentError),
    "over 1": ("binary_cross_entropy", lambda x, y: (x, changed(y, (0, 0), 1.5)), ArgumentError),
    "under 0": ("binary_log_loss", lambda x, y: (x, changed(y, (11, 2), -1e-9)), ArgumentError),
    "probability NaN": ("binary_log_loss", lambda x, y: (x, changed(y, (5, 2), np.nan)), ArgumentError),
    "a label too large": ("cross_entropy", lambda x, y: (x, changed(y, 11, 3)), ArgumentError),
    "a negative label": ("log_loss", lambda x, y: (x, changed(y, 0, -1)), ArgumentError),
    "labels as floats": ("cross_entropy", lambda x, y: (x, y.astype(np.float32)), DTypeError),
    "a label short": ("cross_entropy", lambda x, y: (x, y[:-1]), ShapeError),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("widths", [NARROW, WIDE], ids=["narrow", "wide"])
def test_bad_input_is_refused_as_ever_and_nothing_written(case, widths):
    loss, spoil, error = WRONG[case]
    net = MLP((*widths[:-1], 3), loss=loss, optimizer="adam", backend="cpu")
    x, y = batch(net, 12)
    net.train_step(x, y)
    net.gradients(x, y)
    before = bits(net)
    for call in (net.train_step, net.gradients):
        with pytest.raises(error):
            call(*spoil(x, y))
    assert bits(net) == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy"])
def test_targets_are_judged_at_every_place_and_to_the_last_bit(dtype, loss, monkeypatch):
    net = MLP((2, 3, 1), loss=loss, dtype=dtype, backend="cpu")
    answers = calls_of(net, monkeypatch)
    if loss == "mse":
        bounds, beyond = (-np.finfo(dtype).max, np.finfo(dtype).max), (np.nan, -np.inf, np.inf)
    else:
        bounds, beyond = (0.0, 1.0), (np.nan, -np.finfo(dtype).tiny, 1.0 + np.finfo(dtype).eps)
    x, y = batch(net, 37)
    net.gradients(x, y)
    for place in range(len(y)):
        for allowed in bounds:
            net.gradients(x, changed(y, place, allowed))
        for outside in beyond:
            with pytest.raises(ArgumentError):
                net.gradients(x, changed(y, place, outside))
    assert answers == [1, 1, 0, 0, 0] * len(y)


def test_labels_are_judged_at_every_place(monkeypatch):
    net = MLP(NARROW, loss="cross_entropy", backend="cpu")
    answers = calls_of(net, monkeypatch)
    x, y = batch(net, 21)
    net.train_step(x, y)
    for place in range(len(y)):
        for outside in (-1, 3, -(2**63), 2**63 - 1):
            with pytest.raises(ArgumentError):
                net.train_step(x, changed(y, place, outside))
    assert answers == [0] * 4 * len(y)


@pytest.mark.parametrize("loss", ["mse", "binary_cross_entropy"])
def test_one_output_takes_targets_of_one_dimension(loss, monkeypatch):
    net, usual = twins((5, 8, 1), loss=loss)
    answers = calls_of(net, monkeypatch)
    x, y = batch(net, 12)
    for target in (y, y[:, 0].copy(), y):
        assert net.train_step(x, target) == usual.train_step(x, target)
    assert answers == [1, 1]


def test_probabilities_of_classes_are_judged(monkeypatch):
    net, usual = twins(NARROW, loss="cross_entropy")
    answers = calls_of(net, monkeypatch)
    x, labels = batch(net, 12)
    for target in (labels, np.eye(3, dtype=np.float32)[labels], labels):
        assert net.train_step(x, target) == usual.train_step(x, target)
    assert answers == [0, 1]
    with pytest.raises(ArgumentError):
        net.train_step(x, np.ones((12, 3), np.float32))


def test_a_batch_that_is_a_view_of_the_parameters_is_copied_first():
    nets = twins((8, 8, 8), optimizer="sgd", learning_rate=0.5)
    for net in nets:
        x, y = batch(net, 8)
        net.train_step(x, y)
        net.train_step(net.weights[0], y)
        net.train_step(x, net.weights[1])
    assert bits(nets[0]) == bits(nets[1])


TEAMWORK = (200, 300, 200), 64
"""Widths and rows of a step that is for several threads."""


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_work_for_the_team_is_shared(threads, monkeypatch):
    widths, rows = TEAMWORK
    net, usual = twins(widths)
    answers, crews = calls_of(net, monkeypatch), []
    monkeypatch.setattr(
        sys.modules[cpu.Workspace.__module__], "members", lambda: crews.append(team.members()) or crews[-1]
    )
    x, y = batch(net, rows)
    set_num_threads(threads)
    for _ in range(3):
        assert net.train_step(x, y) == usual.train_step(x, y)
        assert net.gradients(x, y)[0] == usual.gradients(x, y)[0]
    assert bits(net) == bits(usual)
    assert answers == [1] * 4
    assert {size for _, size in crews} == {threads}
    if threads > 1:
        runs = team._team._memory[phases.RUN * phases.LINE :]
        for call in (net.train_step, net.gradients):
            before = int(runs[0])
            call(x, y)
            assert runs[0] == before + 2, "a run of the team is opened and closed"


def test_a_few_rows_after_many_are_no_work_for_the_team():
    widths, rows = TEAMWORK
    net, usual = twins(widths)
    x, y = batch(net, rows)
    for count in (rows, 2, rows, 2):
        assert net.train_step(x[:count], y[:count]) == usual.train_step(x[:count], y[:count])
    assert bits(net) == bits(usual)


def test_steps_of_several_threads_share_the_team_or_do_without():
    widths, rows = TEAMWORK
    pairs = [twins(widths) for _ in range(4)]
    x, y = batch(pairs[0][0], rows)

    def train(net):
        for _ in range(40):
            net.train_step(x, y)

    with num_threads(2), ThreadPoolExecutor(4) as pool:
        list(pool.map(train, [net for net, _ in pairs]))
    train(pairs[0][1])
    for net, _ in pairs:
        assert bits(net) == bits(pairs[0][1])


@pytest.mark.parametrize("call", ["train_step", "gradients"])
def test_the_buffers_of_a_smaller_batch_are_given_back(call):
    net = MLP(NARROW, backend="cpu")
    for rows in (4, 400):
        getattr(net, call)(*batch(net, rows))
        kept = weakref.ref(net._training)
        assert kept() is not None
        getattr(net, call)(*batch(net, 2 * rows))
        gc.collect()
        assert kept() is None


def test_a_stepper_keeps_what_it_needs():
    net = MLP(NARROW, optimizer="adam", backend="cpu")
    x, y = batch(net, 6)
    net.train_step(x, y)
    step, workspace = net._direct_step
    parameters = weakref.ref(net._buffers.here[0])
    del net, workspace
    gc.collect()
    assert parameters() is not None
    assert np.isfinite(step(x, y, 0.1))
    assert type(step(x, y[:3], 0.1)) is int
    del step
    gc.collect()
    assert parameters() is None


@pytest.mark.parametrize("wrong", [np.empty(5, np.float32), np.empty((1, 500), np.float32), None, [0.0]])
def test_gradients_are_written_to_nothing_else(wrong):
    net = MLP(NARROW, backend="cpu")
    x, y = batch(net, 6)
    net.gradients(x, y)
    step = net._stepper(None)
    assert type(step(x, y, np.empty(net.structure.size, np.float32))) is float
    assert type(step(x, y, wrong)) is int
    assert type(step(x, y, read_only(np.empty(net.structure.size, np.float32)))) is int


def test_halved_operands_have_no_stepper():
    for options in ({"dtype": "bfloat16"}, {"precision": "high"}):
        net = MLP((64, 64), backend="cpu", **options)
        x, y = batch(net, 6)
        first, second = net.train_step(x, y), net.train_step(x, y)
        assert second < first
        workspace = cpu.Workspace(net.structure, 6, True)
        step = cpu.stepper(net.structure, None, net.parameters, None, np.zeros(3, np.int64), workspace)
        assert (step is None) == bool(workspace.parts)


def test_without_the_layout_of_arrays_the_usual_way_does_it():
    code = (
        "import sys\n"
        "sys._is_gil_enabled = lambda: False\n"
        "import numpy as np, fastmlp\n"
        "net = fastmlp.MLP((4, 3), backend='cpu')\n"
        "x, y = np.ones((3, 4), np.float32), np.ones((3, 3), np.float32)\n"
        "assert net.train_step(x, y) > net.train_step(x, y) > net.gradients(x, y)[0] == net.gradients(x, y)[0]\n"
        "assert net.updates == 2\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
