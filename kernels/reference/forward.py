"""A whole network forward."""

import numpy as np

from ..network import Network
from .linear_forward import forward_layer
from .rounding import operand
from .workspace import Workspace


def forward(network: Network, parameters: np.ndarray, x: np.ndarray, out: np.ndarray, workspace: Workspace) -> None:
    """Write the network's outputs for x[n, inputs] to out[n, outputs], `workspace.rows` rows at a time."""
    weights = network.weights(operand(parameters, workspace.parameters))
    layers = list(zip(weights, network.biases(parameters), network.activations, strict=True))
    for start in range(0, len(x), workspace.rows):
        y = x[start : start + workspace.rows]
        batch = workspace.batch(len(y))
        outputs = [*batch.y[:-1], out[start : start + workspace.rows]]
        for (w, b, activation), rounded, output in zip(layers, batch.inputs, outputs, strict=True):
            forward_layer(operand(y, rounded), w, b, output, None, activation, workspace.product)
            y = output
