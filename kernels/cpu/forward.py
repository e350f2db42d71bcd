"""A whole network forward, in blocks of rows that fit the workspace."""

import numpy as np

from ..contract import forward_flops
from ..network import Network
from .compile import entry
from .layer import forward_layer
from .simd import pointer, pointer_at
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
from .team import enter, leave, private, run, threads_for
from .workspace import Workspace, address


@entry
def _forward(parameters, layers, plan, x_address, rows, out_address, shared_array, size, rank):
    shared = pointer(shared_array)
    me = private(shared, size, rank)
    if enter(shared, me):
        plan_at, layers_at, w = pointer(plan), pointer(layers), pointer(parameters)
        packed, scratch = pointer_at(plan_at[PACKED], w), pointer_at(plan_at[SCRATCH], w)
        last = plan_at[LAYERS] - 1
        for first in range(0, rows, plan_at[ROWS]):
            n = min(plan_at[ROWS], rows - first)
            below = pointer_at(x_address, w) + first * layers_at[INPUTS]
            for index in range(last + 1):
                layer = layers_at + index * LAYER_FIELDS
                m = layer[OUTPUTS]
                y = pointer_at(layer[OUTPUT], w) if index < last else pointer_at(out_address, w) + first * m
                forward_layer(
                    shared, me, n, layer[INPUTS], m, below, w + layer[WEIGHTS], w + layer[BIAS], y, y, False,
                    layer[ACTIVATION], packed, plan_at[CAPACITY], scratch,
                )  # fmt: skip
                below = y
    leave(shared, me)


def forward(network: Network, parameters: np.ndarray, x: np.ndarray, out: np.ndarray, workspace: Workspace) -> None:
    """out[n, outputs] = the network's outputs of x[n, inputs], any n, in blocks of workspace.rows."""
    arguments = (parameters, workspace.layers, workspace.plan, address(x), len(x), address(out))
    block = min(len(x), workspace.rows)
    threads = threads_for(forward_flops(network.widths, block), -(-len(x) // max(block, 1)))
    run(_forward, arguments, min(threads, workspace.products.threads))
