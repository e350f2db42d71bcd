"""The suites `cold-start` and `memory`: whole processes of Python, each with one side's first step or steps."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import ArgumentError, FastMLPError
from .contest import REFERENCE, Setting, Side, contest, fill
from .workloads import Workload

ROUNDS = 3
"""Processes of each side, one a round; the clock's first round is a warm-up of the disk."""

STEPS = 3
"""Steps whose peak of memory is taken: whatever is allocated late is there by then."""

_IMPORT = """
import numpy as np
import fastmlp
from fastmlp.kernels import backend

backend.load({backend!r})
"""

_BUILD = """
net = fastmlp.MLP(
    {widths}, {activation!r}, loss={loss!r}, optimizer={optimizer!r}, dtype={dtype!r}, backend={backend!r}
)
rng = np.random.default_rng(0)
x = rng.standard_normal(({batch_size}, {widths}[0]), np.float32).astype({dtype!r}, copy=False)
t = rng.standard_normal(({batch_size}, {widths}[-1]), np.float32).astype({dtype!r}, copy=False)
step = lambda: net.train_step(x, t)
"""

_PEER_IMPORT = """
import numpy as np
from fastmlp.bench import peers
from fastmlp.bench.workloads import Data, Workload

(peer,) = peers.load([{peer!r}], {threads})
"""

_PEER_BUILD = """
workload = Workload(
    "", {widths}, {activation!r}, {loss!r}, {optimizer!r}, batch_size={batch_size}, samples={batch_size}
)
rng = np.random.default_rng(0)
def normal(*shape):
    return rng.standard_normal(shape, np.float32).astype({dtype!r}, copy=False)
data = Data(normal({batch_size}, {widths}[0]), normal({batch_size}, {widths}[-1]))
weights = [normal(k, m) / np.sqrt(k, dtype={dtype!r}) for k, m in zip({widths}, {widths}[1:])]
biases = [np.zeros(m, {dtype!r}) for m in {widths}[1:]]
way, build = next(iter(peer.trainers(workload, weights, biases, data).items()))
trainer = build()
del build, weights, biases  # a peer holds its own copy
step = lambda: trainer.fit(1)
"""

_WHOLE = "{start}{build}step()\n"

_PEAK = """
from pathlib import Path

def kib(key):
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(key)).split()[1])
{start}
before = kib("VmRSS:")
{build}
Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here on
for _ in range({steps}):
    step()
print(kib("VmHWM:") - before)
"""


def cold_start_row(workload: Workload, setting: Setting) -> dict[str, Any]:
    """One row of the suite `cold-start`: seconds from the start of Python to the end of the first step."""
    setting.tell(f"{workload.name}: how long does a new process take?")
    with tempfile.TemporaryDirectory() as folder:
        caches = (f"{folder}/empty-{index}" for index in range(10**6))

        def side(name: str, role: str, peer: bool = False, cache: Callable[[], str] = lambda: f"{folder}/warm") -> Side:
            start, build = _parts(workload, setting, name, peer)
            program = _WHOLE.format(start=start, build=build)
            return Side(name, role, lambda: _run(program, cache()), setting.threads)

        sides = [
            side(REFERENCE, "reference"),
            *(side(peer.name, "peer", peer=True) for peer in setting.peers if peer.trains),
            side(setting.backend, "backend"),
        ]
        empty = side(setting.backend, "variant", cache=lambda: next(caches))
        empty.name = f"{setting.backend}, empty cache"
        row = _row(workload, setting, "cold-start", "s")
        return contest(row, [*sides, empty], setting, least=ROUNDS, most=ROUNDS)


def memory_row(workload: Workload, setting: Setting) -> dict[str, Any]:
    """One row of the suite `memory`: how far a few steps raise a process's memory over what its imports take.

    Raises ArgumentError where the system does not tell a process's peak.
    """
    if not Path("/proc/self/clear_refs").exists():
        raise ArgumentError(
            "--suite memory needs Linux, which tells a process its peak in /proc/self; leave it out here"
        )
    sides = [
        Side(REFERENCE, "reference", lambda: None, setting.threads),
        *(Side(peer.name, "peer", lambda: None, setting.threads) for peer in setting.peers if peer.trains),
        Side(setting.backend, "backend", lambda: None, setting.threads),
    ]
    samples: dict[int, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for index, side in enumerate(sides):
            setting.tell(f"{workload.name}: how much memory does {side.name} take?")
            start, build = _parts(workload, setting, side.name, side.role == "peer")
            program = _PEAK.format(start=start, build=build, steps=STEPS)
            _run(program, folder)  # fills the cache: compiling takes memory of its own
            samples[index] = [float(_run(program, folder)) / 1024 for _ in range(ROUNDS)]
    return fill(_row(workload, setting, "memory", "MiB"), sides, samples, setting)


def _row(workload: Workload, setting: Setting, suite: str, unit: str) -> dict[str, Any]:
    return {
        "suite": suite,
        "workload": workload.name,
        "case": workload.case,
        "unit": unit,
        "dtype": setting.dtype,
        "widths": list(workload.widths),
        "activation": workload.activation,
        "loss": workload.loss,
        "optimizer": workload.optimizer,
        "batch_size": workload.batch_size,
    }


def _parts(workload: Workload, setting: Setting, name: str, peer: bool) -> tuple[str, str]:
    """A side's program: its imports, and what builds `step`."""
    words = {
        "widths": workload.widths,
        "activation": workload.activation,
        "loss": workload.loss,
        "optimizer": workload.optimizer,
        "batch_size": workload.batch_size,
        "dtype": setting.dtype,
        "threads": setting.threads,
        "backend": name,
        "peer": name,
    }
    start, build = (_PEER_IMPORT, _PEER_BUILD) if peer else (_IMPORT, _BUILD)
    return start.format(**words), build.format(**words)


def _run(program: str, cache: str) -> str:
    """What the program prints, in a Python of its own that keeps its compiled kernels in `cache`."""
    package = Path(__file__).resolve().parents[1]
    path = [str(package.parent if package.name == "fastmlp" else package), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"FASTMLP_CACHE_DIR": cache, "PYTHONPATH": os.pathsep.join(filter(None, path))}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise FastMLPError(
            f"a process of the benchmark failed: {done.stderr.strip().splitlines()[-1:] or done.returncode}"
        )
    return done.stdout
