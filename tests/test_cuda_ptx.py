"""Every kernel of the CUDA backend compiles for a GPU, without one: what the simulator cannot tell, types above all."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("cuda_ptx.py")


def has_compiler():
    """Whether numba-cuda is there, and NVIDIA's compiler, two libraries, for it."""
    if find_spec("numba_cuda") is None:
        return False
    from cuda import pathfinder

    try:
        return all(pathfinder.load_nvidia_dynamic_lib(name) for name in ("nvvm", "nvrtc"))
    except pathfinder.DynamicLibNotFoundError:
        return False


pytestmark = pytest.mark.skipif(not has_compiler(), reason="needs NVIDIA's compiler: pip install 'fastmlp[ptx]'")


@pytest.fixture(scope="module")
def programs():
    """One process a dtype, side by side."""
    return {
        dtype: subprocess.Popen(
            [sys.executable, PROGRAM, dtype], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for dtype in ("float32", "float64")
    }


@pytest.fixture(scope="module", params=["float32", "float64"])
def compiled(request, programs):
    """The dtype, and what came of each kernel."""
    output, errors = programs[request.param].communicate()
    assert programs[request.param].returncode == 0, errors[-3000:]
    return request.param, json.loads(output)


def test_every_kernel_compiles(compiled):
    _, kernels = compiled
    assert len(kernels) == 63
    for name, facts in kernels.items():
        assert facts["entries"] == 1, name


def test_no_kernel_adds_in_an_order_of_chance(compiled):
    for name, facts in compiled[1].items():
        assert facts["atomic"] == 0, name


def test_float32_is_computed_in_float32_and_in_registers(compiled):
    """Sums of a loss are float64 by the contract; one forgotten constant anywhere else would cost half the speed.

    A tile in local memory would cost more. CUDA's library reduces a sine's largest arguments by a table in local memory
    and one product in float64.
    """
    dtype, kernels = compiled
    if dtype == "float32":
        for name, facts in kernels.items():
            assert facts["double"] == 0 or name.startswith("sum") or "sine" in name, name
            assert facts["local"] == 0 or "sine" in name, name
