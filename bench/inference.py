"""The suite `infer`: one call of `predict` from Python, checks and a fresh output included."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..kernels.contract import forward_flops
from .contest import REFERENCE, Setting, Side, contest, enter_ways, judge, judge_peer
from .timing import repeated, seconds
from .training import new_network
from .workloads import Workload


def infer_row(workload: Workload, setting: Setting) -> dict[str, Any]:
    """One row of the suite."""
    setting.tell(f"{workload.name}: do the numbers agree?")
    dtype = workload.dtype or setting.dtype
    x = workload.make(workload).x
    net, ours = new_network(workload, REFERENCE, dtype), new_network(workload, setting.backend, dtype)
    x_, weights, biases = x.astype(dtype), net.weights, net.biases
    reference = _bare(workload, weights, biases, x_)
    single, double = (
        _bare(workload, [w.astype(kind) for w in weights], [b.astype(kind) for b in biases], x.astype(kind))()
        for kind in ("float32", "float64")
    )
    received: list[np.ndarray] = []
    first_call_s = seconds(lambda: received.append(ours.predict(x_)))
    agreement = judge(dtype, [single], [double], received)

    sides = [Side(REFERENCE, "reference", reference, setting.threads)]
    for peer in setting.peers:
        ways = peer.predictions(workload, weights, biases, x_)
        agreements = {way: judge_peer(None, [double], [peer.as_numpy(call())]) for way, call in ways.items()}
        side = enter_ways(peer.name, setting.threads, ways, agreements)
        if side is not None:
            sides.append(side)
    call = lambda: ours.predict(x_)  # noqa: E731
    sides.append(
        Side(setting.backend, "backend", call, setting.threads, agreement=agreement, first_call_s=first_call_s)
    )
    for side in sides:
        side.call, side.count = repeated(side.call)
    if setting.alone:
        alone, count = repeated(call)
        sides.append(Side(f"{setting.backend}, 1 thread", "variant", setting.on_one_thread(alone), 1, count))
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
