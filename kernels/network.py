"""What a network is to a kernel: its layers, where each lies in the flat parameter buffer, and how it is stepped.

Also the buffers of a backend that goes through it layer by layer.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import itemgetter
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .contract import ACTIVATIONS, ALIGNMENT, OPTIMIZERS


def aligned_zeros(shape: int | tuple[int, ...], dtype: np.dtype | type) -> np.ndarray:
    """A C-contiguous array of zeros whose first byte lies on a multiple of ALIGNMENT."""
    dtype = np.dtype(dtype)
    count = math.prod(shape) if isinstance(shape, tuple) else shape
    return _aligned(np.zeros(count * dtype.itemsize + ALIGNMENT, np.uint8), shape, dtype)


WORTH_ALIGNING = 1 << 18
"""Bytes from which a result begins on a multiple of ALIGNMENT."""


def new_array(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """A C-contiguous array of anything, for a result; aligned as `aligned_zeros` once that is worth its 3 us."""
    array = np.empty(shape, dtype)
    if array.nbytes < WORTH_ALIGNING:
        return array
    return _aligned(np.empty(array.nbytes + ALIGNMENT, np.uint8), shape, dtype)


def _aligned(raw: np.ndarray, shape: int | tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """The part of `raw`, which has ALIGNMENT bytes more than it needs, that begins on a multiple of ALIGNMENT."""
    start = -raw.__array_interface__["data"][0] % ALIGNMENT
    return raw[start : start + raw.size - ALIGNMENT].view(dtype).reshape(shape)


def _taker(names: list[str]) -> Callable[[np.ndarray], Sequence[np.ndarray]]:
    """What takes these fields, one or more, of a record."""
    if len(names) == 1:
        return lambda record: (record[names[0]],)
    return itemgetter(*names)


class Layer(NamedTuple):
    """One linear layer: w[inputs, outputs] and b[outputs] start at these elements of the flat buffer."""

    inputs: int
    outputs: int
    activation: str
    w: int
    b: int

    @property
    def saves_preactivation(self) -> bool:
        """Whether the backward pass needs z beside y."""
        return ACTIVATIONS[self.activation].saved == "preactivation"


@dataclass(frozen=True)
class Network:
    """Widths (input first), one activation a layer, loss and element type; hashable, without any weights.

    For float32 only: `bfloat16` and `float16`, the operands of every product are rounded as contract.BFLOAT16 and
    FLOAT16 say; `high`, its products may be as contract.HIGH says.
    """

    widths: tuple[int, ...]
    activations: tuple[str, ...]
    loss: str
    dtype: np.dtype
    bfloat16: bool = False
    high: bool = False
    float16: bool = False

    @property
    def dtype_name(self) -> str:
        """The element type by the name that a user gives: a name of contract.ALL_NETWORK_DTYPES."""
        return "bfloat16" if self.bfloat16 else "float16" if self.float16 else self.dtype.name

    @property
    def arithmetic(self) -> str:
        """What the products are done in, as `Ceilings.peak` knows it: the dtype, or "high"."""
        return "high" if self.high else self.dtype_name

    @property
    def precision(self) -> str:
        """A name of contract.PRECISIONS."""
        return "high" if self.high else "highest"

    @property
    def rounds(self) -> bool:
        """Whether the operands of products are rounded to 16 bits."""
        return self.bfloat16 or self.float16

    def delta_scale(self, n: int) -> float:
        """What a batch's dz[n, m] is multiplied by before it is rounded: contract.FLOAT16's s, else 1."""
        return 2.0 ** (n.bit_length() - 1) if self.float16 and n > 0 else 1.0

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, first to last, with their places in the flat buffer."""
        step = ALIGNMENT // self.dtype.itemsize
        place, layers = 0, []
        for inputs, outputs, activation in zip(self.widths[:-1], self.widths[1:], self.activations, strict=True):
            w, b = place, place + -(-inputs * outputs // step) * step
            place = b + -(-outputs // step) * step
            layers.append(Layer(inputs, outputs, activation, w, b))
        return tuple(layers)

    @cached_property
    def size(self) -> int:
        """Elements of the flat buffer, alignment gaps (always zero) included."""
        step = ALIGNMENT // self.dtype.itemsize
        last = self.layers[-1]
        return last.b + -(-last.outputs // step) * step

    @property
    def parameter_count(self) -> int:
        """Weights and biases, without gaps."""
        return sum((layer.inputs + 1) * layer.outputs for layer in self.layers)

    def weights(self, buffer: np.ndarray) -> list[np.ndarray]:
        """Live views w[in, out] of a flat buffer, one a layer."""
        return [buffer[place].reshape(shape) for place, shape in self._places_of_weights]

    def biases(self, buffer: np.ndarray) -> list[np.ndarray]:
        """Live views b[out] of a flat buffer, one a layer."""
        return [buffer[place] for place in self._places_of_biases]

    def gradients_by(
        self, step: Callable[[Any, Any, np.ndarray], float]
    ) -> Callable[[Any, Any], tuple[float, list[np.ndarray], list[np.ndarray]] | None]:
        """A function (x, y): (J, dw, db), or None where `step(x, y, buffer)`, which gives J, refuses the new buffer.

        They are its `weights` and `biases`, below 2 GiB as fields of a record, which takes a third of the time.
        """
        shape, dtype = (self.size,), self.dtype
        nbytes, view = self.size * dtype.itemsize, np.ndarray
        new = np.empty if nbytes < WORTH_ALIGNING else new_array
        if nbytes < 1 << 31:
            record = self._record()
            weights, biases = (_taker([f"{kind}{index}" for index in range(len(self.layers))]) for kind in "wb")
        else:
            record, weights, biases = None, self.weights, self.biases

        def gradients(x: Any, y: Any) -> tuple[float, list[np.ndarray], list[np.ndarray]] | None:
            buffer = new(shape, dtype)
            loss = step(x, y, buffer)
            if type(loss) is not float:
                return None
            fields = buffer if record is None else view((), record, buffer)
            return loss, [*weights(fields)], [*biases(fields)]

        return gradients

    def _record(self) -> np.dtype:
        """The flat buffer as one element of a structured dtype, whose fields are w and b, layer by layer."""
        names: list[str] = []
        formats: list[tuple[np.dtype, tuple[int, ...]]] = []
        offsets: list[int] = []
        for index, layer in enumerate(self.layers):
            names += f"w{index}", f"b{index}"
            formats += (self.dtype, (layer.inputs, layer.outputs)), (self.dtype, (layer.outputs,))
            offsets += layer.w * self.dtype.itemsize, layer.b * self.dtype.itemsize
        place: Any = {
            "names": names,
            "formats": formats,
            "offsets": offsets,
            "itemsize": self.size * self.dtype.itemsize,
        }
        return np.dtype(place)

    @cached_property
    def _places_of_weights(self) -> list[tuple[slice, tuple[int, int]]]:
        return [
            (slice(layer.w, layer.w + layer.inputs * layer.outputs), (layer.inputs, layer.outputs))
            for layer in self.layers
        ]

    @cached_property
    def _places_of_biases(self) -> list[slice]:
        return [slice(layer.b, layer.b + layer.outputs) for layer in self.layers]


@dataclass(frozen=True)
class Optimizer:
    """A rule of the contract with its settings. `updates` counts from 1 where a formula says t."""

    name: str = "sgd"
    learning_rate: float = 1e-2
    l2: float = 0.0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def shared(self, rows: float) -> "Optimizer":
        """The rule with its L2 shared out among the rows of a batch, or among the sum of their weights."""
        return replace(self, l2=self.l2 / rows)

    @property
    def slots(self) -> int:
        """How many arrays of the parameters' size the rule remembers."""
        return OPTIMIZERS[self.name].slots

    def new_state(self, size: int, dtype: np.dtype) -> np.ndarray:
        """state[slots, size]: the rule's memory before the first update, all zeros, each slot aligned."""
        step = ALIGNMENT // np.dtype(dtype).itemsize
        return aligned_zeros((self.slots, -(-size // step) * step), dtype)[:, :size]


class LayerWorkspace:
    """Buffers for batches of up to `rows` rows: every layer's output and, to train, all that the way back needs.

    A backend's subclass says where they lie: `_new(shape, dtype)` makes an array there.
    """

    _new: ClassVar[Callable[..., Any]]

    def __init__(self, network: Network, rows: int, training: bool):
        self.rows = rows
        self.nbytes = 0
        layers, dtype = network.layers, network.dtype
        held = rows if training else 0

        # The last layer's output has a place of its own only in training; `forward` writes it to its `out`.
        self.y = [self._allocate((rows, layer.outputs), dtype) for layer in layers[:-1]]
        self.y.append(self._allocate((held, layers[-1].outputs), dtype))
        self.z = [
            self._allocate((rows, layer.outputs), dtype) if training and layer.saves_preactivation else None
            for layer in layers
        ]
        self.dy = [self._allocate((held, layer.outputs), dtype) for layer in layers]
        self.x = self._allocate((held, layers[0].inputs), dtype)
        self.target = self._allocate((held, layers[-1].outputs), dtype)
        self.labels = self._allocate((held,), np.dtype(np.int64))

    def _allocate(self, shape: int | tuple[int, ...], dtype: np.dtype) -> Any:
        buffer = self._new(shape, dtype)
        self.nbytes += buffer.nbytes
        return buffer
