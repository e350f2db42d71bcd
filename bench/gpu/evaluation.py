"""One operation on the reference and on the GPU: inputs and poisoned outputs placed, what comes out judged.

Outputs lie between margins and hold NaN before the call: a kernel that leaves an element out, or writes beyond its
array, is found. `judge` of the contest says what is near enough: at most twice NumPy's own distance from float64.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np

from ...kernels import backend as backends
from ..contest import judge

MARGIN = 64
CANARY = -98765.0


class Skipped(Exception):  # noqa: N818 - no error
    """Why a check cannot be made here."""


@contextlib.contextmanager
def graphs_are(choice: str) -> Iterator[None]:
    """FASTMLP_CUDA_GRAPHS as given: steps as CUDA graphs, "on", or launched kernel by kernel, "off"."""
    earlier = os.environ.get("FASTMLP_CUDA_GRAPHS", "on")
    os.environ["FASTMLP_CUDA_GRAPHS"] = choice
    try:
        yield
    finally:
        os.environ["FASTMLP_CUDA_GRAPHS"] = earlier


class Output:
    """An array on the device between two margins; NaN, or a copy of `content`."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, content: np.ndarray | None = None):
        size = int(np.prod(shape))
        buffer = np.full(size + 2 * MARGIN, CANARY, dtype)
        buffer[MARGIN : MARGIN + size] = np.nan if content is None else content.reshape(-1)
        self._buffer = cuda().resident(buffer)
        self.array = self._buffer[MARGIN : MARGIN + size].reshape(shape)

    def fetch(self) -> np.ndarray:
        """What the kernel left; raises AssertionError where a margin was written."""
        buffer = fetch(self._buffer)
        margins = np.concatenate([buffer[:MARGIN], buffer[len(buffer) - MARGIN :]])
        assert (margins == CANARY).all(), "written outside of the array"
        return buffer[MARGIN : len(buffer) - MARGIN].reshape(self.array.shape)


def cuda() -> ModuleType:
    """The backend on trial."""
    return backends.load("cuda")


def fetch(array: Any) -> np.ndarray:
    """A device array as NumPy's."""
    host = np.empty(array.shape, array.dtype)
    array.get(out=host)
    return host


@dataclass(frozen=True)
class Case:
    """A call(module, arrays) -> float or None on arrays by name.

    `inputs` are only read, `updated` read and written, of `written` the shapes are given. Labels stay integers.
    """

    call: Callable[[ModuleType, Mapping[str, Any]], float | None]
    inputs: Mapping[str, np.ndarray]
    written: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    updated: Mapping[str, np.ndarray] = field(default_factory=dict)

    def on_reference(self, dtype: str) -> list[np.ndarray]:
        """What the reference makes of it."""
        arrays: dict[str, Any] = {name: _cast(array, dtype) for name, array in self.inputs.items()}
        outputs = {name: np.full(shape, np.nan, dtype) for name, shape in self.written.items()}
        outputs |= {name: array.astype(dtype) for name, array in self.updated.items()}
        value = self.call(backends.load("numpy"), arrays | outputs)
        return [*outputs.values(), *([] if value is None else [np.asarray([value])])]

    def on_gpu(self, dtype: str) -> list[np.ndarray]:
        """What the GPU makes of it; raises AssertionError where it writes outside of its arrays."""
        module, kind = cuda(), np.dtype(dtype)
        arrays = {name: module.resident(_cast(array, dtype)) for name, array in self.inputs.items()}
        outputs = {name: Output(shape, kind) for name, shape in self.written.items()}
        outputs |= {name: Output(array.shape, kind, array.astype(dtype)) for name, array in self.updated.items()}
        value = self.call(module, arrays | {name: output.array for name, output in outputs.items()})
        fetched = [output.fetch() for output in outputs.values()]
        return [*fetched, *([] if value is None else [np.asarray([value])])]

    def evaluate(self, dtype: str) -> float:
        """The GPU's error over the allowed one, at most 1; raises AssertionError where it is more."""
        single, double = self.on_reference("float32"), self.on_reference("float64")
        verdict = judge(dtype, single, double, self.on_gpu(dtype))
        error = verdict["error_over_allowed"]
        assert verdict["agree"], f"error {error} times the allowed one, in {dtype}"
        return float(error)


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    return array if array.dtype.kind == "i" else array.astype(dtype)
