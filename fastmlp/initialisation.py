"""A network's first weights."""

import math

import numpy as np

from .kernels.network import Network

HE = ("relu", "leaky_relu", "gelu", "silu")
SINE_FREQUENCY = 30.0


def initialise(network: Network, parameters: np.ndarray, random: np.random.Generator) -> None:
    """Draw the weights in float64, layer by layer, and write them rounded; leave the zero biases alone.

    With k inputs and m outputs, by the layer's activation: normal with standard deviation sqrt(2 / k) for relu,
    leaky_relu, gelu and silu (He et al. 2015, arXiv:1502.01852); uniform in ±sqrt(6 / k) for sine, in ±30 / k for a
    sine in the first layer (SIREN: Sitzmann et al. 2020, arXiv:2006.09661, their frequency of 30 multiplied into the
    weights); uniform in ±sqrt(6 / (k + m)) for all others (Glorot & Bengio 2010).
    """
    for i, (layer, w) in enumerate(zip(network.layers, network.weights(parameters), strict=True)):
        k, m = layer.inputs, layer.outputs
        if layer.activation in HE:
            w[...] = random.normal(0.0, math.sqrt(2 / k), (k, m))
            continue
        if layer.activation == "sine":
            limit = SINE_FREQUENCY / k if i == 0 else math.sqrt(6 / k)
        else:
            limit = math.sqrt(6 / (k + m))
        w[...] = random.uniform(-limit, limit, (k, m))
