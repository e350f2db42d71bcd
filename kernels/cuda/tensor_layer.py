"""One layer's three products on tensor cores, by the kernels of kernels/cuda_cpp: operands in, one or two launches.

An `Operand` is a matrix as the tensor cores take it. Its rows are padded to whole 16-byte chunks, which the kernels'
asynchronous copies need; what lies in the padding is never used.
"""

from typing import Any

import numpy as np

from ..contract import ACTIVATIONS
from ..cuda_cpp import layers
from ..cuda_cpp.compile import Program
from ..cuda_cpp.layers import EDGE, MULTIPROCESSORS, Elements, padded
from ..network import Network, Optimizer
from . import cubins
from .memory import address, empty
from .tensor_maps import Parts, matrix

ROWS_OF_SHARE = 512
"""Rows of a batch that a block sums at least, where a weight gradient is cut into shares: 8 or 16 stages."""

NOTHING = np.int64(0)
"""The address of an array that is not given."""

_DEPTH = 64
"""Steps of the sum in one stage of Hopper's kernels, two of the others': shares begin with a stage."""


class Operand:
    """A matrix of up to `rows` x `columns` in `elements.parts` parts, `memory` being uint16[parts, rows, padded]."""

    def __init__(self, elements: Elements, rows: int, columns: int, memory: Any = None):
        self.elements, self.rows, self.columns = elements, rows, columns
        self.stride = padded(columns)
        size = elements.parts * rows * self.stride
        self.memory = empty(size, np.dtype(np.uint16)) if memory is None else memory[:size]
        self._maps: dict[tuple[int, bool], Any] = {}

    @property
    def arguments(self) -> tuple[Any, int, int]:
        """Address, elements from row to row, elements from part to part."""
        return self.memory, self.stride, self.rows * self.stride

    def factor(self, rows: int, deep: bool) -> tuple[Any, int, int]:
        """As a product takes its first `rows` rows, which run along the sum (deep) or across it.

        In the place of the address Hopper's kernels take that of a map of it, which is kept for the next call.
        """
        if not self.elements.hopper:
            return self.arguments
        _, stride, part = self.arguments
        if (rows, deep) not in self._maps:
            if len(self._maps) >= 64:  # batches of ever new sizes
                self._maps.clear()
            code, parts = self.elements.code, self.elements.parts
            described = Parts(code, address(self.memory), parts, rows, self.columns, stride, part)
            self._maps[rows, deep] = matrix(described, deep)
        return self._maps[rows, deep], stride, part

    def maps(self) -> list[Any]:
        """The tensor maps that are kept."""
        return list(self._maps.values())

    @staticmethod
    def none() -> tuple[Any, int, int]:
        """The arguments for one that is not given."""
        return NOTHING, 0, 0


def to_elements(source: Any, order: Any, rows: int, operand: Operand) -> None:
    """Write source[rows, columns], float32, or of `order`[rows] the rows it names, to the first rows of an operand."""
    kind = operand.elements
    fours = rows * -(-operand.columns // 4)
    blocks = min(-(-fours // kind.threads), 65_535)
    arguments = source, NOTHING if order is None else order, rows, operand.columns, *operand.arguments
    _launch(layers.to_elements(kind), "to_elements", (blocks,), kind.threads, arguments)


def matmul(elements: Elements, a: Any, b: Any, out: Any, transpose_a: bool, transpose_b: bool) -> None:
    """out[n, m] = a @ b of float32 matrices, either stored transposed, on operands made for this one product."""
    (n, m), k = out.shape, a.shape[0 if transpose_a else 1]
    factors: list[Any] = []
    for array, deep in ((a, not transpose_a), (b, transpose_b)):
        operand = Operand(elements, *array.shape)
        to_elements(array, None, len(array), operand)
        factors += operand.factor(len(array), deep)
    how = {(False, False): "", (True, False): "_transposed_a", (False, True): "_transposed_b"}
    name = f"matmul{how.get((transpose_a, transpose_b), '_transposed_both')}"
    kind = elements.tiled(n, m)
    _product(kind, layers.matmul(kind), name, (kind.tiles(n, m),), (*factors, n, k, m, out))


def linear_forward(
    x: Operand, w: Operand, n: int, b: Any, activation: str, y: Any, z: Any, out: Operand | None
) -> None:
    """activation(x[n, k] @ w[k, m] + b[m]) to what is given of y[n, m], z[n, m], float32, and the operand `out`."""
    k, m = w.rows, w.columns
    results = (*_rows(y, m), *_rows(z, m), *(Operand.none() if out is None else out.arguments))
    kind = x.elements.tiled(x.rows, m)
    program = layers.linear_forward(kind, activation)
    factors = *x.factor(n, True), *w.factor(k, False)
    _product(kind, program, "linear_forward", (kind.tiles(n, m),), (*factors, n, k, m, b, *results))


def input_gradient(dz: Operand, w: Operand, n: int, activation: str, saved: Any, out: Operand, partials: Any) -> None:
    """The delta of the layer below, dz[n, m] @ w[k, m].T * activation'(saved), to `out`, its sums to `partials`."""
    k, m = w.rows, w.columns
    results = *_saved(activation, saved, k), NOTHING, *out.arguments, partials
    kind = dz.elements.tiled(dz.rows, k)
    program = layers.input_gradient(kind, activation)
    factors = *dz.factor(n, True), *w.factor(k, True)
    _product(kind, program, "input_gradient", (kind.tiles(n, k),), (*factors, n, k, m, *results))


def output_delta(dy: Any, scale: float, n: int, activation: str, saved: Any, out: Operand, partials: Any) -> None:
    """The last layer's delta, scale * dy[n, m] * activation'(saved), to `out`, its sums to `partials`."""
    m = out.columns
    arguments = dy, np.float32(scale), n, m, *_saved(activation, saved, m), *out.arguments, partials
    kind = out.elements.tiled(out.rows, m)
    program = layers.input_gradient(kind, activation)
    _launch(program, "output_delta", (kind.tiles(n, m),), kind.threads, arguments, _scratch(kind))


def weight_update(
    x: Operand,
    dz: Operand,
    n: int,
    scale: float,
    w: Any,
    b: Any,
    memory: tuple[tuple[Any, Any], ...],
    operand: Operand | None,
    partials: Any,
    sums: Any,
    optimizer: Optimizer | None,
    numbers: Any,
) -> None:
    """Step w[k, m] and b[m] along x[n, k].T @ dz[n, m] / scale and the sums in `partials`, and w's operand with w.

    `memory` is the optimiser's of (w, b), a pair for each slot; `sums` has room for as many gradients as there are
    shares, where that is more than one. `numbers`, float32 on the device, are optimizers.settings of this update.
    Without an optimiser w and b receive the gradients.
    """
    k, m = x.columns, dz.columns
    slots = [*memory, *[(NOTHING, NOTHING)] * (2 - len(memory))]
    (w_first, b_first), (w_second, b_second) = slots
    step = (
        w, w_first, w_second, *(Operand.none() if operand is None else operand.arguments), partials,
        b, b_first, b_second, np.float32(1 / scale), NOTHING if optimizer is None else numbers,
    )  # fmt: skip
    kind = x.elements.tiled(k, m)
    program = layers.weight_update(kind, None if optimizer is None else optimizer.name)
    grid, count = kind.tiles(k, m), shares(x.elements, n, k, m)
    product = *x.factor(n, False), *dz.factor(n, False), n, k, m
    if count == 1:
        _product(kind, program, "weight_update", (grid,), (*product, *step))
    else:
        _product(kind, program, "weight_partials", (grid, count), (*product, _rows_of_share(n, count), sums))
        _launch(program, "apply_update", (grid,), kind.threads, (sums, count, n, k, m, *step), _scratch(kind))


def load_kernels(elements: Elements, network: Network, rows: int, optimizer: Optimizer | None) -> None:
    """Compile and load all that a step on up to `rows` rows launches, so that it fails, if it does, before the step."""
    cubins.kernel(layers.to_elements(elements), "to_elements", 0)
    below = None
    for layer in network.layers:
        kind = elements.tiled(rows, layer.outputs)
        cubins.kernel(layers.linear_forward(kind, layer.activation), "linear_forward", kind.shared_bytes)
        if below is not None:
            kind = elements.tiled(rows, layer.inputs)
            cubins.kernel(layers.input_gradient(kind, below), "input_gradient", kind.shared_bytes)
        below = layer.activation
        kind = elements.tiled(layer.inputs, layer.outputs)
        program = layers.weight_update(kind, None if optimizer is None else optimizer.name)
        for name in ("weight_update", "weight_partials"):
            cubins.kernel(program, name, kind.shared_bytes)
        cubins.kernel(program, "apply_update", _scratch(kind))
    kind = elements.tiled(rows, network.layers[-1].outputs)
    cubins.kernel(layers.input_gradient(kind, network.layers[-1].activation), "output_delta", _scratch(kind))


def shares(elements: Elements, n: int, k: int, m: int) -> int:
    """Into how many shares of its n rows a weight gradient [k, m] is cut, by shape alone."""
    return -(-n // _rows_of_share(n, most_shares(elements, n, k, m)))


def most_shares(elements: Elements, rows: int, k: int, m: int) -> int:
    """How many shares those are at most in batches of up to `rows` rows; fewer rows can have more shares than more."""
    kind = elements.tiled(k, m)
    return max(1, min(MULTIPROCESSORS * kind.together // kind.tiles(k, m), rows // ROWS_OF_SHARE))


def partial_rows(rows: int) -> int:
    """Rows of the partial sums of a delta."""
    return -(-rows // EDGE)


def takes_sign(activation: str) -> bool:
    """Whether the derivative is taken from the output's operand."""
    return ACTIVATIONS[activation].by_sign and activation != "identity"


def saved_as(activation: str) -> str | None:
    """Which float32 array the derivative is taken from: "y", "z", or None."""
    if ACTIVATIONS[activation].by_sign:
        return None
    return "z" if ACTIVATIONS[activation].saved == "preactivation" else "y"


def _scratch(elements: Elements) -> int:
    """Bytes of shared memory for what goes over a matrix as an epilogue does: rows.cuh's SCRATCH_BYTES."""
    return elements.threads // 32 * EDGE * 4


def _rows_of_share(n: int, count: int) -> int:
    return -(-n // (count * _DEPTH)) * _DEPTH


def _rows(array: Any, columns: int) -> tuple[Any, int]:
    """A float32 matrix, if it is given, and the elements from row to row."""
    return (NOTHING, 0) if array is None else (array, columns)


def _saved(activation: str, saved: Any, columns: int) -> tuple[Any, int]:
    """What the derivative is taken from, and the elements from row to row."""
    if takes_sign(activation):
        return saved.memory, saved.stride
    return _rows(saved, columns)


def _product(kind: Elements, program: Program, name: str, grid: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
    """A kernel that multiplies: all threads of a block and all its shared memory."""
    _launch(program, name, grid, kind.block_threads, arguments, kind.shared_bytes)


def _launch(
    program: Program, name: str, grid: tuple[int, ...], threads: int, arguments: tuple[Any, ...], shared_bytes: int = 0
) -> None:
    """One kernel on the current stream; Python's integers are 64-bit ones to it."""
    values = tuple(np.int64(value) if isinstance(value, int) else value for value in arguments)
    cubins.kernel(program, name, shared_bytes)(grid, (threads,), values, shared_mem=shared_bytes)
