"""Which networks forward_backward_fused.cu takes, in which tiles of rows by how many blocks, and how it is called.

A step is two launches: gradients of the batch, summed on chip by each block or cluster over its tiles of rows; and
apply_gradients, which adds them up and steps the parameters.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from ..contract import ACTIVATIONS, LOSSES, OPTIMIZERS
from ..network import Network
from .compile import ARCHITECTURES, SHARED_LIMITS, Program, has_clusters
from .networks import NULL, macros

WIDEST = 128
"""Of the layers, the samples included."""

EDGE = 16
"""Rows and columns of a tile, as warp_tiles.cuh has them."""

HEIGHTS = range(16, 129, 16)
"""Rows that a block may take at a time."""

SHAPES = ((128, 1), (256, 1), (256, 2), (256, 4), (256, 8))
"""Threads of a block, and blocks of a cluster, which shares the columns: a block need not hold all gradients."""

MOST_SUMS, MOST_WITH_A_PRODUCT = 144, 192
"""Registers of a thread that may hold gradients, and with them the largest product of a tile's rows: of 255, beside the
operands and the addresses. Six layers and more may still spill some tens of bytes."""

APPLY_THREADS, APPLY_SHARED_BYTES, APPLIED = 256, 4 * 256, 32
"""Of apply_gradients: threads of a block, their sums, and the parameters that they step."""

# The estimate of a step, in cycles of an SM; see kernels/cuda/README.md. To be measured.
_CYCLES_A_PRODUCT = 4  # of a warp's 16 x 16 x 16, at 1024 multiply-adds a cycle; as many to load one operand of it
_CYCLES_AN_ELEMENT = 2  # of an epilogue, for each warp: six instructions of relu in the machine code, four a cycle
_CYCLES_A_BARRIER, _CYCLES_A_CLUSTERS_BARRIER = 150, 400
_CYCLES_OF_SAMPLES = 1000  # from the L2 cache, by an order
_PARAMETERS_A_CYCLE = 6  # from and to the L2 cache, a block's at its start and at its end
_BYTES_A_CYCLE = 12  # of memory, for each SM: what layer by layer waits for
_CYCLES_A_LAUNCH = 4300  # of those, three a layer and a few for the batch


class Grid(NamedTuple):
    """Warps down and across a product, and 16 x 16 tiles down and across of each."""

    down: int
    across: int
    tall: int
    wide: int


class FusedTraining(NamedTuple):
    """How a network is trained: the program, rows of a tile, blocks of a cluster, clusters of the grid."""

    program: Program
    rows: int
    blocks: int
    clusters: int
    cycles: float

    @property
    def kernel(self) -> str:
        """For a plan's text."""
        where = "a block" if self.blocks == 1 else f"a cluster of {self.blocks} blocks"
        return (
            f"forward_backward_fused: two launches a step, {self.rows} rows at a time in {where} of "
            f"{self.program.threads} threads, {self.program.shared_bytes / 1024:.0f} KiB of shared memory each"
        )


def choose(
    network: Network, rows: int, labels: bool, architecture: str | None, shared_limit: int, multiprocessors: int
) -> FusedTraining | None:
    """The fastest way for batches of `rows` rows, by an estimate; None where that is layer by layer, or none fits.

    labels: targets are classes. `architecture` as compile.architecture says; shared_limit: bytes a block may have.
    """
    if architecture is None or not network.bfloat16 or max(network.widths) > WIDEST or rows < 1:
        return None
    best: tuple[float, int, int, int, int] | None = None
    for threads, blocks in SHAPES:
        sums = sums_of_a_thread(network, threads, blocks)
        if (blocks > 1 and not has_clusters(architecture)) or sums > MOST_SUMS:
            continue
        for height in HEIGHTS:
            shared_bytes = _shared_bytes(network, height, threads, blocks)
            grids = [grid(height // EDGE, _share(m, blocks), threads // 32) for m in network.widths]
            product = max(8 * each.tall * each.wide for each in grids)
            if shared_bytes > shared_limit or sums + product > MOST_WITH_A_PRODUCT:
                continue
            together = max(1, min(256 // threads, shared_limit // (shared_bytes + 1024)))
            tiles = -(-rows // height)
            clusters = min(tiles, max(1, multiprocessors * together // blocks))
            cycles = _cycles(network, tiles, height, threads, blocks, clusters, together)
            if best is None or cycles < best[0]:
                best = cycles, threads, blocks, height, clusters
    if best is None or best[0] > _cycles_by_layers(network, rows, multiprocessors):
        return None
    cycles, threads, blocks, height, clusters = best
    return FusedTraining(program(network, labels, height, threads, blocks), height, blocks, clusters, cycles)


def program(network: Network, labels: bool, height: int, threads: int, blocks: int) -> Program:
    """Kernel forward_backward_fused."""
    defines: dict[str, int | str] = {
        **macros(network),
        "LOSS": LOSSES[network.loss].code,
        "LABELS": int(labels),
        "ROWS": height,
        "THREADS": threads,
        "BLOCKS": blocks,
    }
    shared_bytes = _shared_bytes(network, height, threads, blocks)
    architectures = tuple(
        each for each in ARCHITECTURES if shared_bytes <= SHARED_LIMITS[each] and (blocks == 1 or each == "sm_90a")
    )
    return Program(
        "forward_backward_fused",
        ("forward_backward_fused",),
        tuple(defines.items()),
        architectures,
        threads=threads,
        shared_bytes=shared_bytes,
        instructions=tuple((each, opcode) for each in architectures for opcode in ("HMMA", "LDSM")),
    )


def applying(network: Network, optimizer: str) -> Program:
    """Kernel apply_gradients."""
    defines: dict[str, int | str] = {
        "WIDTHS": macros(network)["WIDTHS"],
        "LOSS": LOSSES[network.loss].code,
        "OPTIMIZER": OPTIMIZERS[optimizer].code,
    }
    return Program(
        "apply_gradients",
        ("apply_gradients",),
        tuple(defines.items()),
        threads=APPLY_THREADS,
        shared_bytes=APPLY_SHARED_BYTES,
    )


def arguments(parameters: Any, x: Any, target: Any, order: Any, n: int, partials: Any, terms: Any) -> tuple[Any, ...]:
    """forward_backward_fused's, for the first n rows of x and target, or those that `order` names if it is not None."""
    return parameters, x, target, NULL if order is None else order, np.int64(n), partials, terms


def applying_arguments(
    parameters: Any, state: Any, partials: Any, terms: Any, clusters: int, n: int, value: Any, settings: Any
) -> tuple[Any, ...]:
    """apply_gradients', J to value[0]; `settings` as optimizers.settings gives."""
    slots = [*state, *[NULL] * (2 - len(state))]
    return parameters, *slots, partials, terms, np.int64(clusters), np.int64(n), value, *map(np.float32, settings)


def applying_grid(network: Network) -> tuple[int]:
    """Blocks of apply_gradients."""
    return (-(-network.size // APPLIED),)


def sums_of_a_thread(network: Network, threads: int, blocks: int) -> int:
    """Registers of a thread that hold gradients of weights."""
    grids = [grid(_tiles(k), _share(m, blocks), threads // 32) for k, m in pairwise(network.widths)]
    return sum(8 * each.tall * each.wide for each in grids)


def grid(rows: int, columns: int, warps: int) -> Grid:
    """As warp_tiles.cuh cuts a product of so many tiles among its warps."""
    downs = [1 << i for i in range(warps.bit_length()) if 1 << i <= warps]
    grids = [Grid(down, warps // down, -(-rows // down), -(-columns // (warps // down))) for down in downs]
    return min(grids, key=lambda each: each.tall * each.wide + each.tall + each.wide)


def _tiles(width: int) -> int:
    return -(-width // EDGE)


def _share(width: int, blocks: int) -> int:
    """Tiles of columns that each block of a cluster computes."""
    return -(-_tiles(width) // blocks)


def _pitch(width: int) -> int:
    """Elements from row to row, as warp_tiles.cuh says."""
    return EDGE * _tiles(width) + 8


def _keeps(activation: str) -> bool:
    """Whether a hidden layer's derivative is taken from float32."""
    return not ACTIVATIONS[activation].by_sign


def _shared_bytes(network: Network, height: int, threads: int, blocks: int) -> int:
    """As the layout in forward_backward_fused.cu adds up."""
    widths, layers, warps = network.widths, network.layers, threads // 32
    grids = [grid(height // EDGE, _share(width, blocks), warps) for width in widths[1:]]
    weights = sum(2 * EDGE * _tiles(k) * _pitch(EDGE * _share(m, blocks)) for k, m in pairwise(widths))
    if blocks > 1:
        weights += sum(2 * EDGE * _share(k, blocks) * _pitch(m) for k, m in list(pairwise(widths))[1:])
    inputs = sum(2 * height * _pitch(width) for width in widths)
    kept = sum(
        4 * threads * each.tall * each.wide * 8
        for each, layer in zip(grids[:-1], layers, strict=False)
        if _keeps(layer.activation)
    )
    shares = [4 * EDGE * _share(m, blocks) for m in widths[1:]]
    biases = sum(shares) + sum(each.down * share for each, share in zip(grids[:-1], shares, strict=False))
    biases += 4 * EDGE * _tiles(widths[-1])
    outputs = 4 * height * (widths[-1] | 1) * (1 + layers[-1].saves_preactivation)
    return -(-(weights + inputs + kept + biases + outputs) // 8) * 8 + 8 * warps


def _cycles(
    network: Network, tiles: int, height: int, threads: int, blocks: int, clusters: int, together: int
) -> float:
    """About what a step takes, where so many blocks share an SM."""
    warps, high, widths = threads // 32, height // EDGE, network.widths
    busy, barriers = 0.0, 3
    for i, (k, m) in enumerate(pairwise(widths)):
        products = [
            (grid(high, _share(m, blocks), warps), _tiles(k)),
            (grid(_tiles(k), _share(m, blocks), warps), high),
        ]
        below = grid(high, _share(k, blocks), warps)
        products += [(below, _tiles(m))] if i > 0 else []
        busy += sum(warps * steps * _CYCLES_A_PRODUCT * max(g.tall * g.wide, g.tall + g.wide) for g, steps in products)
        epilogues = products[0][0].tall * products[0][0].wide + (below.tall * below.wide if i > 0 else 0)
        busy += warps * 8 * _CYCLES_AN_ELEMENT * epilogues
        barriers += 1 if i == 0 else 3
    waiting = _CYCLES_OF_SAMPLES + barriers * (_CYCLES_A_BARRIER if blocks == 1 else _CYCLES_A_CLUSTERS_BARRIER)
    rounds = -(-tiles // clusters)
    a_round = max(busy * together, busy + waiting)
    return rounds * a_round + together * network.size * (1 + 1 / blocks) / _PARAMETERS_A_CYCLE


def _cycles_by_layers(network: Network, rows: int, multiprocessors: int) -> float:
    """About what a step takes layer by layer: its launches, and what they read and write of memory.

    A layer's input is read for y, the derivative below and the weight gradient, its delta written and read twice.
    """
    launches = (3 * len(network.layers) + 4) * _CYCLES_A_LAUNCH
    per_row = sum(8 * layer.inputs + (6 + 8 * _keeps(layer.activation)) * layer.outputs for layer in network.layers)
    return launches + rows * per_row / (multiprocessors * _BYTES_A_CYCLE)
