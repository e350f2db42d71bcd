"""What a network's forward and training passes need besides their arguments, allocated once."""

from collections.abc import Callable

from ..network import LayerWorkspace, Network, aligned_zeros
from .halving import HalfProducts
from .matmul import matmul
from .splitting import products_of


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


class Workspace(LayerWorkspace):
    """A LayerWorkspace in NumPy's memory, and what training needs for the gradients of all parameters.

    `parameters`, and for each layer `inputs` and `deltas`, are where a network of dtype bfloat16 keeps the rounded
    operands of its products; None in other networks. `product` is how the network multiplies.
    """

    _new = staticmethod(aligned_zeros)

    def __init__(self, network: Network, rows: int, training: bool):
        super().__init__(network, rows, training)
        layers, dtype = network.layers, network.dtype
        held = rows if training else 0
        self.gradient = self._allocate(network.size if training else 0, dtype)
        self.scratch = self._allocate(network.size if training else 0, dtype)
        self.parameters = self._allocate(network.size, dtype) if network.bfloat16 else None
        self.inputs = [self._allocate((rows, layer.inputs), dtype) if network.bfloat16 else None for layer in layers]
        self.deltas = [self._allocate((held, layer.outputs), dtype) if network.bfloat16 else None for layer in layers]
        self.product: Callable[..., None] = matmul
        if network.high:
            products = products_of(network, rows, training)
            self.nbytes += products.nbytes
            self.product = products.matmul
        if network.float16:
            halves = HalfProducts(network, rows, training)
            self.nbytes += halves.nbytes
            self.product = halves.matmul
        self._batch = Batch(self, rows)

    def batch(self, n: int) -> Batch:
        """Views of n rows; those of the last n asked for are kept."""
        if self._batch.n != n:
            self._batch = Batch(self, n)
        return self._batch
