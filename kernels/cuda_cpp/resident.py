"""Which networks train_resident.cu takes, by how many blocks, and how it is called.

A step of a small network takes its launches longer than its arithmetic. Held in shared memory by one block, or by a
cluster of up to eight, it takes none: a step is then about ten barriers and the arithmetic of the blocks that hold it.
"""

import math
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..contract import LOSSES, OPTIMIZERS, step_flops
from ..network import Network, Optimizer
from .compile import ARCHITECTURES, Program, has_clusters, why_stack
from .networks import NULL, macros

THREADS = 256
CLUSTERS = (1, 2, 4, 8)
"""Blocks that may share a batch; 8 is the most that every device with clusters allows."""

_MOST_OUTPUTS = 512
"""Of a loss over whole rows: 32 threads hold one in registers, 16 elements each."""

# The estimate of a step, in cycles of an SM; see kernels/cuda/README.md. To be measured.
_MULTIPLY_ADDS_A_CYCLE = 64  # half of what the units do
_CYCLES_A_BARRIER = 150
_CYCLES_OF_AN_EXCHANGE = 1500
_CYCLES_A_LAUNCH = 4300  # 2.5 us, of each kernel of a step that goes layer by layer
_LAUNCHES_A_LAYER = 3


class Resident(NamedTuple):
    """How a network is trained on chip: the program, blocks of the cluster, about how many cycles a step."""

    program: Program
    blocks: int
    cycles: float

    @property
    def shared_bytes(self) -> int:
        """Of shared memory a block."""
        return self.program.shared_bytes

    @property
    def kernel(self) -> str:
        """For a plan's text."""
        where = "one block" if self.blocks == 1 else f"a cluster of {self.blocks} blocks"
        return f"train_resident: whole steps in {where}, {self.shared_bytes / 1024:.0f} KiB of shared memory each"


def choose(
    network: Network, optimizer: Optimizer, rows: int, labels: bool, architecture: str | None, shared_limit: int
) -> Resident | None:
    """The fastest way to train on batches of `rows` rows that fits; None where none does, or launches cost less.

    labels: targets are classes. `architecture` as compile.architecture says; shared_limit: bytes a block may have.
    """
    if architecture is None or network.dtype != np.float32 or network.rounds or rows < 1:
        return None
    if LOSSES[network.loss].target == "classes" and network.widths[-1] > _MOST_OUTPUTS:
        return None
    candidates = [
        resident(network, optimizer, rows, labels, blocks)
        for blocks in (CLUSTERS if has_clusters(architecture) else CLUSTERS[:1])
        if blocks <= rows
    ]
    fitting = [each for each in candidates if each.shared_bytes <= shared_limit]
    best = min(fitting, key=lambda each: each.cycles, default=None)
    launches = _LAUNCHES_A_LAYER * len(network.layers) * _CYCLES_A_LAUNCH
    return best if best is not None and best.cycles <= launches else None


def resident(network: Network, optimizer: Optimizer, rows: int, labels: bool, blocks: int) -> Resident:
    """The program for batches of `rows` rows in a cluster of this many blocks."""
    held = -(-rows // blocks)
    defines: dict[str, int | str] = {
        **macros(network),
        "LOSS": LOSSES[network.loss].code,
        "LABELS": int(labels),
        "OPTIMIZER": OPTIMIZERS[optimizer.name].code,
        "ROWS": held,
        "THREADS": THREADS,
        "BLOCKS": blocks,
    }
    program = Program(
        "train_resident",
        ("train_resident",),
        tuple(defines.items()),
        ARCHITECTURES if blocks == 1 else ("sm_90a",),
        threads=THREADS,
        shared_bytes=_shared_bytes(network, optimizer, held, labels, blocks),
        stack_because=why_stack(network.activations),
    )
    return Resident(program, blocks, _cycles(network, rows, blocks))


def arguments(
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
) -> tuple[Any, ...]:
    """The kernel's arguments for the operation `train`; order and penalties may be None."""
    settings = (optimizer.learning_rate, optimizer.l2, optimizer.momentum, optimizer.beta1, optimizer.beta2)
    powers = optimizer.beta1**updates, optimizer.beta2**updates
    stride = state.strides[0] // state.itemsize if optimizer.slots else 0
    return (
        parameters,
        state if optimizer.slots else parameters,
        np.int64(stride),
        x,
        target,
        NULL if order is None else order,
        np.int64(len(x)),
        np.int64(start),
        np.int32(min(batch_size, len(x))),
        np.int32(len(losses)),
        losses,
        NULL if penalties is None else penalties,
        *map(np.float64, (*settings, optimizer.epsilon, *powers)),
    )


def whole(size: int) -> int:
    """The next multiple of 4."""
    return -(-size // 4) * 4


def pitch(size: int) -> int:
    """Floats from row to row, as product.cuh says."""
    return whole(size) + 4 * (whole(size) % 8 == 0)


def _shared_bytes(network: Network, optimizer: Optimizer, rows: int, labels: bool, blocks: int) -> int:
    """As the layout in train_resident.cu adds up."""
    held, layers = whole(rows), network.layers
    parameters = sum((whole(layer.inputs) + 1) * pitch(layer.outputs) for layer in layers)
    owned = sum(-(-(layer.inputs + 1) * layer.outputs // (blocks * THREADS)) for layer in layers)
    target = 2 if labels else pitch(network.widths[-1])
    outputs = sum((1 + layer.saves_preactivation) * pitch(layer.outputs) for layer in layers)
    widest = max(pitch(layer.outputs) for layer in layers)
    rows_wide = 4 + 2 * target + 2 * pitch(network.widths[0]) + 2 * widest + outputs
    return 4 * (8 + 2 * THREADS + held * rows_wide + 2 * parameters + whole(optimizer.slots * owned * THREADS))


def _cycles(network: Network, rows: int, blocks: int) -> float:
    """About what a step takes: its multiply-adds, at least a few cycles for each element of a sum, and its barriers."""
    held = whole(-(-rows // blocks))
    work = step_flops(tuple(map(whole, network.widths)), held) / 2 / _MULTIPLY_ADDS_A_CYCLE
    barriers = (2 * len(network.layers) + 3) * _CYCLES_A_BARRIER
    sums = sum(6 * math.log2(1 + k) for k, _ in pairwise(network.widths))
    owned = sum(-(-(layer.inputs + 1) * layer.outputs // (blocks * THREADS)) for layer in network.layers)
    exchange = _CYCLES_OF_AN_EXCHANGE if blocks > 1 else 0
    return work + barriers + sums + owned * (40 + 16 * blocks) + exchange
