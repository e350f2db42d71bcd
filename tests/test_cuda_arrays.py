"""GPU arrays at the public face, and networks whose parameters stay on the device, in Numba's simulator.

Stand-ins for the arrays of CuPy, PyTorch and others have their protocols over NumPy's memory, which is the simulated
device's too.
"""

import copy
import multiprocessing
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import test_cuda_simulator  # noqa: F401 - skips this file too, without the simulator
from layouts import LAYOUTS, WRITABLE_LAYOUTS
from rulings import assert_same_bits, small_integers

import fastmlp
from fastmlp.kernels import backend as backends
from fastmlp.kernels import bias_add, gpu, linear_backward_update, linear_forward, matmul, mse
from fastmlp.kernels.cuda import Mirror, launch, memory

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")


class Interface:
    """An array with `__cuda_array_interface__` and nothing more, as Numba's."""

    __module__ = "numba.cuda"

    def __init__(self, array, read_only=False):
        self.array = array
        host = array.__array_interface__
        place = host["data"][0], read_only
        self.__cuda_array_interface__ = {
            **{name: host[name] for name in ("shape", "typestr", "strides")}, "data": place, "version": 3
        }  # fmt: skip


class Tensor:
    """An array with DLPack alone, as PyTorch's, on any device; `from_dlpack` below is its library's."""

    def __init__(self, array, device=0):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return 2, self.device


def from_dlpack(array):
    return Tensor(np.from_dlpack(array.view(np.ndarray)), array.device.id)


def device_array(array, device=0):
    with memory.device(device):
        return memory.to_device(array)


KINDS = {"cupy": device_array, "interface": Interface, "dlpack": Tensor}


def content(array):
    """What any of them holds, as NumPy's array of the same memory."""
    return array.view(np.ndarray) if isinstance(array, np.ndarray) else array.array


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


@pytest.fixture
def travels(monkeypatch):
    """A list of the arrays that travel between the CPU's memory and the device."""
    made = []

    def noted(name):
        function = getattr(memory, name)

        def note(array, *rest):
            if name != "to_device" or not isinstance(array, memory.DeviceArray):
                made.append((name, array.shape))
            return function(array, *rest)

        return note

    mirror, module = sys.modules["fastmlp.kernels.cuda.mirror"], backends.load("cuda")
    for name in ("to_device", "to_host", "update"):
        function = noted(name)
        for each in (memory, mirror):
            monkeypatch.setattr(each, name, function)
        if name == "to_device":
            monkeypatch.setattr(module, "resident", function)
    return made


def layer(rng, n=5, k=4, m=3, dtype=np.float32):
    return [small_integers(rng, shape, dtype) for shape in ((n, k), (k, m), (m,), (n, m), (n, m))]


@pytest.mark.parametrize("backend", ["auto", "cuda"])
def test_every_operation_stays_on_the_device(kind, backend, rng, travels):
    x, w, b, y, dy = arrays = layer(rng)
    x_, w_, b_, y_, dy_ = on_gpu = [kind(array.copy()) for array in arrays]
    travels.clear()
    results = [
        matmul(x_, w_, backend=backend),
        bias_add(y_, b_, backend=backend),
        linear_forward(x_, w_, b_, "relu", backend=backend),
        linear_backward_update(x_, w_, b_, y_, dy_, activation="relu", learning_rate=0.5, backend=backend),
    ]
    assert mse(y_, dy_, backend=backend) == pytest.approx(float(((y - dy) ** 2).mean()))
    assert travels == []
    dz = np.where(y > 0, dy, 0)
    for result, expected in zip(results, [x @ w, y + b, np.maximum(x @ w + b, 0), dz @ w.T], strict=True):
        assert type(result) is (type(x_) if kind is not Interface else memory.DeviceArray)
        np.testing.assert_array_equal(content(result), expected)
    np.testing.assert_array_equal(content(on_gpu[1]), w - 0.5 * x.T @ dz)


def test_outputs_are_written_where_they_lie(kind, rng, travels):
    x, w, b, y, dy = layer(rng)
    out, z, gradient = (kind(np.full((5, 3), np.nan, np.float32)) for _ in range(3))
    x_, w_, b_, y_, dy_ = (kind(array) for array in (x, w, b, y, dy))
    travels.clear()
    assert matmul(x_, w_, out) is out
    np.testing.assert_array_equal(content(out), x @ w)
    assert linear_forward(x_, w_, b_, out=out, preactivation=z) is out
    np.testing.assert_array_equal(content(z), x @ w + b)
    mse(y_, dy_, gradient)
    np.testing.assert_allclose(content(gradient), 2 * (y - dy) / 15, rtol=1e-6)
    expected = y + b
    assert bias_add(y_, b_, y_) is y_
    np.testing.assert_array_equal(content(y_), expected)
    assert travels == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts_give_the_same_bits(layout, rng):
    if layout == "misaligned":
        with pytest.raises(fastmlp.ArgumentError, match="a is a GPU array that does not lie on a multiple"):
            matmul(Interface(LAYOUTS[layout](np.ones((2, 3)))), Interface(np.ones((3, 2))))
        return
    a, b = small_integers(rng, (5, 4), np.float32), small_integers(rng, (4, 3), np.float32)
    result = matmul(Interface(LAYOUTS[layout](a)), Interface(LAYOUTS[layout](b)))
    np.testing.assert_array_equal(content(result), a @ b)
    if layout in WRITABLE_LAYOUTS:
        out = WRITABLE_LAYOUTS[layout](np.zeros((5, 3), np.float32))
        matmul(Interface(a), Interface(b), Interface(out))
        np.testing.assert_array_equal(out, a @ b)


def test_what_cannot_be_used_is_refused_before_anything_is_written(kind):
    base = np.zeros((6, 6), np.float32)
    a, out = base[:3, :3], np.full((3, 3), 7, np.float32)
    for error, message, use in [
        (
            fastmlp.DTypeError,
            "a must be float32 or float64; got float16",
            lambda: matmul(kind(a.astype("f2")), kind(a)),
        ),
        (fastmlp.DTypeError, "b must have the dtype of a, float32", lambda: matmul(kind(a), kind(a.astype("f8")))),
        (fastmlp.ShapeError, "inner dimensions", lambda: matmul(kind(a), kind(base))),
        (fastmlp.ArgumentError, "b lies in the CPU's memory and a on GPU 0", lambda: matmul(kind(a), a)),
        (fastmlp.ArgumentError, r"b lies on GPU 0 and a in the CPU's memory.*b\.get\(\)", lambda: matmul(a, kind(a))),
        (fastmlp.ArgumentError, "out lies in the CPU's memory", lambda: matmul(kind(a), kind(a), out)),
        (fastmlp.ArgumentError, "out lies on GPU 0 and a in", lambda: matmul(a, a, kind(out))),
        (fastmlp.ArgumentError, "a is a GPU array.*backend 'cpu'", lambda: matmul(kind(a), kind(a), backend="cpu")),
        (fastmlp.ArgumentError, "Did you mean 'cpu'", lambda: matmul(kind(a), kind(a), backend="cup")),
        (
            fastmlp.ArgumentError,
            "out has elements that share memory",
            lambda: matmul(kind(a), kind(a), Interface(np.broadcast_to(out[:1], (3, 3)))),
        ),
        (fastmlp.ArgumentError, "read-only", lambda: matmul(kind(a), kind(a), Interface(out, read_only=True))),
    ]:
        with pytest.raises(error, match=message):
            use()
    assert (out == 7).all()


@pytest.mark.parametrize("make", [Interface, Tensor])
def test_overlap_is_seen_by_address(make):
    base = np.zeros((6, 6), np.float32)
    for out, clear in ((base[:3, :3], False), (base[3:, :3], True), (base[:3, 1:6:2], True)):
        inputs = make(base[:3, 0:6:2]), make(np.ones((3, 3), np.float32))
        if clear:
            matmul(*inputs, make(out))
        else:
            with pytest.raises(fastmlp.ArgumentError, match="out overlaps a in memory"):
                matmul(*inputs, make(out))


def test_work_runs_on_the_device_of_the_arrays(monkeypatch):
    a, devices = np.ones((2, 2), np.float32), []
    started = launch.launch

    def note(*args):
        devices.append(memory.device().id)
        started(*args)

    monkeypatch.setattr(sys.modules["fastmlp.kernels.cuda.product"], "launch", note)
    result = matmul(Tensor(a, 3), Tensor(a, 3))
    assert (result.device, devices, memory.device().id) == (3, [3], 0)
    with pytest.raises(fastmlp.ArgumentError, match="b lies on GPU 1 and a on GPU 3; all arrays of a call"):
        matmul(Tensor(a, 3), Tensor(a, 1))
    with pytest.raises(fastmlp.ArgumentError, match="out lies on GPU 1 and a on GPU 3"):
        matmul(Tensor(a, 3), Tensor(a, 3), Tensor(a.copy(), 1))


def test_an_array_that_cannot_be_taken_over_says_why():
    class NoGrad(Tensor):
        def __dlpack__(self, **options):
            raise BufferError("requires grad")

    with pytest.raises(fastmlp.DTypeError, match=r"a is a GPU array \(test_cuda_arrays.NoGrad\).*requires grad"):
        matmul(NoGrad(np.ones((2, 2))), np.ones((2, 2)))


def a_network(layers=(3, 4, 2), **options):
    settings = {"optimizer": "adam", "loss": "cross_entropy", "backend": "cuda", "seed": 3, **options}
    return fastmlp.MLP(layers, "tanh", **settings)


def samples(rng, n=5):
    return rng.normal(size=(n, 3)).astype(np.float32), rng.integers(0, 2, n)


def state(net):
    return net.parameters.tobytes(), net.optimizer_state.tobytes(), net.updates


def test_networks_take_gpu_arrays(kind, rng):
    x, labels = samples(rng)
    mine, theirs = a_network(), a_network()
    x_, labels_ = kind(x), kind(labels)
    assert mine.train_step(x_, labels_) == theirs.train_step(x, labels)
    options = {"epochs": 2, "batch_size": 2}
    got = mine.fit(x_, labels_, validation_data=(x_, labels_), **options)
    expected = theirs.fit(x, labels, validation_data=(x, labels), **options)
    assert (got.loss, got.validation_loss) == (expected.loss, expected.validation_loss)
    assert state(mine) == state(theirs)
    assert mine.loss(x_, labels_) == theirs.loss(x, labels)
    y, (loss, dw, db) = mine.predict(x_), mine.gradients(x_, labels_)
    y_host, (loss_host, dw_host, db_host) = theirs.predict(x), theirs.gradients(x, labels)
    assert loss == loss_host
    for a, b in zip([y, *dw, *db], [y_host, *dw_host, *db_host], strict=True):
        assert type(a) is (type(x_) if kind is not Interface else memory.DeviceArray)
        assert_same_bits(content(a), b)


@pytest.mark.parametrize(("loss", "outputs"), [("cross_entropy", 4), ("binary_cross_entropy", 2)])
def test_probabilities_of_gpu_arrays_are_of_their_kind(loss, outputs, kind, rng, travels):
    x, net = samples(rng)[0], a_network((3, 4, outputs), loss=loss)
    expected = net.predict_proba(x)
    x_ = kind(x)
    travels.clear()
    p = net.predict_proba(x_)
    assert travels == []
    assert type(p) is (type(x_) if kind is not Interface else memory.DeviceArray)
    assert_same_bits(content(p), expected)


def test_the_articles_accuracy_takes_gpu_arrays(kind, rng):
    x, labels = samples(rng, 40)
    y = np.eye(2)[labels]
    model = fastmlp.NeuralNetwork(3, 4, 2, backend="cuda")
    expected = np.mean(model.forward(x).argmax(axis=1) == labels)
    for arrays in [(kind(x), kind(y)), (kind(x), y), (x, kind(y)), (x, y)]:
        assert fastmlp.test(model, *arrays) == expected


def test_a_fit_on_gpu_arrays_moves_no_samples(kind, rng, travels):
    x, labels = samples(rng)
    net, x, labels = a_network(), kind(x), kind(labels)
    net.fit(x, labels, epochs=1, batch_size=2, shuffle=False)
    travels.clear()
    net.fit(x, labels, epochs=1, batch_size=2, shuffle=False)
    net.train_step(x, labels)
    assert travels == [("to_host", (3,)), ("to_host", (1,))], "losses alone"
    net.predict(x)
    net.loss(x, labels)
    assert travels[2:] == []


def test_samples_are_converted_and_judged_on_the_device(kind, rng):
    x = samples(rng)[0]
    net, t = a_network(loss="mse"), rng.normal(size=(5, 2))
    as_floats = kind(x.astype(np.float64)), kind(t)
    assert net.loss(*as_floats) == a_network(loss="mse").loss(x, t)
    before = state(net)
    t[3, 1] = np.nan
    wide = x.astype(np.float64)
    wide[2, 1] = 1e300
    whole = np.zeros((5, 3), np.int64)
    whole[4, 0] = 2**24 + 1
    for error, message, arrays in [
        (fastmlp.ArgumentError, r"y must be finite; the element at \[3, 1\] is nan", (kind(x), kind(t))),
        (fastmlp.DTypeError, r"x\[2, 1\] is 1e\+300", (kind(wide), kind(t))),
        (fastmlp.DTypeError, r"x\[4, 0\] is 16777217", (kind(whole), kind(t))),
        (fastmlp.ShapeError, r"x must have shape \(n, 3\)", (kind(x[:, :2].copy()), kind(t))),
        (fastmlp.DTypeError, "complex128", (kind(x.astype(complex)), kind(t))),
    ]:
        with pytest.raises(error, match=message):
            net.train_step(*arrays)
    with pytest.raises(fastmlp.ArgumentError, match=r"labels from 0 to 1; the label at \[0\] is 2"):
        a_network().train_step(kind(x), kind(np.full(5, 2)))
    assert state(net) == before


def test_a_network_tells_where_it_computes(rng):
    x, labels = samples(rng)
    with pytest.raises(fastmlp.ArgumentError, match=r"x is a GPU array.*net\.to\('cuda'\)"):
        a_network(backend="cpu").predict(Tensor(x))
    net = a_network()
    with pytest.raises(fastmlp.ArgumentError, match="x lies on GPU 1 and the network computes on GPU 0"):
        net.predict(Tensor(x, 1))
    with memory.device(1):
        net.to("cuda")
    assert net.predict(Tensor(x, 1)).device == 1
    net.train_step(x, labels)
    assert memory.device().id == 0


def test_parameters_stay_on_the_device(rng, travels):
    x, labels = samples(rng)
    net = a_network()
    net.train_step(x, labels)
    size = net.structure.size
    travels.clear()
    for _ in range(3):
        net.train_step(x, labels)
        net.predict(x)
        net.gradients(x, labels)
    moved = [shape for _, shape in travels]
    assert (2, size) not in moved
    assert [entry for entry in travels if entry[1] == (size,)] == [("to_device", (size,)), ("to_host", (size,))] * 3
    travels.clear()
    net.weights[0].sum()
    net.train_step(x, labels)
    moved = [entry for entry in travels if size in entry[1]]
    assert moved == [(name, shape) for name in ("to_host", "update") for shape in ((size,), (2, size))]


def test_a_view_that_is_held_is_live(rng):
    x, labels = samples(rng)
    net, other = a_network(), a_network()
    view, bias = net.weights[0], memoryview(net.biases[1])
    for _ in range(2):
        net.train_step(x, labels)
        other.train_step(x, labels)
        assert_same_bits(view, other.weights[0])
        assert_same_bits(np.asarray(bias), other.biases[1])
    view[1, 2] = bias[0] = 0.5
    other.weights[0][1, 2] = other.biases[1][0] = 0.5
    for each in (net, other):
        each.train_step(x, labels)
    assert_same_bits(view, other.weights[0])
    assert state(net) == state(other)


@pytest.mark.parametrize("asks", ["parameters", "operands", "both"])
@pytest.mark.parametrize("held", [False, True])
def test_a_call_that_trains_keeps_what_it_wrote_whoever_asks_meanwhile(asks, held):
    arrays = [np.zeros((2, 4))[1:], np.zeros((2, 4))[1:]]
    mirror = Mirror(*arrays)
    view = arrays[0].view() if held else None
    copies = mirror.operands(writes=True)
    if asks in ("parameters", "both"):
        mirror.bring_home()
    for there in copies:
        there[...] = 7
    if asks in ("operands", "both"):
        mirror.operands()
        mirror.bring_home()
    mirror.written()
    assert all((content(there) == 7).all() for there in mirror.operands())
    mirror.bring_home()
    assert all((array == 7).all() for array in arrays)
    assert view is None or (view == 7).all()


def test_threads_that_look_and_predict_change_nothing_of_a_fit(rng, monkeypatch):
    lock, submit = threading.Lock(), launch.submit

    def one_by_one(start):  # as the simulator wants it
        with lock:
            submit(start)

    monkeypatch.setattr(launch, "submit", one_by_one)
    monkeypatch.setenv("FASTMLP_CUDA_GRAPHS", "off")
    x, labels = samples(rng, 40)
    nets = [a_network(), a_network()]
    nets[0].fit(x, labels, epochs=6, batch_size=8, shuffle=False)
    over = threading.Event()

    def look():
        while not over.is_set():
            nets[1].predict(x[:2])
            assert np.isfinite(nets[1].weights[0]).all()

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        nets[1].fit(x, labels, epochs=6, batch_size=8, shuffle=False)
        over.set()
        looking.result()
    assert state(nets[0]) == state(nets[1])


def test_predictions_of_a_thread_on_two_streams_come_one_after_the_other(rng):
    net, x = a_network(), device_array(samples(rng)[0])
    first, second = memory.cupy.cuda.Stream(), memory.cupy.cuda.Stream()
    for stream in (first, first, second, first):
        with stream:
            net.predict(x)
    assert (first.waited, second.waited) == ([second], [first])


def test_what_is_written_between_two_calls_counts(rng):
    x, labels = samples(rng)
    nets = [a_network(backend=name, dtype="float64") for name in ("cuda", "numpy")]
    for net in nets:
        net.train_step(x, labels)
        net.weights[0] = np.full((3, 4), 0.25)
        net.optimizer_state[...] = 0
        net.train_step(x, labels)
        net.parameters[...] *= 2
    np.testing.assert_allclose(nets[0].predict(x), nets[1].predict(x), rtol=1e-9)


def test_moving_saving_and_copying_keep_every_bit(rng, tmp_path):
    x, labels = samples(rng)
    net, other = a_network(), a_network()
    for each in (net, other):
        each.train_step(x, labels)
    held = other.parameters
    before = state(net)
    net.save(tmp_path / "net")
    twin = copy.deepcopy(net)
    for moved in (fastmlp.MLP.load(tmp_path / "net", "cuda"), fastmlp.MLP.load(tmp_path / "net", "cpu"), twin):
        assert state(moved) == before
    assert state(net.to("cpu")) == before
    assert state(net.to("cuda")) == before
    for each in (net, other, twin):
        each.train_step(x, labels)
    assert state(net) == state(other) == state(twin)
    assert held.tobytes() == state(net)[0]


def test_early_stopping_puts_the_best_epoch_back(rng):
    x, labels = samples(rng)
    kept = []
    net = a_network(learning_rate=5.0)
    stopping = fastmlp.callbacks.EarlyStopping(patience=2, monitor="loss")
    net.fit(x, labels, 6, 2, callbacks=[lambda epoch: kept.append(net.parameters.tobytes()), stopping])
    assert net.parameters.tobytes() == kept[stopping.best_epoch]


class Memory:
    """The device's, full at the allocation of that number."""

    def __init__(self, monkeypatch, full_at=None):
        self.full_at, self.asked = full_at, 0
        monkeypatch.setattr(memory.cupy, "empty", self.empty)
        monkeypatch.setattr(memory.cupy, "array", self.array)

    def empty(self, shape, dtype):
        self.asked += 1
        if self.asked - 1 == self.full_at:
            raise MemoryError("Out of memory allocating 8,589,934,592 bytes (allocated so far: 0 bytes).")
        return np.empty(shape, dtype).view(memory.DeviceArray)

    def array(self, source, order):
        copied = self.empty(source.shape, source.dtype)
        copied[...] = source
        return copied


@pytest.mark.parametrize("held", [False, True])
def test_a_full_memory_leaves_the_last_whole_step(held, rng, monkeypatch):
    """Wherever in a fit it happens, the network is as after the steps that it counts, and can be trained on."""
    x, labels = samples(rng, 4)
    same = a_network()
    after = []
    for _ in range(2):
        same.fit(x, labels, epochs=1, batch_size=2)
        after.append(state(same))

    def trained():
        net = a_network()
        net.fit(x, labels, epochs=1, batch_size=2)
        return net.to("cuda")

    net = trained()
    with monkeypatch.context() as patch:
        room = Memory(patch)
        net.fit(x, labels, epochs=1, batch_size=2)
    assert room.asked > 10
    for place in range(room.asked):
        net = trained()
        view = net.parameters if held else None
        message = r"GPU 0 has 8\.0 of 16\.0 GiB free.*8,589,934,592 bytes.*smaller batch_size"
        with monkeypatch.context() as patch:
            Memory(patch, place)
            with pytest.raises(fastmlp.DeviceMemoryError, match=message) as caught:
                net.fit(x, labels, epochs=1, batch_size=2)
        assert isinstance(caught.value, MemoryError)
        assert state(net) == after[0]
        assert view is None or view.tobytes() == after[0][0]
        net.fit(x, labels, epochs=1, batch_size=2)
        assert state(net) == after[1]


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("launches", [1, 9, 12, 16, 26, 29])
def test_a_kernel_that_does_not_fit_leaves_the_last_whole_step(held, launches, rng, monkeypatch):
    """It is loaded at its first launch, which may be in the middle of a step and of a call.

    Of the fourteen launches of a step the last three, from 12 on, update the layers by one kernel: 13 finds it loaded.
    """
    monkeypatch.setenv("FASTMLP_CUDA_GRAPHS", "off")
    x, labels = samples(rng, 6)
    net, started, count = a_network((3, 4, 4, 2)), launch.launch, 0
    view = net.parameters if held else None

    def failing(*args):
        nonlocal count
        count += 1
        if count == launches:
            try:
                raise RuntimeError("[2] Call to cuModuleLoadDataEx results in CUDA_ERROR_OUT_OF_MEMORY")
            except RuntimeError as error:
                memory.explain(error)
        started(*args)

    with monkeypatch.context() as patch:
        for name in ("product", "reduction", "batches", "linear_backward_update", "steps"):
            patch.setattr(sys.modules[f"fastmlp.kernels.cuda.{name}"], "launch", failing)
        with pytest.raises(fastmlp.DeviceMemoryError, match="CUDA_ERROR_OUT_OF_MEMORY"):
            net.fit(x, labels, epochs=2, batch_size=2)
    assert 0 <= net.updates < 4
    same = a_network((3, 4, 4, 2))
    order = np.array(same._shuffled(6, 2))
    for step in range(net.updates):
        rows = order[2 * step : 2 * step + 2]
        same.train_step(x[rows], labels[rows])
    assert state(net) == state(same)
    assert view is None or view.tobytes() == state(net)[0]
    assert net.epochs == net.updates // 3


def test_an_error_that_is_no_full_memory_passes_as_it_is():
    memory.explain(RuntimeError("[700] Call to cuLaunchKernel results in CUDA_ERROR_ILLEGAL_ADDRESS"))


def test_a_forked_child_is_told_to_spawn(rng, monkeypatch):
    """Even where the network's parameters were last written on the parent's device."""
    monkeypatch.setattr(gpu, "_process", os.getpid())
    x, labels = samples(rng)
    net = a_network()
    net.train_step(x, labels)
    uses = {
        "predict": lambda: net.predict(x),
        "train_step": lambda: net.train_step(x, labels),
        "loss": lambda: net.loss(x, labels),
        "fit": lambda: net.fit(x, labels, epochs=1),
        "weights": lambda: net.weights,
        "save": lambda: net.save("nowhere"),
        "to": lambda: net.to("cpu"),
        "matmul": lambda: matmul(x, x.T, backend="cuda"),
        "load": lambda: backends.load("cuda"),
    }

    def child(pipe):
        signal.alarm(60)
        answers = {}
        for name, use in uses.items():
            try:
                use()
                answers[name] = "no error"
            except fastmlp.BackendUnavailable as error:
                answers[name] = str(error)
        pipe.send(answers)

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=child, args=(theirs,))
    process.start()
    answers = ours.recv()
    process.join()
    assert answers.keys() == uses.keys()
    for name, answer in answers.items():
        assert "forked child" in answer, name
        assert "'spawn'" in answer, name
