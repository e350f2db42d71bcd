"""What a network's forward and training passes need on the device besides their arguments, allocated once."""

from functools import cached_property
from typing import Any

import numpy as np

from ..network import LayerWorkspace, Network
from . import forward_backward_fused
from .memory import empty
from .reduction import partial_sums
from .steps import Steps
from .tensor_cores import elements_of
from .tensor_workspace import TensorBuffers


class Workspace(LayerWorkspace):
    """A LayerWorkspace on the device, and the partial sums of a loss and of the squared weights.

    A network whose products run on tensor cores has the layers' buffers in `tensor`, made when first asked for where
    forward_backward_fused trains batches of `rows` rows and does without. nbytes counts what has been made. To train
    there is the place of a step's own values, `steps`.
    """

    _new = staticmethod(empty)

    def __init__(self, network: Network, rows: int, training: bool):
        self._elements = elements_of(network)
        self._network, self._training, self._sums = network, training, (None, None)
        fused = forward_backward_fused.choice(network, rows, labels=False) if training else None
        if self._elements is None:
            super().__init__(network, rows, training)
        else:
            self.rows, self.nbytes = rows, 0
        self.partials = partial_sums()
        self.squares = empty(len(network.layers), np.dtype(float))
        self.nbytes += self.partials.nbytes + self.squares.nbytes
        if training:
            self.steps = Steps(rows, network.dtype)
            self.nbytes += self.steps.nbytes
        if fused is not None:
            self.sums(fused.clusters)
        elif self._elements is not None:
            _ = self.tensor

    @cached_property
    def tensor(self) -> TensorBuffers | None:
        """The layers' buffers for tensor cores, beside them places for a batch's targets; None where there are none."""
        if self._elements is None:
            return None
        held = self.rows if self._training else 0
        buffers = TensorBuffers(self._elements, self._network, self.rows, self._training)
        self.nbytes += buffers.nbytes
        self.target = self._allocate((held, self._network.widths[-1]), self._network.dtype)
        self.labels = self._allocate((held,), np.dtype(np.int64))
        return buffers

    def sums(self, clusters: int) -> tuple[Any, Any]:
        """Room for forward_backward_fused's gradients and terms of J from so many clusters."""
        if self._sums[1] is None or len(self._sums[1]) < clusters:
            partials = self._allocate((clusters, self._network.size), np.dtype(np.float32))
            self._sums = partials, self._allocate((clusters,), np.dtype(float))
        return self._sums
