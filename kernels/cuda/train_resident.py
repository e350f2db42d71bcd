"""Training small networks by CUDA C++'s train_resident: all steps of a call in one launch."""

from typing import Any

from ..cuda_cpp import resident
from ..cuda_cpp.resident import Resident
from ..network import Network, Optimizer
from . import cubins, limits
from .elementary import SIMULATED


def choice(network: Network, optimizer: Optimizer, rows: int, labels: bool) -> Resident | None:
    """How batches of `rows` rows are trained on the current device; None where layer by layer is the way."""
    target = cubins.target()
    if target is None:
        return None
    return resident.choose(network, optimizer, rows, labels, target, limits.shared_limit())


def train(
    how: Resident,
    optimizer: Optimizer,
    parameters: Any,
    state: Any,
    updates: int,
    x: Any,
    target: Any,
    order: Any,
    start: int,
    batch_size: int,
    losses: Any,
    penalties: Any,
) -> None:
    """The operation `train` on device arrays, as chosen."""
    if len(losses) == 0:
        return
    if not SIMULATED and x.data.ptr % 16:
        x = x.copy()  # a user's view: samples travel 16 bytes at a time
    kernel = cubins.kernel(how.program, "train_resident", how.shared_bytes)
    arguments = resident.arguments(
        optimizer, parameters, state, updates, x, target, order, start, batch_size, losses, penalties
    )
    kernel((how.blocks,), (how.program.threads,), arguments, shared_mem=how.shared_bytes)
