"""A whole network forward: one launch for all of it where it fits a block, else one a layer."""

from typing import Any

from ..network import Network
from . import forward_fused, tensor_train
from .linear_forward import linear_forward
from .workspace import Workspace


def forward(network: Network, parameters: Any, x: Any, out: Any, workspace: Workspace) -> None:
    """Write the network's outputs for x[n, inputs] to out[n, outputs], `workspace.rows` rows at a time."""
    if workspace.tensor is not None:
        tensor_train.forward(network, parameters, x, out, workspace)
        return
    how = forward_fused.choice(network, len(x))
    if how is not None:
        forward_fused.forward(how, parameters, x, out)
        return
    layers = list(zip(network.weights(parameters), network.biases(parameters), network.activations, strict=True))
    for start in range(0, len(x), workspace.rows):
        y = x[start : start + workspace.rows]
        n = len(y)
        outputs = [*(buffer[:n] for buffer in workspace.y[:-1]), out[start : start + n]]
        for (w, b, activation), output in zip(layers, outputs, strict=True):
            linear_forward(y, w, b, output, None, activation)
            y = output
