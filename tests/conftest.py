"""Fixtures for every test: the backends that can run here, the dtypes, and outputs with canary margins."""

import layouts
import numpy as np
import pytest

from fastmlp.kernels import backend as backends
from fastmlp.kernels import reference

AVAILABLE = [
    name
    for name, reason in backends.status().items()
    if reason is None and all(hasattr(backends.load(name), each) for each in reference.__all__)
]


@pytest.fixture(scope="session", params=AVAILABLE)
def backend_name(request):
    return request.param


@pytest.fixture(scope="session")
def backend(backend_name):
    """The module of one backend: kernels are called directly, past the customs desk."""
    return backends.load(backend_name)


@pytest.fixture(scope="session", params=["float32", "float64"])
def dtype(request):
    return np.dtype(request.param)


@pytest.fixture
def rng():
    return np.random.default_rng(20260)


@pytest.fixture
def canary():
    """Makes arrays, as `layouts.Canary` does, whose surroundings are checked when the test ends."""
    made = []

    def make(*args, **kwargs):
        made.append(layouts.Canary(*args, **kwargs))
        return made[-1].array

    yield make
    for each in made:
        each.check()
