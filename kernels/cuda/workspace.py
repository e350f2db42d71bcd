"""What a network's forward and training passes need on the device besides their arguments, allocated once."""

from typing import Any

import numpy as np

from ..network import Network
from .memory import empty
from .reduction import partial_sums


class Workspace:
    """Buffers for batches of up to `rows` rows: every layer's output and, to train, all that the way back needs."""

    def __init__(self, network: Network, rows: int, training: bool):
        self.rows = rows
        self.nbytes = 0
        layers, dtype = network.layers, network.dtype
        held = rows if training else 0

        # The last layer's output has a place of its own only in training; `forward` writes it to its `out`.
        self.y = [self._allocate((rows, layer.outputs), dtype) for layer in layers[:-1]]
        self.y.append(self._allocate((held, layers[-1].outputs), dtype))
        self.z = [
            self._allocate((rows, layer.outputs), dtype) if training and layer.saves_preactivation else None
            for layer in layers
        ]
        self.dy = [self._allocate((held, layer.outputs), dtype) for layer in layers]
        self.x = self._allocate((held, layers[0].inputs), dtype)
        self.target = self._allocate((held, layers[-1].outputs), dtype)
        self.labels = self._allocate((held,), np.dtype(np.int64))
        self.partials = partial_sums()
        self.nbytes += self.partials.nbytes

    def _allocate(self, shape: tuple[int, ...], dtype: np.dtype) -> Any:
        buffer = empty(shape, dtype)
        self.nbytes += buffer.nbytes
        return buffer
