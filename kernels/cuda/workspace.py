"""What a network's forward and training passes need on the device besides their arguments, allocated once."""

from ..network import LayerWorkspace, Network
from .memory import empty
from .reduction import partial_sums


class Workspace(LayerWorkspace):
    """A LayerWorkspace on the device, and the partial sums of a loss."""

    _new = staticmethod(empty)

    def __init__(self, network: Network, rows: int, training: bool):
        super().__init__(network, rows, training)
        self.partials = partial_sums()
        self.nbytes += self.partials.nbytes
