"""Compiled functions that Python calls directly: they read arrays right, leave the desk its work, change no bit."""

import gc
import os
import subprocess
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from layouts import Subclass, misaligned, read_only
from networks import fill, network

import fastmlp
from fastmlp import kernels, set_num_threads
from fastmlp.errors import ArgumentError
from fastmlp.kernels import cpu
from fastmlp.kernels.contract import ACTIVATIONS, DONE, JUDGED, REFUSED
from fastmlp.kernels.cpu import direct, team
from fastmlp.kernels.network import aligned_zeros

matmul_module = sys.modules["fastmlp.kernels.cpu.matmul"]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def entries():
    """Both dtypes' entries, which direct functions do not compile themselves."""
    assert direct.reads_arrays()
    for dtype in (np.float32, np.float64):
        a = np.ones((2, 2), dtype)
        cpu.matmul(a, a, np.empty_like(a))
        cpu.linear_forward(a, a, a[0], np.empty_like(a), None, "relu")
        cpu.bias_add(a, a[0], np.empty_like(a))


@pytest.fixture(autouse=True)
def default_threads():
    yield
    set_num_threads(None)


def operands(n, k, m, dtype, transpose_a=False, transpose_b=False):
    rng = np.random.default_rng(n + k + m)
    shapes = (k, n) if transpose_a else (n, k), (m, k) if transpose_b else (k, m)
    return [rng.normal(size=shape).astype(dtype) for shape in shapes] + [np.full((n, m), 7, dtype)]


@pytest.mark.parametrize(
    "array",
    [np.zeros(()), np.zeros((0, 3)), np.arange(12.0).reshape(3, 4)[::-1, ::2], np.arange(3, dtype=np.int64)],
    ids=["no dimension", "no element", "strided", "integers"],
)
def test_an_address_is_the_one_that_numpy_tells(array):
    assert direct.address(array) == array.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("transpose_a", [False, True])
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (64, 64, 64), (3, 500, 2), (2, 3, 0), (0, 3, 2), (2, 0, 3)])
def test_a_small_product_has_the_bits_of_the_usual_way(dtype, transpose_a, transpose_b, shape):
    a, b, out = operands(*shape, dtype, transpose_a, transpose_b)
    expected = out.copy()
    cpu.matmul(a, b, expected, transpose_a, transpose_b)
    assert cpu.direct_operation("matmul")(a, b, out, transpose_a, transpose_b) == DONE
    assert out.tobytes() == expected.tobytes()


def test_a_product_for_the_team_is_judged_and_left_to_it():
    a, b, out = operands(128, 128, 128, np.float32)
    assert team.PARALLEL_FLOPS <= 2 * 128**3
    assert cpu.direct_operation("matmul")(a, b, out, False, False) == JUDGED
    assert (out == 7).all()
    assert kernels.matmul(a, b, out, backend="cpu") is out
    expected = np.empty_like(out)
    cpu.matmul(a, b, expected)
    assert out.tobytes() == expected.tobytes()


def test_a_transposed_product_waits_for_no_room():
    a, b, out = operands(9, 8, 7, np.float32, transpose_b=True)
    function, table = matmul_module.directly.function, matmul_module.directly.table
    table[matmul_module.IS_ROOM_TAKEN] = 1
    assert function(a, b, out, False, True) == JUDGED
    table[matmul_module.IS_ROOM_TAKEN] = 0
    assert function(a, b, out, False, True) == DONE
    assert table[matmul_module.IS_ROOM_TAKEN] == 0
    long = operands(2, matmul_module.ROOM_BYTES, 2, np.float32, transpose_b=True)
    assert function(*long, False, True) == JUDGED


A, B, OUT = operands(4, 4, 4, np.float32)
WRONG = {
    "a list": (A.tolist(), B, OUT),
    "None": (A, B, None),
    "a subclass": (A.view(Subclass), B, OUT),
    "another dtype": (A.astype(np.int32), B.astype(np.int32), OUT.astype(np.int32)),
    "two dtypes": (A, B.astype(np.float64), OUT),
    "out of another dtype": (A, B, OUT.astype(np.float64)),
    "the other byte order": (A.astype(">f4"), B, OUT),
    "one dimension": (A[0], B, OUT),
    "three dimensions": (A[None], B, OUT),
    "columns first": (np.asfortranarray(A), B, OUT),
    "strided": (np.ones((8, 8), np.float32)[::2, ::2], B, OUT),
    "misaligned": (A, misaligned(B), OUT),
    "read-only out": (A, B, read_only(OUT.copy())),
    "inner dimensions": (A[:, :3].copy(), B, OUT),
    "rows of out": (A, B, OUT[:3]),
    "columns of out": (A, B, np.ones((4, 5), np.float32)),
    "out is a": (A, B, A),
    "out is b": (A, B, B),
    "out overlaps a": (*np.ones((2, 4, 4), np.float32), np.ones(0)),
}
_shared = np.ones((6, 4), np.float32)
WRONG["out overlaps a"] = _shared[:4], B, _shared[2:]


@pytest.mark.parametrize("case", WRONG)
def test_what_the_desk_must_judge_is_refused_and_nothing_written(case):
    a, b, out = WRONG[case]
    before = None if out is None else out.tobytes()
    assert cpu.direct_operation("matmul")(a, b, out, False, False) == REFUSED
    assert out is None or out.tobytes() == before


@pytest.mark.parametrize("flags", [(1, False), (False, 0), (None, False), (np.True_, False)])
def test_flags_that_are_no_booleans_are_refused(flags):
    assert cpu.direct_operation("matmul")(A, B, OUT, *flags) == REFUSED
    expected = np.empty_like(OUT)
    cpu.matmul(A, B, expected, bool(flags[0]), bool(flags[1]))
    out = kernels.matmul(A, B, transpose_a=flags[0], transpose_b=flags[1], backend="cpu")
    assert out.tobytes() == expected.tobytes()


def layer(n, k, m, dtype=np.float32):
    """(x, w, b, out) of a layer."""
    rng = np.random.default_rng(n + k + m)
    return [rng.normal(size=shape).astype(dtype) for shape in ((n, k), (k, m), m)] + [np.full((n, m), 7, dtype)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (64, 64, 64), (2, 3, 0), (0, 3, 2), (2, 0, 3)])
def test_a_small_layer_has_the_bits_of_the_usual_way(dtype, activation, shape):
    x, w, b, out = layer(*shape, dtype)
    expected = out.copy()
    cpu.linear_forward(x, w, b, expected, None, activation)
    assert cpu.direct_operation("linear_forward")(x, w, b, out, ACTIVATIONS[activation].code) == DONE
    assert out.tobytes() == expected.tobytes()
    assert kernels.linear_forward(x, w, b, activation, backend="cpu").tobytes() == expected.tobytes()


def test_a_layer_for_the_team_is_judged_and_left_to_it():
    x, w, b, out = layer(128, 128, 128)
    cpu.linear_forward(x, w, b, out.copy(), None, "relu")
    assert cpu.direct_operation("linear_forward")(x, w, b, out, 0) == JUDGED
    assert (out == 7).all()
    assert kernels.linear_forward(x, w, b, out=out, backend="cpu") is out


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (600, 700), (3, 0), (0, 3)])
def test_adding_a_bias_has_the_bits_of_the_usual_way(dtype, shape):
    x, _, b, out = layer(shape[0], shape[1], shape[1], dtype)
    expected = out.copy()
    cpu.bias_add(x, b, expected)
    function = cpu.direct_operation("bias_add")
    assert function(x, b, out) == DONE
    assert out.tobytes() == expected.tobytes()
    assert kernels.bias_add(x, b, backend="cpu").tobytes() == expected.tobytes()
    assert function(x, b, x) == DONE
    assert x.tobytes() == expected.tobytes()


X, W, BIAS, Y = layer(4, 4, 4)
_six = np.ones((6, 4), np.float32)
WRONG_LAYERS = {
    "a list": (X.tolist(), W, BIAS, Y),
    "None": (X, W, None, Y),
    "no out": (X, W, BIAS, None),
    "a subclass": (X, W.view(Subclass), BIAS, Y),
    "integers": tuple(array.astype(np.int32) for array in (X, W, BIAS, Y)),
    "two dtypes": (X, W, BIAS.astype(np.float64), Y),
    "out of another dtype": (X, W, BIAS, Y.astype(np.float64)),
    "one dimension": (X[0], W, BIAS, Y),
    "a bias of two dimensions": (X, W, BIAS[None], Y),
    "columns first": (np.asfortranarray(X), W, BIAS, Y),
    "strided": (X, W, np.ones(8, np.float32)[::2], Y),
    "misaligned": (X, W, misaligned(BIAS), Y),
    "read-only out": (X, W, BIAS, read_only(Y.copy())),
    "a bias too long": (X, W, np.ones(5, np.float32), Y),
    "rows of out": (X, W, BIAS, Y[:3]),
    "columns of out": (X, W, BIAS, np.ones((4, 5), np.float32)),
    "the bias in out": (X, W, Y[1], Y),
    "out overlaps x": (_six[:4], W, BIAS, _six[2:]),
}


@pytest.mark.parametrize("case", WRONG_LAYERS)
def test_a_layer_that_the_desk_must_judge_is_refused_and_nothing_written(case):
    x, w, b, out = WRONG_LAYERS[case]
    before = None if out is None else out.tobytes()
    layers = [(x, w, b, out), (w, x, b, out)]
    assert [cpu.direct_operation("linear_forward")(*each, 0) for each in layers] == [REFUSED] * 2
    x = w if type(w) is not np.ndarray else x
    assert cpu.direct_operation("bias_add")(x, b, out) == REFUSED
    assert out is None or out.tobytes() == before


@pytest.mark.parametrize(
    "given", [(X[:, :3].copy(), W, BIAS, Y), (X, W[:3], BIAS, Y), (Y, W, BIAS, Y), (X, Y, BIAS, Y)]
)
def test_a_layer_whose_shapes_or_memory_do_not_go_together_is_refused(given):
    before = given[3].tobytes()
    assert cpu.direct_operation("linear_forward")(*given, 0) == REFUSED
    assert given[3].tobytes() == before


@pytest.mark.parametrize("activation", ["rectify", None, 3, ["relu"]])
def test_an_unknown_activation_is_refused_by_name(activation):
    with pytest.raises(ArgumentError, match="activation"):
        kernels.linear_forward(X, W, BIAS, activation, backend="cpu")


def test_a_result_that_nothing_fits_is_not_allocated():
    """The product of these would take 4 TB, were their inner dimensions not apart."""
    a, b = np.zeros((10**6, 1), np.float32), np.zeros((2, 10**6), np.float32)
    with pytest.raises(fastmlp.ShapeError, match="inner dimensions"):
        kernels.matmul(a, b, backend="cpu")


def test_many_threads_at_once_get_what_each_alone_would():
    """Transposed products among them, which have one room between them."""
    calls = [(n, transpose_b) for n in (3, 20, 64, 90) for transpose_b in (False, True)]
    given = [operands(n, n, n, np.float32)[:2] for n, _ in calls]
    expected = [kernels.matmul(a, b, transpose_b=t) for (a, b), (_, t) in zip(given, calls, strict=True)]

    def caller(first):
        wrong = 0
        for call in range(first, first + 1000):
            place = call % len(calls)
            out = kernels.matmul(*given[place], transpose_b=calls[place][1])
            wrong += out.tobytes() != expected[place].tobytes()
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(caller, range(8))) == [0] * 8


def predictor(dtype=np.float32, widths=(5, 8, 3), rows=64):
    net = network(widths, ("tanh", "identity"), "mse", dtype)
    parameters = fill(net, aligned_zeros(net.size, net.dtype), np.random.default_rng(0))
    workspace = cpu.Workspace(net, rows, False)
    return net, parameters, workspace, cpu.predictor(net, parameters, workspace)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [1, 2, 13, 64])
def test_a_direct_prediction_has_the_bits_of_the_usual_way(dtype, rows):
    net, parameters, workspace, (function, most_rows, shared) = predictor(dtype)
    assert most_rows == (team.PARALLEL_FLOPS - 1) // workspace.row_flops
    x = np.random.default_rng(rows).normal(size=(rows, 5)).astype(dtype)
    expected, out = np.empty((rows, 3), dtype), np.empty((rows, 3), dtype)
    for way in (function, shared):
        parameters *= 2
        cpu.forward(net, parameters, x, expected, workspace)
        assert way(x, out)
        assert out.tobytes() == expected.tobytes()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 7, 64, 150])
def test_a_shared_direct_prediction_has_the_bits_of_the_usual_way(threads, rows):
    net, parameters, workspace, _ = predictor(widths=(500, 400, 300))
    assert workspace.is_large
    x = np.random.default_rng(rows).normal(size=(rows, 500)).astype(np.float32)
    expected, out = np.empty((2, rows, 300), np.float32)
    cpu.forward(net, parameters, x, expected, workspace)
    set_num_threads(threads)
    workspace = cpu.Workspace(net, 64, False)
    _, most_rows, shared = cpu.predictor(net, parameters, workspace)
    assert most_rows == 0
    for _ in range(20):
        out[:] = 0
        assert shared(x, out)
        assert out.tobytes() == expected.tobytes()
    assert not shared(x[:, :400], out)


def test_a_prediction_is_shared_by_no_more_than_the_workspace_has_room_for(monkeypatch):
    asked = []
    stand_in = SimpleNamespace(bound=lambda *own, keeps: (lambda x, out, team, size: asked.append(size) or 1, None))
    monkeypatch.setattr(sys.modules["fastmlp.kernels.cpu.forward"], "_forward_directly", stand_in)
    set_num_threads(2)
    _, _, _, (_, _, shared) = predictor(widths=(500, 400, 300))
    for threads in (1, 2, 3):
        set_num_threads(threads)
        shared(None, None)
    assert asked == [1, 2, 2]


def test_what_cannot_be_predicted_directly_is_refused():
    _, _, _, (function, _, _) = predictor()
    x, out = np.ones((4, 5), np.float32), np.full((4, 3), 7, np.float32)
    wide = np.ones((4, 6), np.float32)
    for wrong in (x.tolist(), x.astype(np.float64), x[:, ::-1], x[:3], wide, x[0], x.view(Subclass), misaligned(x)):
        assert not function(wrong, out)
    assert not function(x[:0], out[:0])
    assert not function(x, read_only(out.copy()))
    assert not function(x, np.empty((4, 2), np.float32))
    assert (out == 7).all()


def test_a_predictor_keeps_what_it_needs():
    net, parameters, workspace, (function, _, shared) = predictor()
    x, expected, out = np.ones((4, 5), np.float32), np.empty((4, 3), np.float32), np.empty((4, 3), np.float32)
    cpu.forward(net, parameters, x, expected, workspace)
    kept = weakref.ref(workspace), weakref.ref(parameters)
    del net, parameters, workspace
    gc.collect()
    assert all(each() is not None for each in kept)
    assert function(x, out)
    assert out.tobytes() == expected.tobytes()
    del function, shared
    gc.collect()
    assert all(each() is None for each in kept)


@pytest.mark.parametrize("rows", [0, 1, 100, 5000])
def test_a_network_predicts_the_same_directly_and_not(rows):
    net = fastmlp.MLP((20, 30, 4), backend="cpu")
    x = np.random.default_rng(0).normal(size=(rows, 20)).astype(np.float32)
    assert net.predict(x).tobytes() == net.predict(np.asfortranarray(x)).tobytes()
    net.weights[0][...] *= 2
    assert net.predict(x).tobytes() == net.predict(x.astype(np.float64)).tobytes()


def test_without_the_layout_of_arrays_the_usual_way_does_it(tmp_path):
    code = (
        "import sys\n"
        "sys._is_gil_enabled = lambda: False\n"
        "import numpy as np, fastmlp\n"
        "from fastmlp.kernels import matmul\n"
        "from fastmlp.kernels.cpu import direct, direct_operation\n"
        "assert not direct.reads_arrays() and direct_operation('matmul') is None\n"
        "a = np.arange(12, dtype=np.float32).reshape(3, 4)\n"
        "assert (matmul(a, a, transpose_b=True, backend='cpu') == a @ a.T).all()\n"
        "net = fastmlp.MLP((4, 3), backend='cpu')\n"
        "assert net.predict(a).tobytes() == net.predict(np.asfortranarray(a)).tobytes()\n"
        "assert np.isfinite(net.train_step(a, np.ones((3, 3))))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def asked(monkeypatch):
    """How often the number of threads was worked out, with a team that is still to be made."""
    calls = []
    count = team.get_num_threads
    monkeypatch.setattr(team, "get_num_threads", lambda: calls.append(1) or count())
    for name in "_crew", "_team":
        monkeypatch.setattr(team, name, None)
    yield calls
    team._team.end()


@pytest.mark.skipif(team.FUTEX is None, reason="members are looked for at each call")
def test_members_are_remembered_until_something_changes(asked, monkeypatch):
    place = iter([1, 1, 1, 1, 2, 2, 2])
    monkeypatch.setattr(team, "_place", lambda: lambda: next(place))
    set_num_threads(3)
    first = team.members()
    assert first[1] == 3
    assert team.members() == first
    assert len(asked) == 1
    set_num_threads(2)
    assert team.members() == (first[0], 2)
    assert team.members() == (first[0], 2)
    assert len(asked) == 2
    assert team.members() == (first[0], 2)  # at another place
    assert len(asked) == 3
    set_num_threads(5)
    larger = team.members()
    assert larger[1] == 5
    assert larger[0] != first[0]
    set_num_threads(3)
    assert team.members() == (larger[0], 3)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity on this platform")
def test_a_place_is_a_core_and_the_right_to_others():
    place = team._numbered_place.bound(*[0] * 18)[0]
    allowed = os.sched_getaffinity(0)
    one = {min(allowed)}
    try:
        os.sched_setaffinity(0, one)
        first = place()
        assert place() == first
        os.sched_setaffinity(0, allowed)
        if len(allowed) > 1:
            assert place() != first
    finally:
        os.sched_setaffinity(0, allowed)
