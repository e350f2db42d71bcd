"""A whole network forward, in blocks of rows that fit the workspace."""

import numpy as np

from ..contract import forward_flops
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
from .team import alone, run
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
def _forward_alone(entry, job, x, out):
    """Complete the job with these arrays and run it here: what a call costs is then a fifth of a microsecond."""
    numbers = int64_at(job)
    numbers[X], numbers[ROWS_OF_X], numbers[OUT] = address_of(pointer(x)), x.shape[0], address_of(pointer(out))
    alone(entry, job)


def forward(network: Network, parameters: np.ndarray, x: np.ndarray, out: np.ndarray, workspace: Workspace) -> None:
    """out[n, outputs] = the network's outputs of x[n, inputs], any n, in blocks of workspace.rows."""
    if len(x) <= workspace.rows_alone and x.flags.writeable:  # a read-only array is another type to compiled code
        workspace.job[0] = workspace.kept("parameters", parameters)
        _forward_alone(_forward.address(network.dtype), workspace.job_address, x, out)
        return
    job = workspace.kept("parameters", parameters), *workspace.tables, address(x), len(x), address(out)
    block = min(len(x), workspace.rows)
    steps = -(-len(x) // max(block, 1))
    run(_forward, network.dtype, job, forward_flops(network.widths, block), steps, workspace.products.threads)
