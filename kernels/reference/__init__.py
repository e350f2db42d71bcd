"""The reference backend: what every operation means, in NumPy alone, and the baseline of every figure.

Each file holds one operation as plain functions; here they are exported with NumPy's floating-point warnings off, since
NaN and Inf are values that flow through a kernel like any other.
"""

import functools
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np

from ..contract import EMULATED, HIGHEST_IN_FLOAT32
from ..timeline import Timed, python_stamp_ticks
from . import bias_add as _bias_add
from . import forward as _forward
from . import linear_backward_update as _linear_backward_update
from . import linear_forward as _linear_forward
from . import loss as _loss
from . import matmul as _matmul
from . import mse as _mse
from . import train as _train
from .workspace import Workspace

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

BFLOAT16 = EMULATED
"""How products of bfloat16 run."""

FLOAT16 = EMULATED
"""How products of float16 run."""

HIGH = f"three products of bfloat16 parts, {EMULATED}"
"""How products of precision "high" run."""

HIGHEST = HIGHEST_IN_FLOAT32
"""How products of precision "highest" run."""


def _quiet(operation: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """`operation` with no floating-point warnings, whatever the caller's np.errstate says."""

    @functools.wraps(operation)
    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with np.errstate(all="ignore"):
            return operation(*args, **kwargs)

    return run


matmul = _quiet(_matmul.matmul)
bias_add = _quiet(_bias_add.bias_add)
mse = _quiet(_mse.mse)
linear_forward = _quiet(_linear_forward.linear_forward)
linear_backward_update = _quiet(_linear_backward_update.linear_backward_update)
forward = _quiet(_forward.forward)
loss = _quiet(_loss.loss)
gradients = _quiet(_train.gradients)
train = _quiet(_train.train)

timed = Timed(train, time.perf_counter_ns, python_stamp_ticks)
"""How training is profiled."""

__all__ = [
    "Workspace",
    "bias_add",
    "forward",
    "gradients",
    "linear_backward_update",
    "linear_forward",
    "loss",
    "matmul",
    "mse",
    "train",
]
