"""J of a network's outputs y[n, m] against their target, and dJ/dy."""

import numpy as np

from ..contract import LOSSES
from ..network import Network
from .compile import entry
from .direct import address
from .losses import MOST_CHUNKS, ROUTINES, chunk_rows, mean_loss, routine_of, rows_loss
from .phases import RANK, claim, finish
from .simd import float64_at, int64_at, pointer_at
from .team import run

FLOPS_PER_ELEMENT = 20
"""What an element costs at most, exponentials counted in: enough to decide whether threads pay."""


@entry
def _loss(shared, me, like, partial_address, code, routine, n, m, y_address, target_address, label_address, dy_address):
    y, target, dy = pointer_at(y_address, like), pointer_at(target_address, like), pointer_at(dy_address, like)
    partial, labels = float64_at(partial_address), int64_at(label_address)
    rows = chunk_rows(n)
    chunks = -(-n // rows)
    chunk = claim(shared, me, chunks)
    while chunk >= 0:
        i, count = chunk * rows, min(rows, n - chunk * rows)
        named = labels + i if label_address != 0 else labels
        partial[chunk] = rows_loss(
            code, routine, n, count, m, y + i * m, target + i * m, named, dy + i * m, 1 if dy_address != 0 else 0
        )
        chunk = claim(shared, me, chunks)
    finish(shared, me, chunks)
    if me[RANK] == 0:
        partial[0] = mean_loss(code, n, m, partial, chunks)


def value_and_gradient(code: int, y: np.ndarray, target: np.ndarray, dy: np.ndarray | None) -> float:
    """J by the loss with this code; NaN where there is no element."""
    if y.size == 0:
        return float("nan")
    n, m = y.shape
    partial = np.empty(MOST_CHUNKS)
    target_address, label_address = (0, address(target)) if target.ndim == 1 else (address(target), 0)
    job = (
        address(partial), code, routine_of(code, ROUTINES, y.dtype), n, m, address(y), target_address, label_address,
        0 if dy is None else address(dy),
    )  # fmt: skip
    run(_loss, y.dtype, job, FLOPS_PER_ELEMENT * y.size)
    return float(partial[0])


def loss(network: Network, y: np.ndarray, target: np.ndarray, dy: np.ndarray | None = None) -> float:
    """J of outputs y[n, m] against target[n, m], or int64 labels [n]; writes dJ/dy to dy[n, m] if given."""
    return value_and_gradient(LOSSES[network.loss].code, y, target, dy)
