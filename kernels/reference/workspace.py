"""What a network's forward and training passes need besides their arguments, allocated once."""

import numpy as np

from ..network import Network, aligned_zeros


class Batch:
    """The buffers of a workspace as n rows see them: C-contiguous views [n, width], one a layer."""

    def __init__(self, workspace: "Workspace", n: int):
        self.n = n
        self.x = workspace.x[:n]
        self.labels = workspace.labels[:n]
        self.target = workspace.target[:n]
        self.z = [None if z is None else z[:n] for z in workspace.z]
        self.y = [y[:n] for y in workspace.y]
        self.dy = [dy[:n] for dy in workspace.dy]
        self.inputs = [None if x is None else x[:n] for x in workspace.inputs]
        self.deltas = [None if dz is None else dz[:n] for dz in workspace.deltas]


class Workspace:
    """Buffers for batches of up to `rows` rows: every layer's output and, to train, all that the way back needs.

    `parameters`, and for each layer `inputs` and `deltas`, are where a network of dtype bfloat16 keeps the rounded
    operands of its products; None in other networks.
    """

    def __init__(self, network: Network, rows: int, training: bool):
        self.rows = rows
        self.nbytes = 0
        layers = network.layers
        dtype = network.dtype
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
        self.gradient = self._allocate(network.size if training else 0, dtype)
        self.scratch = self._allocate(network.size if training else 0, dtype)
        self.parameters = self._allocate(network.size, dtype) if network.bfloat16 else None
        self.inputs = [self._allocate((rows, layer.inputs), dtype) if network.bfloat16 else None for layer in layers]
        self.deltas = [self._allocate((held, layer.outputs), dtype) if network.bfloat16 else None for layer in layers]
        self._batch = Batch(self, rows)

    def _allocate(self, shape: int | tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        buffer = aligned_zeros(shape, dtype)
        self.nbytes += buffer.nbytes
        return buffer

    def batch(self, n: int) -> Batch:
        """Views of n rows; those of the last n asked for are kept."""
        if self._batch.n != n:
            self._batch = Batch(self, n)
        return self._batch
