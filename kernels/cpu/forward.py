"""A whole network forward, in blocks of rows that fit the workspace."""

import numpy as np

from ..contract import forward_flops
from ..cores import get_num_threads
from ..network import Network
from .compile import called, entry
from .layer import forward_layer
from .simd import address_of, int64_at, pointer, pointer_at
from .tables import (
    ACTIVATION,
    BIAS,
    CAPACITY,
    INPUTS,
    LAYER_FIELDS,
    LAYERS,
    OUTPUT,
    OUTPUTS,
    PACKED,
    ROWS,
    SCRATCH,
    WEIGHTS,
)
from .team import LONG_FLOPS, PARALLEL_BYTES, conduct, conducted, members, threads_for
from .workspace import Workspace, address


@entry
def _forward(shared, me, like, parameters, layers_address, plan_address, x, rows, out):
    w, layers, plan = pointer_at(parameters, like), int64_at(layers_address), int64_at(plan_address)
    packed, scratch = pointer_at(plan[PACKED], like), pointer_at(plan[SCRATCH], like)
    last = plan[LAYERS] - 1
    for first in range(0, rows, plan[ROWS]):
        n = min(plan[ROWS], rows - first)
        below = pointer_at(x, like) + first * layers[INPUTS]
        for index in range(last + 1):
            layer = layers + index * LAYER_FIELDS
            m = layer[OUTPUTS]
            y = pointer_at(layer[OUTPUT], like) if index < last else pointer_at(out, like) + first * m
            forward_layer(
                shared, me, n, layer[INPUTS], m, below, w + layer[WEIGHTS], w + layer[BIAS], y, y, False,
                layer[ACTIVATION], packed, plan[CAPACITY], scratch,
            )  # fmt: skip
            below = y


X, ROWS_OF_X, OUT = 3, 4, 5
"""Places in the job of `_forward`."""


@called
def _forward_arrays(team, entry, job, x, out, size, is_long):
    """Complete the job with these arrays and run it: Python would take a microsecond for each array's address."""
    numbers = int64_at(job)
    numbers[X], numbers[ROWS_OF_X], numbers[OUT] = address_of(pointer(x)), x.shape[0], address_of(pointer(out))
    conducted(team, entry, job, size, is_long)


def forward(network: Network, parameters: np.ndarray, x: np.ndarray, out: np.ndarray, workspace: Workspace) -> None:
    """out[n, outputs] = the network's outputs of x[n, inputs], any n, in blocks of workspace.rows."""
    if workspace.parameters is not parameters:
        workspace.parameters = parameters
        workspace.job[0] = address(parameters)
        workspace.entry = _forward.address(network.dtype)
    threads, flops = 1, 0
    if len(x) > workspace.rows_alone:
        block, flops = min(len(x), workspace.rows), forward_flops(network.widths, len(x))
        if parameters.nbytes >= PARALLEL_BYTES:
            threads = get_num_threads()
        else:
            threads = threads_for(forward_flops(network.widths, block), -(-len(x) // block))
        threads = min(threads, workspace.products.threads)
    if x.flags.writeable:
        team, size = members(threads)
        _forward_arrays(team, workspace.entry, workspace.job_address, x, out, size, flops >= LONG_FLOPS)
    else:  # a type of its own to compiled code
        workspace.job[[X, ROWS_OF_X, OUT]] = address(x), len(x), address(out)
        conduct(workspace.entry, workspace.job_address, threads, flops)
