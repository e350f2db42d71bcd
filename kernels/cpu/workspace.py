"""Everything a run needs besides its arguments: buffers, and the integer tables by which compiled code finds them."""

import numpy as np

from ..contract import ACTIVATIONS, LOSSES
from ..network import Network, aligned_zeros
from .losses import MOST_CHUNKS
from .product import PANEL, pack_capacity, scratch_size
from .simd import VECTOR_BYTES
from .team import get_num_threads

INPUTS, OUTPUTS, ACTIVATION, WEIGHTS, BIAS, OUTPUT, SAVED, LAYER_FIELDS = range(8)
"""Places in a layer's row of `Workspace.layers`: widths, activation code, offsets in the flat buffer, and the addresses
of y[rows, outputs] and of what the derivative needs (y itself, or z)."""

(
    LAYERS, LOSS, ROWS, BATCH_X, BATCH_TARGET, BATCH_LABELS, GRADIENT0, GRADIENT1, PARTIAL,
    PACKED, CAPACITY, SCRATCH, ZEROS, PLAN_FIELDS,
) = range(14)  # fmt: skip
"""Places in `Workspace.plan`: counts, codes, addresses. GRADIENT0 and GRADIENT1 hold dJ/dz of even and odd layers."""


def address(array: np.ndarray) -> int:
    """The address of an array's first byte: compiled code is specialised on arrays, read-only or not, but not on it."""
    return array.__array_interface__["data"][0]


class Products:
    """What `product` needs besides its operands: room for packed panels, each thread's block, zeros to start from."""

    def __init__(self, dtype: np.dtype, shapes: list[tuple[int, int]]):
        """`shapes` are the (depth, columns) of every B that will be multiplied."""
        self.capacity = pack_capacity(shapes, dtype.itemsize)
        self.packed = aligned_zeros(self.capacity, dtype)
        self.scratch = aligned_zeros(get_num_threads() * scratch_size(dtype.itemsize), dtype)
        self.zeros = aligned_zeros(PANEL * VECTOR_BYTES // dtype.itemsize, dtype)
        self.threads = get_num_threads()
        self.nbytes = self.packed.nbytes + self.scratch.nbytes + self.zeros.nbytes


class Workspace:
    """Buffers for batches of up to `rows` rows of a network, allocated once; without `training` only for `forward`."""

    def __init__(self, network: Network, rows: int, training: bool):
        dtype, widths = network.dtype, network.widths
        self.rows = rows
        self._buffers: list[np.ndarray] = []
        self.layers = np.zeros((len(network.layers), LAYER_FIELDS), np.int64)
        self.plan = np.zeros(PLAN_FIELDS, np.int64)
        for index, layer in enumerate(network.layers):
            output = self._new(rows * layer.outputs, dtype)
            separate = training and layer.saves_preactivation
            saved = self._new(rows * layer.outputs, dtype) if separate else output
            code = ACTIVATIONS[layer.activation].code
            self.layers[index] = layer.inputs, layer.outputs, code, layer.w, layer.b, output, saved
        shapes = [
            pair for layer in network.layers for pair in ((layer.inputs, layer.outputs), (layer.outputs, layer.inputs))
        ]
        if training:
            shapes += [(rows, layer.outputs) for layer in network.layers]
            self.plan[BATCH_X] = self._new(rows * widths[0], dtype)
            self.plan[BATCH_TARGET] = self._new(rows * widths[-1], dtype)
            self.plan[BATCH_LABELS] = self._new(rows, np.dtype(np.int64))
            self.plan[GRADIENT0] = self._new(rows * max(widths[1::2]), dtype)
            self.plan[GRADIENT1] = self._new(rows * max(widths[2::2], default=0), dtype)
            self.plan[PARTIAL] = self._new(MOST_CHUNKS, np.dtype(np.float64))
        self.products = Products(dtype, shapes)
        self.plan[LAYERS], self.plan[LOSS], self.plan[ROWS] = len(network.layers), LOSSES[network.loss].code, rows
        self.plan[PACKED], self.plan[CAPACITY] = address(self.products.packed), self.products.capacity
        self.plan[SCRATCH], self.plan[ZEROS] = address(self.products.scratch), address(self.products.zeros)
        self.nbytes = sum(buffer.nbytes for buffer in self._buffers) + self.products.nbytes

    def _new(self, count: int, dtype: np.dtype) -> int:
        """The address of a new buffer of `count` elements."""
        self._buffers.append(aligned_zeros(count, dtype))
        return address(self._buffers[-1])
