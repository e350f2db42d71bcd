"""The buffers of a network whose products run on tensor cores, allocated once."""

from typing import Any

import numpy as np

from ..cuda_cpp.layers import Elements
from ..network import Network
from .memory import empty
from .tensor_layer import Operand, most_shares, partial_rows, saved_as, takes_sign


class TensorBuffers:
    """For batches of up to `rows` rows.

    weights[i] and inputs[i] are layer i's operands; inputs has one more, the last layer's output, or None where nothing
    reads that. y[i] and z[i] are float32 where the derivative of layer i, or the loss, is taken from them, else None.
    """

    def __init__(self, elements: Elements, network: Network, rows: int, training: bool):
        self.nbytes = 0
        self.elements = elements
        layers = network.layers
        widths = [layer.outputs for layer in layers]
        self.weights = [self._operand(layer.inputs, layer.outputs) for layer in layers]
        self.inputs: list[Any] = [self._operand(rows, layer.inputs) for layer in layers]
        sign = training and takes_sign(layers[-1].activation)
        self.inputs.append(self._operand(rows, layers[-1].outputs) if sign else None)
        saved = [saved_as(layer.activation) if training else None for layer in layers]
        self.y = [self._float32(rows, m) if name == "y" else None for name, m in zip(saved, widths, strict=True)]
        self.z = [self._float32(rows, m) if name == "z" else None for name, m in zip(saved, widths, strict=True)]
        if not training:
            return
        if self.y[-1] is None:
            self.y[-1] = self._float32(rows, widths[-1])
        self.dy = self._float32(rows, widths[-1])
        # A layer's delta and that of the layer below take turns in two places.
        sizes = [max(widths[i::2], default=0) for i in (0, 1)]
        places = [self._operand(rows, size).memory for size in sizes]
        self._deltas = [Operand(elements, rows, m, places[i % 2]) for i, m in enumerate(widths)]
        self._partials = [self._float32(partial_rows(rows), size) for size in sizes]
        counts = [(most_shares(elements, rows, layer.inputs, layer.outputs), layer) for layer in layers]
        room = [count * layer.inputs * layer.outputs for count, layer in counts if count > 1]
        self.sums = self._float32(max(room, default=0), 1)

    def delta(self, i: int) -> tuple[Operand, Any]:
        """Where layer i's delta lies, and its partial sums."""
        return self._deltas[i], self._partials[i % 2]

    def ready(self, n: int) -> None:
        """Make what products of n rows need of memory: Hopper's tensor maps, kept from then on."""
        for w, x, dz in zip(self.weights, self.inputs, self._deltas, strict=False):
            for deep in (True, False):
                w.factor(w.rows, deep)
                x.factor(n, deep)
                dz.factor(n, deep)

    def maps(self) -> list[Any]:
        """The tensor maps that there are, for whom a launch needs after they are forgotten here."""
        return [each for operand in (*self.weights, *self.inputs, *self._deltas) if operand for each in operand.maps()]

    def _operand(self, rows: int, columns: int) -> Operand:
        operand = Operand(self.elements, rows, columns)
        self.nbytes += operand.memory.nbytes
        return operand

    def _float32(self, rows: int, columns: int) -> Any:
        buffer = empty((rows, columns), np.dtype(np.float32))
        self.nbytes += buffer.nbytes
        return buffer
