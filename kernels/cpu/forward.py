"""A whole network forward, in blocks of rows that fit the workspace."""

import numpy as np

from ..contract import forward_flops
from ..cores import get_num_threads
from ..network import Network
from .compile import called, entry
from .layer import forward_layer, round_array
from .simd import address_of, int64_at, pointer, pointer_at
from .tables import (
    ACTIVATION,
    BATCH_X,
    BIAS,
    CAPACITY,
    FACTOR,
    INPUTS,
    LAYER_FIELDS,
    LAYERS,
    OUTPUT,
    OUTPUTS,
    PACKED,
    ROUNDED,
    ROWS,
    SCRATCH,
    SIZE,
    WEIGHTS,
)
from .team import LONG_FLOPS, PARALLEL_BYTES, conducted, members, threads_for
from .workspace import Workspace, address


@entry
def _forward(shared, me, like, parameters, layers_address, plan_address, x, rows, out):
    w, layers, plan = pointer_at(parameters, like), int64_at(layers_address), int64_at(plan_address)
    packed, scratch = pointer_at(plan[PACKED], like), pointer_at(plan[SCRATCH], like)
    last = plan[LAYERS] - 1
    rounds, factors = plan[ROUNDED] != 0, w
    if rounds:
        factors = pointer_at(plan[ROUNDED], like)
        round_array(shared, me, plan[SIZE], w, factors)
    for first in range(0, rows, plan[ROWS]):
        n = min(plan[ROWS], rows - first)
        below = pointer_at(x, like) + first * layers[INPUTS]
        if rounds:
            rounded_x = pointer_at(plan[BATCH_X], like)
            round_array(shared, me, n * layers[INPUTS], below, rounded_x)
            below = rounded_x
        for index in range(last + 1):
            layer = layers + index * LAYER_FIELDS
            m = layer[OUTPUTS]
            y = pointer_at(layer[OUTPUT], like) if index < last else pointer_at(out, like) + first * m
            factor = pointer_at(layer[FACTOR], like) if index < last else y
            forward_layer(
                shared, me, n, layer[INPUTS], m, below, factors + layer[WEIGHTS], w + layer[BIAS], y, factor, y, False,
                layer[ACTIVATION], packed, plan[CAPACITY], scratch,
            )  # fmt: skip
            below = factor


X, ROWS_OF_X, OUT, ENTRY, ROW_FLOPS = range(3, 8)
"""Places in the job that a workspace keeps: what changes from call to call, and behind what `_forward` reads its
address and the FLOPs of a row."""


@called
def _forward_arrays(team, size, job, x, out):
    """Complete the job with these arrays and run it; gives how many members it had.

    Python would take a microsecond for each array's address.
    """
    numbers = int64_at(job)
    rows = x.shape[0]
    numbers[X], numbers[ROWS_OF_X], numbers[OUT] = address_of(pointer(x)), rows, address_of(pointer(out))
    return conducted(team, numbers[ENTRY], job, size, rows * numbers[ROW_FLOPS] >= LONG_FLOPS)


def forward(network: Network, parameters: np.ndarray, x: np.ndarray, out: np.ndarray, workspace: Workspace) -> None:
    """out[n, outputs] = the network's outputs of x[n, inputs], any n, in blocks of workspace.rows."""
    if workspace.parameters is not parameters:
        row_flops = forward_flops(network.widths, 1)
        job = address(parameters), *workspace.tables, 0, 0, 0, _forward.address(network.dtype), row_flops
        workspace.keep(parameters, job)
    team, size = 0, 1
    if len(x) > workspace.rows_alone:
        team, size = members(min(_threads(network, parameters, len(x), workspace), workspace.products.threads))
    _forward_arrays(team, size, workspace.job_address, x, out)


def _threads(network: Network, parameters: np.ndarray, rows: int, workspace: Workspace) -> int:
    if parameters.nbytes >= PARALLEL_BYTES:
        return get_num_threads()
    block = min(rows, workspace.rows)
    return threads_for(forward_flops(network.widths, block), -(-rows // block))
