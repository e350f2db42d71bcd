"""Which networks forward_fused.cu takes, in which blocks of rows, and how it is called."""

from typing import Any, NamedTuple

import numpy as np

from ..network import Network
from .compile import ARCHITECTURES, SHARED_LIMITS, Program, why_stack
from .networks import macros
from .resident import pitch, whole

THREADS = 256
DEPTH = 16
"""Rows of a weight matrix that travel together: 512 cycles of multiply-adds, at 64 rows and 64 columns, meanwhile."""

STAGES = 3

WIDEST, MOST_INPUTS = 256, 1024
"""Of a layer's outputs, whose sums lie in registers; and of the inputs, of which a block holds its rows."""

HEIGHTS = (64, 32, 16, 4)
"""Rows of a block: as many as give every multiprocessor a block, since each reads all weights."""


class Fused(NamedTuple):
    """How a network is run forward: the program, rows of a block, blocks of the grid."""

    program: Program
    rows: int
    blocks: int


def choose(
    network: Network, rows: int, architecture: str | None, shared_limit: int, multiprocessors: int
) -> Fused | None:
    """The way for `rows` rows on a device with so many multiprocessors; None where no block takes the network."""
    too_wide = max(network.widths[1:]) > WIDEST or network.widths[0] > MOST_INPUTS
    if architecture is None or network.dtype != np.float32 or network.rounds or too_wide or rows < 1:
        return None
    fitting = [each for each in HEIGHTS if _shared_bytes(network, each) <= shared_limit]
    if not fitting:
        return None
    height = next((each for each in fitting if rows > each * (multiprocessors - 1)), fitting[-1])
    together = max(1, min(4, shared_limit // _shared_bytes(network, height)))
    return Fused(program(network, height), height, min(-(-rows // height), multiprocessors * together))


def program(network: Network, height: int) -> Program:
    """For blocks of so many rows."""
    defines: dict[str, int | str] = {
        **macros(network),
        "ROWS": height,
        "THREADS": THREADS,
        "DEPTH": DEPTH,
        "STAGES": STAGES,
    }
    shared_bytes = _shared_bytes(network, height)
    return Program(
        "forward_fused",
        ("forward_fused",),
        tuple(defines.items()),
        tuple(each for each in ARCHITECTURES if shared_bytes <= SHARED_LIMITS[each]),
        threads=THREADS,
        shared_bytes=shared_bytes,
        stack_because=why_stack(network.activations),
    )


def arguments(parameters: Any, x: Any, out: Any) -> tuple[Any, ...]:
    """The kernel's arguments for x[n, inputs]."""
    return parameters, x, out, np.int64(len(x))


def _shared_bytes(network: Network, height: int) -> int:
    """As the layout in forward_fused.cu adds up."""
    pitches = list(map(pitch, network.widths))
    values = height * (max(pitches[::2]) + max(pitches[1::2]))
    return 4 * (values + STAGES * DEPTH * max(pitches[1:]) + sum(map(whole, network.widths[1:])))
