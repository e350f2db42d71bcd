"""Everything a run needs besides its arguments: buffers, and the tables by which compiled code finds them."""

import threading

import numpy as np

from ..contract import ACTIVATIONS, LOSSES, forward_flops
from ..cores import get_num_threads
from ..network import Network, Optimizer, aligned_zeros
from .across import block_rows, gradient_row, most_chunks, padded, padded_rows, runs_across
from .compile import called
from .losses import MOST_CHUNKS
from .optimizers import settings_of
from .product import BROAD, pack_capacity, scratch_size
from .simd import VECTOR_BYTES, address_of, pointer
from .tables import (
    ARENA_SIZE,
    ARENAS,
    BATCH_LABELS,
    BATCH_TARGET,
    BATCH_X,
    BLOCK,
    CAPACITY,
    COPIES,
    COPY_SIZE,
    FACTOR,
    FACTOR0,
    FACTOR1,
    GRADIENT,
    GRADIENT0,
    GRADIENT1,
    GRADIENT_ROW,
    LAYER_FIELDS,
    LAYERS,
    LOSS,
    PACKED,
    PARTIAL,
    PLAN_FIELDS,
    ROUNDED,
    ROWS,
    SCRATCH,
    SIZE,
    ZEROS,
)
from .team import PARALLEL_BYTES, PARALLEL_FLOPS

FORWARD_ROWS = 256
"""Rows that `forward` takes at a time in a training workspace that has no row-major buffers for whole batches."""


def address(array: np.ndarray) -> int:
    """The address of an array's first byte: compiled code is specialised on arrays, read-only or not, but not on it."""
    return array.__array_interface__["data"][0]


@called
def quick_address(array):
    """The address of an array's first byte, six times as soon; compiled for each type of array it is called with."""
    return address_of(pointer(array))


class Products:
    """What `product` needs besides its operands: room for packed panels, each thread's block, zeros to start from.

    `asked` are the shapes last asked for; `job` is kept for `matmul`.
    """

    def __init__(self, dtype: np.dtype, shapes: list[tuple[int, int]]):
        """`shapes` are the (depth, columns) of every B that will be multiplied."""
        self.asked = shapes
        self.capacity = pack_capacity(shapes, dtype.itemsize)
        self.packed = aligned_zeros(self.capacity, dtype)
        self.scratch = aligned_zeros(get_num_threads() * scratch_size(dtype.itemsize), dtype)
        self.zeros = aligned_zeros(BROAD * VECTOR_BYTES // dtype.itemsize, dtype)
        self.threads = get_num_threads()
        self.addresses = address(self.zeros), address(self.packed), self.capacity, address(self.scratch)
        self.job = np.array((*self.addresses, *[0] * 10), np.int64)
        self.job_address = address(self.job)
        self.nbytes = self.packed.nbytes + self.scratch.nbytes + self.zeros.nbytes


_kept = threading.local()


def products_for(dtype: np.dtype, shapes: list[tuple[int, int]], threads: int | None = None) -> Products:
    """The calling thread's Products for a single operation: kept, since new memory costs more than a small product.

    `threads` is how many will use them at most; None for as many as any operation may.
    """
    kept = _kept.__dict__
    products = kept.get(dtype.char)
    if products is not None and products.threads >= (threads or get_num_threads()):
        if shapes == products.asked:
            return products
        if products.capacity >= pack_capacity(shapes, dtype.itemsize):
            products.asked = shapes
            return products
    products = kept[dtype.char] = Products(dtype, shapes)
    return products


class Workspace:
    """Buffers for batches of up to `rows` rows of a network, allocated once; without `training` only for `forward`.

    `tables` are the addresses of the layers' table and the plan that `forward` and row-major training read; `across` is
    the same for training a network that runs across the batch, else None. `forward` keeps its job for the
    `parameters` it had last, and shares no call of up to `rows_alone` rows. Training can employ `most_members`;
    `gradients` writes its loss to `value`.
    """

    def __init__(self, network: Network, rows: int, training: bool):
        dtype, widths, layers = network.dtype, network.widths, network.layers
        self.rows = rows
        self._buffers: list[np.ndarray] = []
        self.value = np.zeros(1)
        self._roles: dict[str, tuple[np.ndarray, int]] = {}
        self._settings: tuple[Optimizer, int, np.ndarray] | None = None
        across = training and runs_across(network)
        held = min(rows, FORWARD_ROWS) if across else rows
        row_major = training and not across
        outputs = [self._new(held * layer.outputs, dtype) for layer in layers]
        saved = [
            self._new(held * layer.outputs, dtype) if row_major and layer.saves_preactivation else output
            for layer, output in zip(layers, outputs, strict=True)
        ]
        layers_table, plan = _tables(network, outputs, saved)
        if network.bfloat16:
            layers_table[:-1, FACTOR] = [self._new(held * layer.outputs, dtype) for layer in layers[:-1]]
            plan[ROUNDED], plan[SIZE] = self._new(network.size, dtype), network.size
        if network.bfloat16 or row_major:
            plan[BATCH_X] = self._new(rows * widths[0], dtype)
        self.tables = self._kept(layers_table, plan)
        large = network.size * dtype.itemsize >= PARALLEL_BYTES
        self.rows_alone = 0 if large else (PARALLEL_FLOPS - 1) // forward_flops(widths, 1)
        self.parameters: np.ndarray | None = None
        self.job_address = 0
        shapes = [(layer.inputs, layer.outputs) for layer in layers]
        if training:
            shapes += [(layer.outputs, layer.inputs) for layer in layers]
            shapes += [(rows, layer.outputs) for layer in layers]
        self.products = Products(dtype, [] if across else shapes)
        self.most_members = self.products.threads
        plan[ROWS] = held
        plan[ZEROS], plan[PACKED], plan[CAPACITY], plan[SCRATCH] = self.products.addresses
        self.across: tuple[int, int] | None = None
        if across:
            self.across = self._across(network, rows)
        elif training:
            plan[BATCH_TARGET] = self._new(rows * widths[-1], dtype)
            plan[BATCH_LABELS] = self._new(rows, np.dtype(np.int64))
            even, odd = rows * max(widths[1::2]), rows * max(widths[2::2], default=0)
            plan[GRADIENT0], plan[GRADIENT1] = self._new(even, dtype), self._new(odd, dtype)
            plan[FACTOR0], plan[FACTOR1] = plan[GRADIENT0], plan[GRADIENT1]
            if network.bfloat16:
                plan[FACTOR0], plan[FACTOR1] = self._new(even, dtype), self._new(odd, dtype)
            plan[PARTIAL] = self._new(MOST_CHUNKS, np.dtype(np.float64))
        self.nbytes = sum(buffer.nbytes for buffer in self._buffers) + self.products.nbytes

    def keep(self, parameters: np.ndarray, job: tuple[int, ...]) -> None:
        """Keep the job of a forward pass by these parameters."""
        self.parameters, self._job = parameters, np.array(job, np.int64)
        self.job_address = address(self._job)

    def kept(self, role: str, array: np.ndarray) -> int:
        """The array's address, which is asked for once while the same array plays this role."""
        last = self._roles.get(role)
        if last is None or last[0] is not array:
            last = self._roles[role] = array, address(array)
        return last[1]

    def settings(self, optimizer: Optimizer, code: int) -> int:
        """The address of the optimiser's settings for the rule with this code."""
        if self._settings is None or self._settings[0] is not optimizer or self._settings[1] != code:
            self._settings = optimizer, code, settings_of(optimizer, code)
        return self.kept("settings", self._settings[2])

    def _new(self, count: int, dtype: np.dtype) -> int:
        """The address of a new buffer of `count` elements."""
        self._buffers.append(aligned_zeros(count, dtype))
        return address(self._buffers[-1])

    def _kept(self, layers: np.ndarray, plan: np.ndarray) -> tuple[int, int]:
        """The addresses of two tables, which live as long as this."""
        self._buffers += layers, plan
        return address(layers), address(plan)

    def _across(self, network: Network, rows: int) -> tuple[int, int]:
        """The tables and buffers for vectors across the batch: an arena a thread, a copy of the gradients a chunk."""
        dtype, widths = network.dtype, network.widths
        lanes = VECTOR_BYTES // dtype.itemsize
        place = 0

        def take(count: int) -> int:
            nonlocal place
            start, place = place, place + padded(count, VECTOR_BYTES)
            return start

        most = block_rows(network)
        block = min(most, padded_rows.py_func(rows, lanes))
        outputs = [take((layer.outputs + 1) * block) for layer in network.layers]
        saved = [
            take(layer.outputs * block) if layer.saves_preactivation else output
            for layer, output in zip(network.layers, outputs, strict=True)
        ]
        layers, plan = _tables(network, outputs, saved)
        layers[:, GRADIENT_ROW] = [gradient_row(layer, dtype) for layer in network.layers]
        plan[SCRATCH], plan[ZEROS] = take(max(layers[:, GRADIENT_ROW]) * block), take(1)
        plan[GRADIENT0] = take(padded(max(widths[1::2]), lanes) * block)
        plan[GRADIENT1] = take(padded(max(widths[2::2], default=0), lanes) * block)
        plan[BLOCK], plan[ARENA_SIZE] = most, place
        plan[ARENAS] = self._new(self.products.threads * place, dtype)
        held = padded(rows, block)
        plan[BATCH_X], plan[BATCH_TARGET] = (
            self._new(held * (widths[0] + 1), dtype),
            self._new(held * widths[-1], dtype),
        )
        sizes = [
            padded((layer.inputs + 1) * row, VECTOR_BYTES)
            for layer, row in zip(network.layers, layers[:, GRADIENT_ROW], strict=True)
        ]
        layers[:, GRADIENT] = np.cumsum([0, *sizes[:-1]])
        chunks = most_chunks(rows, most)
        self.most_members = min(self.most_members, chunks)
        plan[COPIES], plan[COPY_SIZE] = self._new(chunks * sum(sizes), dtype), sum(sizes)
        plan[PARTIAL] = self._new(chunks, np.dtype(np.float64))
        return self._kept(layers, plan)


def _tables(network: Network, outputs: list[int], saved: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """The layers' table and a plan that holds no buffers yet."""
    layers = np.zeros((len(network.layers), LAYER_FIELDS), np.int64)
    for index, layer in enumerate(network.layers):
        code = ACTIVATIONS[layer.activation].code
        y = outputs[index]
        layers[index, :GRADIENT] = layer.inputs, layer.outputs, code, layer.w, layer.b, y, saved[index], y
    plan = np.zeros(PLAN_FIELDS, np.int64)
    plan[LAYERS], plan[LOSS] = len(layers), LOSSES[network.loss].code
    return layers, plan
