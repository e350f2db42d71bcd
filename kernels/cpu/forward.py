"""A whole network forward, in blocks of rows that fit the workspace."""

import numpy as np

from ..contract import forward_flops
from ..network import Network
from .compile import entry
from .layer import forward_layer
from .simd import int64_at, pointer_at
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
from .team import run
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


def forward(network: Network, parameters: np.ndarray, x: np.ndarray, out: np.ndarray, workspace: Workspace) -> None:
    """out[n, outputs] = the network's outputs of x[n, inputs], any n, in blocks of workspace.rows."""
    job = address(parameters), *workspace.tables, address(x), len(x), address(out)
    block = min(len(x), workspace.rows)
    steps = -(-len(x) // max(block, 1))
    run(_forward, network.dtype, job, forward_flops(network.widths, block), steps, workspace.products.threads)
