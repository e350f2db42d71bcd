"""warmup: after it no call and no later process compiles anything."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastmlp
from fastmlp import cli
from fastmlp.kernels import backend as backends

ROOT = Path(__file__).resolve().parents[1]

EVERYTHING = """
import sys
import numpy as np
import fastmlp
from fastmlp import kernels
from fastmlp.kernels.contract import ACTIVATIONS, LOSSES, OPTIMIZERS

rng = np.random.default_rng(0)
fastmlp.set_num_threads(2)
for loss in LOSSES:
    for optimizer in OPTIMIZERS:
        for widths in ((5, 7, 3), (190, 70, 3)):
            x, t = rng.random((40, widths[0]), np.float32), rng.random((40, 3), np.float32)
            t = rng.integers(0, 3, 40) if loss in ("cross_entropy", "log_loss") else t
            net = fastmlp.MLP(
                widths, activation="gelu", loss=loss, optimizer=optimizer, dtype=sys.argv[1], precision=sys.argv[2]
            )
            net.fit(x, t, epochs=2, batch_size=16, progress=False)
            net.train_step(x, t), net.gradients(x, t), net.loss(x, t), net.predict(x), net.predict(x[:1])
            x.flags.writeable = False
            net.predict(x)
for activation in ACTIVATIONS:
    for widths in ((5, 7, 3), (190, 70, 3)):
        x, t = rng.random((40, widths[0]), np.float32), rng.random((40, 3), np.float32)
        net = fastmlp.MLP(widths, activation=activation, dtype=sys.argv[1], precision=sys.argv[2])
        net.fit(x, t, epochs=1, progress=False), net.predict(x)
x, w, b = rng.random((300, 200), np.float32), rng.random((200, 300), np.float32), rng.random(300, np.float32)
kernels.matmul(x, w), kernels.matmul(x, x, transpose_a=True), kernels.matmul(x[:2], w)
kernels.matmul(x, w, dtype="bfloat16" if sys.argv[1] == "bfloat16" else None, precision=sys.argv[2])
y = kernels.bias_add(kernels.linear_forward(x, w, b, "tanh"), b)
kernels.mse(y, y), kernels.linear_backward_update(x, w, b, y, y, activation="tanh")
"""


def run(cache, *arguments):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "FASTMLP_CACHE_DIR": str(cache), "FASTMLP_HIGH": "split"}
    command = [sys.executable, "-W", "error", "-W", "ignore:dtype 'bfloat16':RuntimeWarning", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def entries(cache):
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("dtype", "precision"), [("float32", "highest"), ("float32", "high"), ("bfloat16", "highest")])
def test_after_the_command_nothing_is_left_to_compile(tmp_path, dtype, precision):
    done = run(tmp_path, "-m", "fastmlp", "warmup", "--dtype", dtype, "--precision", precision)
    assert done.returncode == 0, done.stderr
    assert f"kernels for {dtype}: ready after" in done.stdout
    assert f"kept in {tmp_path}" in done.stdout
    warm = entries(tmp_path)
    done = run(tmp_path, "-c", EVERYTHING, dtype, precision)
    assert done.returncode == 0, done.stderr
    assert entries(tmp_path) == warm


def test_a_network_compiles_the_routines_that_it_has_and_no_others(tmp_path):
    program = """
import numpy as np, fastmlp, sys
for activation, loss, optimizer in (("relu", "mse", "sgd"), ("tanh", "cross_entropy", "adam"))[: int(sys.argv[1])]:
    net = fastmlp.MLP((5, 7, 3), activation, loss=loss, optimizer=optimizer, backend="cpu")
    net.train_step(np.ones((4, 5)), np.eye(4, 3) + np.eye(4, 3, -3))
"""
    for networks, expected in ((1, set()), (2, {"activate_tanh", "back_tanh", "block_loss_2", "adam_block"})):
        done = run(tmp_path, "-c", program, str(networks))
        assert done.returncode == 0, done.stderr
        made_by = "activations", "losses", "across_losses", "optimizers"
        kept = [path.name.partition("-")[0].split(".")[-2:] for path in entries(tmp_path) if path.suffix != ".json"]
        assert {name for module, name in kept if module in made_by} == expected


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@pytest.mark.filterwarnings("ignore:dtype 'bfloat16' is emulated:RuntimeWarning")
def test_it_tells_what_it_compiles(dtype):
    told = []
    fastmlp.warmup(dtype, told.append)
    assert told[0] == "training"
    assert len(set(told)) == len(told) > 5


def test_another_dtype_is_refused():
    with pytest.raises(fastmlp.ArgumentError, match=r"dtype must be one of 'float32', .*; got 'float8'"):
        fastmlp.warmup("float8")
    with pytest.raises(fastmlp.BackendUnavailable, match="backend 'cpu' has no kernels for dtype 'float16'"):
        fastmlp.warmup("float16")


def test_the_command_refuses_another_dtype(capsys):
    assert cli.main(["warmup", "--dtype", "int8"]) == 2
    assert "--dtype must be one of 'float32', 'float64', 'bfloat16'; got 'int8'" in capsys.readouterr().err


def test_without_numba_there_is_nothing_to_warm_up(monkeypatch):
    monkeypatch.setattr(backends, "_attempt", lambda name: (None, "no Numba"))
    with pytest.raises(fastmlp.BackendUnavailable, match="no Numba"):
        fastmlp.warmup()
