"""Choosing a backend: by name, lazily, never falling back from an explicit one; and what each module must offer."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastmlp
from fastmlp.kernels import backend, matmul, mse, reference


def test_unknown_names_are_named_with_the_nearest_known():
    for choose in (backend.load, backend.resolve):
        with pytest.raises(fastmlp.ArgumentError, match=r"got 'cup'\. Did you mean 'cpu'"):
            choose("cup")
    with pytest.raises(fastmlp.ArgumentError, match="'auto', 'numpy', 'cpu', 'cuda'"):
        matmul(np.ones((1, 1)), np.ones((1, 1)), backend="fast")
    with pytest.raises(fastmlp.ArgumentError, match="got None"):
        backend.load(None)


def test_numpy_is_always_there():
    assert backend.status()["numpy"] is None
    assert backend.load("numpy") is reference
    assert backend.resolve("numpy") == ("numpy", reference)


def test_cpu_is_there_and_auto_chooses_it():
    assert backend.status()["cpu"] is None
    assert backend.resolve("auto") == ("cpu", backend.load("cpu"))


def test_without_numba_auto_is_numpy_and_cpu_says_why():
    program = (
        "import sys; sys.modules['numba'] = None\n"
        "import fastmlp\n"
        "from fastmlp.kernels import backend\n"
        "assert backend.resolve('auto')[0] == 'numpy'\n"
        "assert 'numba' in backend.status()['cpu']\n"
        "try:\n"
        "    backend.load('cpu')\n"
        "except fastmlp.BackendUnavailable as error:\n"
        "    assert 'numba' in str(error) and 'pip install' in str(error)\n"
        "else:\n"
        "    raise AssertionError('loaded without Numba')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_names_and_parameters_are_those_of_the_reference(backend_name):
    module = backend.load(backend_name)
    for name in reference.__all__:
        expected = list(inspect.signature(getattr(reference, name)).parameters)
        assert list(inspect.signature(getattr(module, name)).parameters) == expected, name


def test_every_backend_offers_every_name_of_the_readmes_table():
    """The other tests' fixtures leave out an incomplete backend; here that shows."""
    readme = Path(backend.__file__).with_name("README.md").read_text()
    table = readme.partition("## What a backend module offers")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)\(", table, re.MULTILINE)
    assert len(names) >= 10
    ready = {name for name, reason in backend.status().items() if reason is None}
    assert ready >= {"numpy", "cpu"}
    for name in ready:
        assert [each for each in names if not callable(getattr(backend.load(name), each, None))] == [], name
        assert all(isinstance(getattr(backend.load(name), each), str) for each in ("BFLOAT16", "HIGH", "HIGHEST")), name
    assert set(reference.__all__) == set(names)


def test_choosing_numpy_imports_no_numba():
    program = (
        "import sys, numpy as np\n"
        "from fastmlp.kernels import matmul\n"
        "matmul(np.ones((2, 2)), np.ones((2, 2)), backend='numpy')\n"
        "assert 'numba' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_processs_floating_point_state_is_left_alone(backend_name):
    """Subnormals are still numbers after a call, and NumPy still warns of an overflow as it was told to."""
    a = np.full((40, 40), 1e30, np.float32)
    with np.errstate(over="raise"):
        assert np.isinf(matmul(a, a, backend=backend_name)).all()
        assert mse(a, -a, backend=backend_name) > 1e60
        with pytest.raises(FloatingPointError):
            a * a
    tiny = np.full(100, np.finfo(np.float32).smallest_subnormal)
    assert (tiny * np.float32(2) > tiny).all()
