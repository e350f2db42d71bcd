"""The programs of one layer's three products on tensor cores, by what their operands are made of; see gemm.cuh.

`Elements` names what the tensor cores multiply: bfloat16 or float16, and how many of them stand for one float32.
"""

from typing import NamedTuple

from ..contract import ACTIVATIONS, GRADIENT_CODE, OPTIMIZERS
from .compile import ARCHITECTURES, Program, why_stack

EDGE = 128
"""Rows of a product that one block computes, and columns, or of Hopper's wide tiles twice as many."""

MULTIPROCESSORS = 132
"""Of Hopper; an A100 has 108. Sums are cut by it, so it is a constant: the same bits on any device."""

_NARROW_COST = 0.625
"""Of a wide tile's time: half the multiply-adds at four fifths of their rate, see gemm_hopper.cuh. To be measured."""

PER_CHUNK = 8
"""Elements of one 16-byte copy: rows of operands lie a multiple of this apart."""


class Elements(NamedTuple):
    """A kind of operands: `code` as ELEMENT in operands.cuh, PARTS, and HOPPER.

    `hopper` says whether Hopper's instructions multiply it: the columns of a block's tile then, or of the widest.
    """

    name: str
    code: int
    parts: int
    hopper: int = 0

    @property
    def threads(self) -> int:
        """Threads that work on a finished tile: with parts there are twice as many, for registers for a second sum."""
        return 256 if self.hopper or self.parts > 1 else 128

    @property
    def together(self) -> int:
        """Blocks of a product on one multiprocessor at a time."""
        return 1 if self.hopper > EDGE or self.parts > 1 else 2

    @property
    def block_threads(self) -> int:
        """Threads of a block of a product: Hopper's has more, for the copy engine."""
        copiers = 0 if not self.hopper else 32 if self.together > 1 else 128
        return self.threads + copiers

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: its stages, and Hopper's barriers and alignment."""
        if self.hopper:
            room = (192 << 10) // self.together
            stages = room // (self.parts * (EDGE + self.hopper) * 128)
            return room + 1024 + 2 * 8 * stages
        return {1: 4, 2: 3, 3: 2}[self.parts] * self.parts * (16 << 10)

    @property
    def defines(self) -> tuple[tuple[str, int | str], ...]:
        """The macros of every program on such operands."""
        return ("ELEMENT", self.code), ("PARTS", self.parts), ("HOPPER", self.hopper)

    @property
    def architectures(self) -> tuple[str, ...]:
        """What programs on such operands are compiled for in CI."""
        return ("sm_90a",) if self.hopper else ARCHITECTURES

    @property
    def instructions(self) -> tuple[tuple[str, str], ...]:
        """What a product's machine code must show, in the assembler's names: tensor cores, and what feeds them."""
        opcodes = ["HGMMA", "UTMALDG"] if self.hopper else ["HMMA", "LDSM", "LDGSTS"]
        if self.hopper and self.together == 1:
            opcodes.append("USETMAXREG")
        if self.cluster > 1:
            opcodes.append("UCGABAR_ARV")
        return tuple((architecture, opcode) for architecture in self.architectures for opcode in opcodes)

    def tiles(self, rows: int, columns: int) -> int:
        """Blocks of a product, whole clusters, or of what goes over a matrix as its epilogues do."""
        return -(-rows // (EDGE * self.cluster)) * self.cluster * -(-columns // self.tile_columns)

    @property
    def cluster(self) -> int:
        """Blocks of a product that share what they read."""
        return 2 if self.hopper == 2 * EDGE else 1

    @property
    def tile_columns(self) -> int:
        """Columns of a product that one block computes."""
        return self.hopper or EDGE

    def tiled(self, rows: int, columns: int) -> "Elements":
        """The same operands as a product of this shape takes them: in narrow tiles where that ends sooner."""
        if self.hopper <= EDGE:
            return self
        narrow = self._replace(hopper=EDGE)
        turns, narrow_turns = (-(-kind.tiles(rows, columns) // MULTIPROCESSORS) for kind in (self, narrow))
        return narrow if narrow_turns * _NARROW_COST < turns else self


BFLOAT16 = Elements("bfloat16", 0, 1)
FLOAT16 = Elements("float16", 1, 1)
HIGH = Elements("two parts of bfloat16", 0, 2)
HIGHEST = Elements("three parts of bfloat16", 0, 3)
BFLOAT16_HOPPER = BFLOAT16._replace(hopper=2 * EDGE)
FLOAT16_HOPPER = FLOAT16._replace(hopper=2 * EDGE)
HIGH_HOPPER = HIGH._replace(hopper=EDGE)
HIGHEST_HOPPER = HIGHEST._replace(hopper=EDGE)

BFLOAT16_NARROW = BFLOAT16_HOPPER._replace(hopper=EDGE)
FLOAT16_NARROW = FLOAT16_HOPPER._replace(hopper=EDGE)

KINDS = (
    *(BFLOAT16, FLOAT16, HIGH, HIGHEST),
    *(BFLOAT16_HOPPER, FLOAT16_HOPPER, BFLOAT16_NARROW, FLOAT16_NARROW, HIGH_HOPPER, HIGHEST_HOPPER),
)


def padded(columns: int) -> int:
    """The elements from one row of an operand to the next."""
    return -(-columns // PER_CHUNK) * PER_CHUNK


def to_elements(elements: Elements) -> Program:
    """Kernel to_elements: float32 to operands, the same for every way to multiply them."""
    defines = elements._replace(hopper=0).defines
    return Program("to_elements", ("to_elements",), defines, threads=elements.threads)


def matmul(elements: Elements) -> Program:
    """Kernels matmul, matmul_transposed_a, matmul_transposed_b and matmul_transposed_both."""
    kernels = tuple(f"matmul{how}" for how in ("", "_transposed_b", "_transposed_a", "_transposed_both"))
    return Program(
        "matmul",
        kernels,
        elements.defines,
        elements.architectures,
        threads=elements.block_threads,
        instructions=elements.instructions,
        shared_bytes=elements.shared_bytes,
    )


def linear_forward(elements: Elements, activation: str) -> Program:
    """Kernel linear_forward: x @ w + b, and the activation."""
    return _layer("linear_forward", ("linear_forward",), elements, activation)


def input_gradient(elements: Elements, activation: str) -> Program:
    """Kernels input_gradient, dz @ w.T times the derivative, and output_delta, the loss's gradient times it."""
    return _layer("input_gradient", ("input_gradient", "output_delta"), elements, activation)


def weight_update(elements: Elements, optimizer: str | None) -> Program:
    """Kernels weight_update, weight_partials and apply_update: x.T @ dz, and the optimiser; None keeps the gradient."""
    code = GRADIENT_CODE if optimizer is None else OPTIMIZERS[optimizer].code
    kernels = ("weight_update", "weight_partials", "apply_update")
    defines = (*elements.defines, ("OPTIMIZER_CODE", code))
    asks = (("sm_90a", "UBLKPF"),) if elements.hopper and optimizer else ()
    return Program(
        "weight_update",
        kernels,
        defines,
        elements.architectures,
        threads=elements.block_threads,
        instructions=(*elements.instructions, *asks),
        shared_bytes=elements.shared_bytes,
    )


def _layer(source: str, kernels: tuple[str, ...], elements: Elements, activation: str) -> Program:
    return Program(
        source,
        kernels,
        (*elements.defines, ("ACTIVATION_CODE", ACTIVATIONS[activation].code)),
        elements.architectures,
        threads=elements.block_threads,
        instructions=elements.instructions,
        shared_bytes=elements.shared_bytes,
        stack_because=why_stack((activation,)),
    )


def programs() -> tuple[Program, ...]:
    """Every source with every macro's value, not every combination: CI has a compiler's time to mind.

    Activations and optimisers are all compiled for bfloat16; other kinds of operands with one of each, for what changes
    with the kind is the product.
    """
    found = []
    for kind in KINDS:
        every = kind in (BFLOAT16, BFLOAT16_HOPPER, BFLOAT16_NARROW)
        if not kind.hopper:
            found.append(to_elements(kind))
        if kind.parts < 3:  # a single product of float32 is the portable kernels'
            found.append(matmul(kind))
        for activation in ACTIVATIONS if every else ("gelu",):
            found += [linear_forward(kind, activation), input_gradient(kind, activation)]
        found += [weight_update(kind, rule) for rule in ((None, *OPTIMIZERS) if every else ("adam",))]
    return tuple(found)
