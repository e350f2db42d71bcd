"""Whether the CUDA backend can run: every reason why not is told apart, and each names its cure."""

import ctypes
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import fastmlp
from fastmlp.kernels import backend, gpu, matmul


class Driver:
    """The driver's library, as far as `gpu` calls it."""

    def __init__(self, version=13000, status=0, devices=1):
        self.version, self.status, self.devices = version, status, devices

    def cuDriverGetVersion(self, version):
        version._obj.value = self.version
        return 0

    def cuInit(self, flags):
        return self.status

    def cuDeviceGetCount(self, count):
        count._obj.value = self.devices
        return 0


@pytest.fixture
def machine(monkeypatch):
    """Sets the packages and the driver that `gpu` finds; what it found before is forgotten, and so is this."""
    backend._attempt.cache_clear()
    monkeypatch.setattr("numba.config.ENABLE_CUDASIM", 0)
    monkeypatch.setattr(gpu, "_process", None)

    def set_up(driver, packages=("cupy", "numba_cuda"), cuda=13):
        monkeypatch.setattr(gpu, "find_spec", lambda name: SimpleNamespace() if name in packages else None)
        monkeypatch.setattr(gpu, "_needed_version", lambda: cuda)
        monkeypatch.setattr(gpu, "open_driver", lambda: driver if driver else ctypes.CDLL("no-such-library.so"))

    yield set_up
    backend._attempt.cache_clear()


@pytest.mark.parametrize(
    ("driver", "options", "reason", "cure"),
    [
        (Driver(), {"packages": ("numba_cuda",)}, "CuPy is not installed", r"pip install 'fastmlp\[cuda13\]'"),
        (Driver(), {"packages": ("cupy",)}, "numba-cuda is not installed", r"pip install 'fastmlp\[cuda13\]'"),
        (None, {}, "no NVIDIA driver", "needs NVIDIA's driver"),
        (Driver(12040), {}, "too old: it knows CUDA 12.4.*needs 13.0", r"install 'fastmlp\[cuda12\]' instead"),
        (Driver(11080), {"cuda": 12}, "too old: it knows CUDA 11.8.*needs 12.0", "update it"),
        (Driver(status=100), {}, "sees no device", "--gpus all"),
        (Driver(devices=0), {}, "sees no device", "CUDA_VISIBLE_DEVICES"),
        (Driver(status=3), {}, "forked child", "'spawn'"),
        (Driver(status=803), {}, "cuInit returned 803", "nvidia-smi"),
    ],
)
def test_every_reason_comes_with_its_cure(machine, driver, options, reason, cure):
    machine(driver, **options)
    message = rf"(?s)'cuda' cannot run here: .*{reason}.*{cure}.*backend='cpu'"
    for use in (
        backend.load,
        backend.resolve,
        lambda name: matmul(np.ones((1, 1)), np.ones((1, 1)), backend=name),
        lambda name: fastmlp.MLP((2, 3), backend=name),
    ):
        with pytest.raises(fastmlp.BackendUnavailable, match=message):
            use("cuda")
    assert backend.resolve("auto")[0] == "cpu"


def test_a_driver_that_fits_is_no_reason(machine):
    machine(Driver())
    assert gpu.why_not() is None
    assert gpu._process == os.getpid()


def test_a_forked_child_is_told_to_spawn(machine, monkeypatch):
    machine(Driver(status=100))
    assert "no device" in gpu.why_not()
    gpu.require_same_process()  # a driver that did not start can be forked
    monkeypatch.setattr(gpu, "_process", os.getpid() + 1)
    with pytest.raises(fastmlp.BackendUnavailable, match=r"forked child.*'spawn'"):
        backend.load("cuda")


def test_nothing_but_the_question_touches_the_driver():
    program = (
        "import ctypes, sys\n"
        "def refuse(name, *args, **kwargs):\n"
        "    assert 'cuda' not in str(name), name\n"
        "    return CDLL(name, *args, **kwargs)\n"
        "CDLL, ctypes.CDLL = ctypes.CDLL, refuse\n"
        "import fastmlp, fastmlp.kernels.backend\n"
        "import numpy as np\n"
        "net = fastmlp.MLP((3, 2))\n"
        "net.fit(np.ones((4, 3)), np.ones((4, 2)), epochs=1)\n"
        "assert not {'cupy', 'numba.cuda', 'fastmlp.kernels.cuda'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
