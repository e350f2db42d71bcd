"""Everything a run needs besides its arguments: buffers, and the tables by which compiled code finds them."""

import threading
from collections.abc import Callable

import numpy as np

from ..caches import cache_bytes
from ..contract import ACTIVATIONS, GRADIENT_CODE, LOSSES, forward_flops, step_flops
from ..cores import most_threads
from ..network import Layer, Network, Optimizer, aligned_zeros
from .across import block_rows, chunks_of, gradient_row, padded, runs_across
from .across_losses import ROUTINES_ACROSS
from .activations import way_back_of, way_of
from .compile import Routine
from .direct import address
from .distance import members_together
from .gathering import GATHER_ROWS
from .layer import PART_ROWS
from .losses import MOST_CHUNKS, ROUTINES, chunk_rows, routine_of
from .micro_kernels import BROAD
from .operands import ROWS_UNIT, operand_size, whole_units
from .optimizers import settings_of
from .packing import Shape
from .penalty import PARTS
from .simd import VECTOR_BYTES
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
    DZ_ACROSS0,
    DZ_DOWN0,
    GRADIENT,
    GRADIENT0,
    GRADIENT1,
    GRADIENT_ROW,
    JOINED,
    LAYER_FIELDS,
    LAYERS,
    LOSS,
    LOSS_ROUTINE,
    PACKED,
    PARTIAL,
    PLAN_FIELDS,
    ROWS,
    SCRATCH,
    SHARED_ROWS,
    SQUARES,
    SUMMING,
    SUMS0,
    TOTAL,
    W_ACROSS,
    W_DOWN,
    X_ACROSS,
    X_DOWN,
    Y_ACROSS,
    Y_DOWN,
    ZEROS,
)
from .team import ALONE, PARALLEL_BYTES, PARALLEL_FLOPS, is_shared, members
from .tiles import pack_capacity, scratch_size
from .units import parts_of_operands

FORWARD_ROWS = 256
"""Rows that `forward` takes at a time in a training workspace that has no row-major buffers for whole batches."""


APART_ROWS = 192
"""Rows of a batch from which on a network that runs across it gains by threads far from each other too: 6 FLOPs a row
and parameter, against its bytes at some 2 GB/s (Zen 5)."""

FEW_ROWS = 8
"""Rows up to which `forward` makes no pairs of the weights, which takes as long as the products of that many rows, but
reads them as float32: rounding as it goes or, for precision "high", as they are."""


ZERO_ROW = aligned_zeros(BROAD * VECTOR_BYTES, np.uint8)
"""What sums start from where there is no bias: zeros of any element type, as many as a tile is wide."""


class Products:
    """What `product` needs besides its operands: room for packed panels, each thread's block.

    `asked` are the shapes last asked for.
    """

    def __init__(self, dtype: np.dtype, shapes: list[Shape], parts: int = 0):
        """`shapes` are of every product, their depth the length of the sum, in so many parts."""
        self.asked = shapes
        self.capacity = pack_capacity(shapes, dtype.itemsize, parts)
        self.threads = most_threads()
        self.packed = aligned_zeros(self.capacity * self.threads, dtype)
        self.scratch = aligned_zeros(self.threads * scratch_size(dtype.itemsize, parts), dtype)
        self.addresses = address(ZERO_ROW), address(self.packed), self.capacity, address(self.scratch)
        self.nbytes = self.packed.nbytes + self.scratch.nbytes


_kept = threading.local()


def products_for(dtype: np.dtype, shapes: list[Shape], flops: int, parts: int = 0) -> tuple[Products, tuple[int, int]]:
    """The calling thread's Products for a single operation of so many FLOPs, and who does it, for `team.conduct_by`.

    They are kept, since new memory costs more than a small product.
    """
    kept = _kept.__dict__
    key = dtype.char if parts == 0 else f"{dtype.char} in {parts} parts"
    crew = members() if is_shared(flops) else ALONE
    products = kept.get(key)
    if products is not None and products.threads >= crew[1]:
        if shapes == products.asked:
            return products, crew
        if products.capacity >= pack_capacity(shapes, dtype.itemsize, parts):
            products.asked = shapes
            return products, crew
    products = kept[key] = Products(dtype, shapes, parts)
    return products, crew


def room_for(role: str, count: int, itemsize: int) -> int:
    """The address of the calling thread's room for so many elements that a single operation needs; kept too."""
    kept = _kept.__dict__
    room = kept.get(role)
    if room is None or room.size < count * itemsize:
        room = kept[role] = aligned_zeros(count * itemsize, np.uint8)
    return address(room)


class Workspace:
    """Buffers for batches of up to `rows` rows of a network, allocated once; without `training` only for `forward`.

    `parts` is in how many parts of bfloat16 the products take their operands, 0 being as they are; then `forward` takes
    up to `few_rows` at a time in another way, by `few_tables`.

    `tables` are the addresses of the layers' table and the plan that `forward` and row-major training read; `across` is
    the same for training a network that runs across the batch, else None. `forward` does `row_flops` a row, and where
    the weights are so many that a member's part may lie in its L2 while all do not, `is_large`, it is always shared.
    Training can employ `most_members`; `gradients` writes its loss to `value`.
    """

    may_run_across = True

    def __init__(self, network: Network, rows: int, training: bool):
        dtype, widths, layers = network.dtype, network.widths, network.layers
        self.rows = rows
        self._buffers: list[np.ndarray] = []
        self.value = np.zeros(1)
        self._roles: dict[str, tuple[np.ndarray, int]] = {}
        self._settings: tuple[Optimizer, int, np.ndarray] | None = None
        self.parts = parts_of_operands(network)
        across = training and self.parts == 0 and self.may_run_across and runs_across(network)
        held = min(rows, FORWARD_ROWS if across else PART_ROWS) if training else rows
        row_major = training and not across
        outputs = [
            self._new(held * layer.outputs, dtype) if self._stores_output(network, layer, training) else 0
            for layer in layers
        ]
        saved = [
            self._new(held * layer.outputs, dtype) if row_major and layer.saves_preactivation else output
            for layer, output in zip(layers, outputs, strict=True)
        ]
        layers_table, plan = _tables(network, outputs, saved, ROUTINES if row_major else None)
        if self.parts:
            self._pairs(network, held, training, layers_table, plan)
        self.tables = self._kept(layers_table, plan)
        self.row_flops = forward_flops(widths, 1)
        self.is_large = network.size * dtype.itemsize >= PARALLEL_BYTES
        shapes = [Shape(layer.inputs, layer.outputs) for layer in layers]
        if training:
            shapes += [Shape(layer.outputs, layer.inputs) for layer in layers]
            shapes += [Shape(held, layer.outputs) for layer in layers]
        self.products = Products(dtype, [] if across else shapes, self.parts)
        self.most_members = self.products.threads
        plan[ROWS] = held
        plan[ZEROS], plan[PACKED], plan[CAPACITY], plan[SCRATCH] = self.products.addresses
        self.few_rows, self.few_tables = 0, (0, 0)
        if self.parts:
            # Rounding on the way is free while memory is waited for: for one row, and where weights lie beyond L2.
            waits = self.parts > 1 or network.size * dtype.itemsize > cache_bytes("L2")
            self.few_rows = FEW_ROWS if waits else 1
            few = [self._new(self.few_rows * layer.outputs, dtype) for layer in layers]
            few_layers, few_plan = _tables(network, few, few, None)
            few_plan[ROWS] = self.few_rows
            few_plan[ZEROS], few_plan[PACKED], few_plan[CAPACITY], few_plan[SCRATCH] = self.products.addresses
            self.few_tables = self._kept(few_layers, few_plan)
        self.across: tuple[int, int] | None = None
        if across:
            self.across = self._across(network, rows)
        elif training:
            threads = self.products.threads
            gathered = threads * whole_units.py_func(GATHER_ROWS) if self.parts else held
            plan[BATCH_X] = self._new(gathered * widths[0], dtype)
            plan[BATCH_TARGET] = self._new(held * widths[-1], dtype)
            plan[BATCH_LABELS] = self._new(held, np.dtype(np.int64))
            if self.parts:
                rows_of_loss = threads * whole_units.py_func(chunk_rows.py_func(held))
                plan[GRADIENT0 + (len(layers) - 1) % 2] = self._new(rows_of_loss * widths[-1], dtype)
            else:
                even, odd = held * max(widths[1::2]), held * max(widths[2::2], default=0)
                plan[GRADIENT0], plan[GRADIENT1] = self._new(even, dtype), self._new(odd, dtype)
            plan[PARTIAL] = self._new(MOST_CHUNKS, np.dtype(np.float64))
            plan[SQUARES] = self._new(PARTS * len(layers), np.dtype(np.float64))
            if rows > held:
                plan[TOTAL] = self._new(network.size, dtype)
                self._buffers.append(settings_of(Optimizer(), GRADIENT_CODE, dtype))
                plan[SUMMING] = address(self._buffers[-1])
        self.nbytes = sum(buffer.nbytes for buffer in self._buffers) + self.products.nbytes

    def crew_for(self, rows: int) -> Callable[[], tuple[int, int]]:
        """What gives the team, and how many of it, for steps on so many rows that are work for several threads.

        Across the batch, weights and gradients change hands with every step, whatever the rows.
        """
        return members_together if self.across is not None and rows < APART_ROWS else members

    def kept(self, role: str, array: np.ndarray) -> int:
        """The array's address, which is asked for once while the same array plays this role."""
        last = self._roles.get(role)
        if last is None or last[0] is not array:
            last = self._roles[role] = array, address(array)
        return last[1]

    def settings(self, optimizer: Optimizer, code: int, dtype: np.dtype) -> int:
        """The address of the optimiser's settings for the rule with this code."""
        if self._settings is None or self._settings[0] is not optimizer or self._settings[1] != code:
            self._settings = optimizer, code, settings_of(optimizer, code, dtype)
        return self.kept("settings", self._settings[2])

    def _new(self, count: int, dtype: np.dtype) -> int:
        """The address of a new buffer of `count` elements."""
        self._buffers.append(aligned_zeros(count, dtype))
        return address(self._buffers[-1])

    def _kept(self, layers: np.ndarray, plan: np.ndarray) -> tuple[int, int]:
        """The addresses of two tables, which live as long as this."""
        self._buffers += layers, plan
        return address(layers), address(plan)

    def _pairs(self, network: Network, rows: int, training: bool, layers: np.ndarray, plan: np.ndarray) -> None:
        """Buffers for the pairs of x, and of each layer's weights, outputs and dJ/dz, where products read them.

        An address that stays 0 says that none does.
        """

        def across(rows: int, columns: int) -> int:
            return self._new(operand_size(rows, columns, self.parts), network.dtype)

        def down(rows: int, columns: int) -> int:
            return self._new(operand_size(columns, rows, self.parts), network.dtype)

        plan[X_ACROSS] = across(rows, network.widths[0])
        for index, layer in enumerate(network.layers):
            layers[index, W_DOWN] = down(layer.inputs, layer.outputs)
        for index, layer in enumerate(network.layers[:-1]):
            layers[index, Y_ACROSS] = across(rows, layer.outputs)
        if not training:
            return
        plan[X_DOWN] = down(rows, network.widths[0])
        for index, layer in enumerate(network.layers[1:], 1):
            layers[index, W_ACROSS] = across(layer.inputs, layer.outputs)
            layers[index - 1, Y_DOWN] = down(rows, layer.inputs)
        for parity in range(2):
            widest = max(network.widths[1 + parity :: 2], default=0)
            plan[DZ_ACROSS0 + parity], plan[DZ_DOWN0 + parity] = across(rows, widest), down(rows, widest)
            plan[SUMS0 + parity] = self._new(-(-rows // ROWS_UNIT) * widest, network.dtype)

    def _stores_output(self, network: Network, layer: Layer, training: bool) -> bool:
        """Whether y has a buffer: beside pairs if the loss reads it, or its derivative, which no sign and no z tell.

        The last layer's is the caller's, but in training.
        """
        if not training and layer is network.layers[-1]:
            return False
        if not self.parts:
            return True
        told = layer.saves_preactivation or ACTIVATIONS[layer.activation].by_sign
        return training and (layer is network.layers[-1] or not told)

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
        block = min(most, padded(rows, lanes))
        outputs = [take((layer.outputs + 1) * block) for layer in network.layers]
        saved = [
            take(layer.outputs * block) if layer.saves_preactivation else output
            for layer, output in zip(network.layers, outputs, strict=True)
        ]
        layers, plan = _tables(network, outputs, saved, ROUTINES_ACROSS)
        layers[:, GRADIENT_ROW] = [gradient_row(layer, dtype) for layer in network.layers]
        turned = max(max(layers[:, GRADIENT_ROW]) * block, widths[0] * lanes)
        plan[SCRATCH], plan[ZEROS] = take(turned), take(1)
        plan[GRADIENT0] = take(padded(max(widths[1::2]), lanes) * block)
        plan[GRADIENT1] = take(padded(max(widths[2::2], default=0), lanes) * block)
        plan[BLOCK], plan[ARENA_SIZE] = most, place
        plan[SHARED_ROWS] = shared = -(-PARALLEL_FLOPS // step_flops(widths, 1))
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
        chunks = chunks_of.py_func(rows, most, shared, lanes)
        self.most_members = min(self.most_members, chunks)
        plan[COPIES], plan[COPY_SIZE] = self._new(chunks * sum(sizes), dtype), sum(sizes)
        plan[PARTIAL], plan[JOINED] = self._new(chunks, np.dtype(np.float64)), self._new(chunks, np.dtype(np.int64))
        return self._kept(layers, plan)


class RowMajorWorkspace(Workspace):
    """A Workspace by which narrow networks too are trained row-major."""

    may_run_across = False


def training_kernels(network: Network) -> dict[str, type[Workspace]]:
    """The ways to train the network, by what makes the workspace for each; the first is the backend's own choice."""
    if not runs_across(network):
        return {"row-major": Workspace}
    return {"across the batch": Workspace, "row-major": RowMajorWorkspace}


def _tables(
    network: Network, outputs: list[int], saved: list[int], routines: dict[int, Routine] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The layers' table and a plan that holds no buffers yet; for training with the losses' routines."""
    layers = np.zeros((len(network.layers), LAYER_FIELDS), np.int64)
    for index, layer in enumerate(network.layers):
        way, way_back = way_of(layer.activation, network.dtype), 0
        if routines is not None:
            way_back = way_back_of(layer.activation, network.dtype)
        widths = layer.inputs, layer.outputs
        layers[index, :GRADIENT] = *widths, way, way_back, layer.w, layer.b, outputs[index], saved[index]
    plan = np.zeros(PLAN_FIELDS, np.int64)
    plan[LAYERS], plan[LOSS] = len(layers), LOSSES[network.loss].code
    if routines is not None:
        plan[LOSS_ROUTINE] = routine_of(plan[LOSS], routines, network.dtype)
    return layers, plan
