"""The process that makes a stage's items one by one, each noted in a file of JSON lines as it begins and as it ends.

It may hang or die: its parent sees by the lines how far it came, and starts another for what is left.
"""

import importlib.util
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ...info import gpu, versions
from ...kernels import backend as backends

PACKAGES = (
    "numpy",
    "numba",
    "numba-cuda",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "torch",
    "triton",
    "cuda-core",
    "nvidia-ml-py",
)

TEST_FILES = ("matmul", "bias_add", "mse", "linear_forward", "linear_backward_update", "loss", "forward", "gradients")

TESTS_S = 50
"""The project's tests are ended after so long; those that ran until then count."""

RATES = ("float32", "tf32", "bfloat16", "float16", "float64")


def items(stage: str, rehearsal: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """What a stage makes, by name."""
    if stage == "machine":
        return {"machine": partial(machine, rehearsal)}
    if stage in ("checks", "sanitizer"):
        from .checks import checks

        small = rehearsal or stage == "sanitizer"
        found = {name: partial(check, small) for name, check in checks().items()}
        if stage == "sanitizer":
            leave_out = ("forked", "full memory", "PyTorch", "float64")
            return {name: run for name, run in found.items() if not any(word in name for word in leave_out)}
        return found | {"the project's tests on backend cuda": partial(project_tests, rehearsal)}
    if stage == "ceilings":
        from .rates import copy_rate, product_rate

        return {"copy": partial(copy_rate, rehearsal)} | {
            f"product {dtype}": partial(product_rate, dtype, rehearsal) for dtype in RATES
        }
    from .rows import ENERGY, energy_row, rows, time_row

    made = rows(rehearsal)
    if stage == "times":
        return {name: partial(time_row, *row, rehearsal) for name, row in made.items()}
    window_s = 0.05 if rehearsal else 5.0
    return {name: partial(energy_row, *row, window_s, rehearsal) for name, row in made.items() if row[0].name in ENERGY}


def work(stage: str, names: Sequence[str], lines: Path, rehearsal: bool) -> None:
    """Make the named items of a stage."""
    if rehearsal:
        sys.setswitchinterval(1e-4)  # the simulator's threads wait for one another by polling
    elif stage == "sanitizer":
        import cupy

        cupy.cuda.set_allocator(None)  # no pool, whose neighbouring arrays memcheck takes for one
    found = items(stage, rehearsal)
    with lines.open("a") as file:

        def note(**line: Any) -> None:
            file.write(json.dumps(line, default=str) + "\n")
            file.flush()

        for name in names:
            note(item=name, state="began")
            started = time.perf_counter()
            result = attempt(found[name])
            note(item=name, state="ended", result=result | {"seconds": time.perf_counter() - started})


def attempt(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it returns, with the status "passed"; or "skipped" or "failed" and why."""
    from .evaluation import Skipped

    try:
        return {"status": "passed"} | run()
    except Skipped as reason:
        return {"status": "skipped", "reason": str(reason)}
    except Exception as error:
        return {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:2000]}


def machine(rehearsal: bool) -> dict[str, Any]:
    """The device, its driver, and the packages; raises AssertionError where the CUDA backend cannot run."""
    found = {
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "packages": versions(PACKAGES),
        "gpu": gpu(),
        "driver": _told(
            "nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"
        ),
    }
    reason = backends.status()["cuda"]
    assert reason is None, f"{reason}; {found}"
    if not rehearsal:
        import cupy

        properties = cupy.cuda.runtime.getDeviceProperties(0)
        found["capability"] = f"{properties['major']}.{properties['minor']}"
        found["multiprocessors"] = properties["multiProcessorCount"]
    return found


def project_tests(rehearsal: bool) -> dict[str, Any]:
    """The tests of the operations, which run over every backend there is; here for the GPU alone."""
    from .evaluation import Skipped

    root = Path(__file__).resolve().parents[2]
    if rehearsal or importlib.util.find_spec("pytest") is None or not (root / "tests").is_dir():
        raise Skipped("a rehearsal" if rehearsal else "needs pytest, and a checkout")
    files = [f"tests/test_{name}.py" for name in TEST_FILES]
    command = [sys.executable, "-m", "pytest", "-v", "-k", "cuda", "-p", "no:cacheprovider", *files]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        output, status = process.communicate(timeout=TESTS_S)[0], str(process.returncode)
    except subprocess.TimeoutExpired:
        process.kill()
        output, status = process.communicate()[0], f"ended after {TESTS_S} s"
    counts = {word.lower(): output.count(f" {word} ") for word in ("PASSED", "FAILED", "ERROR")}
    assert counts["failed"] == counts["error"] == 0 < counts["passed"], output[-1800:]
    return {"status of pytest": status, **counts}


def _told(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
