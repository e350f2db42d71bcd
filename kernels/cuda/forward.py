"""A whole network forward, one launch a layer."""

from typing import Any

from ..network import Network
from .linear_forward import linear_forward
from .workspace import Workspace


def forward(network: Network, parameters: Any, x: Any, out: Any, workspace: Workspace) -> None:
    """Write the network's outputs for x[n, inputs] to out[n, outputs], `workspace.rows` rows at a time."""
    layers = list(zip(network.weights(parameters), network.biases(parameters), network.activations, strict=True))
    for start in range(0, len(x), workspace.rows):
        y = x[start : start + workspace.rows]
        n = len(y)
        outputs = [*(buffer[:n] for buffer in workspace.y[:-1]), out[start : start + n]]
        for (w, b, activation), output in zip(layers, outputs, strict=True):
            linear_forward(y, w, b, output, None, activation)
            y = output
