"""What the programs of whole networks have in common."""

import numpy as np

from ..contract import ACTIVATIONS
from ..network import Network

NULL = np.uintp(0)
"""The address of nothing: CuPy takes None for no argument at all."""


def macros(network: Network) -> dict[str, int | str]:
    """network.cuh's: the widths, and the activations by their codes."""
    return {
        "WIDTHS": ",".join(map(str, network.widths)),
        "ACTIVATIONS": ",".join(str(ACTIVATIONS[name].code) for name in network.activations),
    }
