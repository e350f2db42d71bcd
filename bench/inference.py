"""The suite `infer`: one call of `predict` from Python, checks and a fresh output included."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..kernels.contract import array_dtype, forward_flops
from .contest import REFERENCE, ROUNDING, Setting, contest, judge, sides_of_calls
from .timing import seconds
from .training import new_network
from .workloads import Workload


def infer_row(workload: Workload, setting: Setting) -> dict[str, Any]:
    """One row of the suite."""
    setting.tell(f"{workload.name}: do the numbers agree?")
    dtype = workload.dtype or setting.dtype
    x = workload.make(workload).x
    net, ours = new_network(workload, REFERENCE, dtype), new_network(workload, setting.backend, dtype)
    x_, weights, biases = x.astype(array_dtype(dtype)), net.weights, net.biases
    reference = _bare(workload, weights, biases, x_)
    single, double = (
        _bare(workload, [w.astype(kind) for w in weights], [b.astype(kind) for b in biases], x.astype(kind))()
        for kind in ("float32", "float64")
    )
    in_float32: Callable[[], object] | None = None
    if dtype in ROUNDING:
        single = net.predict(x_)
        reference = partial(net.predict, x_) if dtype == "bfloat16" else reference
        in_float32 = partial(new_network(workload, setting.backend, "float32").predict, x_)
    received: list[np.ndarray] = []
    first_call_s = seconds(lambda: received.append(ours.predict(x_)))
    agreement = judge(dtype, [single], [double], received)

    sides = sides_of_calls(
        setting,
        reference,
        lambda peer: peer.predictions(workload, weights, biases, x_),
        double,
        lambda: ours.predict(x_),
        agreement,
        first_call_s,
        lambda: new_network(workload, REFERENCE, "bfloat16").predict(x),
        in_float32,
    )
    setting.tell(f"{workload.name}: how fast is it?")
    row = {
        "suite": "infer",
        "workload": workload.name,
        "case": workload.case,
        "unit": "µs/call",
        "dtype": dtype,
        "widths": list(workload.widths),
        "activation": workload.activation,
        "batch_size": workload.batch_size,
    }
    return contest(row, sides, setting, forward_flops(workload.widths, workload.batch_size))


def _bare(
    workload: Workload, weights: Sequence[np.ndarray], biases: Sequence[np.ndarray], x: np.ndarray
) -> Callable[[], np.ndarray]:
    """NumPy at its best: as a user writes it by hand, without this package's checks."""
    hidden, activation = len(weights) - 1, workload.activation

    def predict() -> np.ndarray:
        y = x
        for index, (w, b) in enumerate(zip(weights, biases, strict=True)):
            y = y @ w
            y += b
            if index < hidden and activation == "relu":
                np.maximum(y, 0, out=y)
        return y

    return predict
