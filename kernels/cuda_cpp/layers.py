"""The programs of one layer's three products on tensor cores, by what their operands are made of; see gemm.cuh.

`Elements` names what the tensor cores multiply: bfloat16 or float16, and how many of them stand for one float32.
"""

from typing import NamedTuple

from ..contract import ACTIVATIONS, GRADIENT_CODE, OPTIMIZERS
from .compile import ARCHITECTURES, Program

EDGE = 128
"""Rows of a product that one block computes, and columns, or Hopper's twice as many."""

PER_CHUNK = 8
"""Elements of one 16-byte copy: rows of operands lie a multiple of this apart."""


class Elements(NamedTuple):
    """A kind of operands: `code` as ELEMENT in operands.cuh, PARTS, and whether Hopper's instructions multiply it."""

    name: str
    code: int
    parts: int
    hopper: bool = False

    @property
    def threads(self) -> int:
        """Threads that work on a finished tile: with parts there are twice as many, for registers for a second sum."""
        return 256 if self.hopper or self.parts > 1 else 128

    @property
    def block_threads(self) -> int:
        """Threads of a block of a product: Hopper's has a warpgroup more, for the copy engine."""
        return self.threads + 128 * self.hopper

    @property
    def shared_bytes(self) -> int:
        """Dynamic shared memory of a block: its stages, and Hopper's barriers and alignment."""
        if self.hopper:
            return 4 * (48 << 10) + 1024 + 8 * 8
        return {1: 4, 2: 3, 3: 2}[self.parts] * self.parts * (16 << 10)

    @property
    def defines(self) -> tuple[tuple[str, int | str], ...]:
        """The macros of every program on such operands."""
        return ("ELEMENT", self.code), ("PARTS", self.parts), ("HOPPER", int(self.hopper))

    @property
    def architectures(self) -> tuple[str, ...]:
        """What programs on such operands are compiled for in CI."""
        return ("sm_90a",) if self.hopper else ARCHITECTURES

    @property
    def instructions(self) -> tuple[tuple[str, str], ...]:
        """What a product's machine code must show, in the assembler's names: tensor cores, and what feeds them."""
        opcodes = ("HGMMA", "UTMALDG", "USETMAXREG") if self.hopper else ("HMMA", "LDSM", "LDGSTS")
        return tuple((architecture, opcode) for architecture in self.architectures for opcode in opcodes)

    def tiles(self, rows: int, columns: int) -> int:
        """Blocks of a product, or of what goes over a matrix as its epilogues do."""
        return -(-rows // EDGE) * -(-columns // self.tile_columns)

    @property
    def tile_columns(self) -> int:
        """Columns of a product that one block computes."""
        return 2 * EDGE if self.hopper else EDGE


BFLOAT16 = Elements("bfloat16", 0, 1)
FLOAT16 = Elements("float16", 1, 1)
HIGH = Elements("two parts of bfloat16", 0, 2)
HIGHEST = Elements("three parts of bfloat16", 0, 3)
BFLOAT16_HOPPER = BFLOAT16._replace(hopper=True)
FLOAT16_HOPPER = FLOAT16._replace(hopper=True)

KINDS = (BFLOAT16, FLOAT16, HIGH, HIGHEST, BFLOAT16_HOPPER, FLOAT16_HOPPER)


def padded(columns: int) -> int:
    """The elements from one row of an operand to the next."""
    return -(-columns // PER_CHUNK) * PER_CHUNK


_SINE = "CUDA's sine reduces its largest arguments by a table"


def to_elements(elements: Elements) -> Program:
    """Kernel to_elements: float32 to operands, the same for every way to multiply them."""
    defines = elements._replace(hopper=False).defines
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
    return Program(
        "weight_update",
        kernels,
        defines,
        elements.architectures,
        threads=elements.block_threads,
        instructions=elements.instructions,
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
        stack_because=_SINE if activation == "sine" else "",
    )


def programs() -> tuple[Program, ...]:
    """Every source with every macro's value, not every combination: CI has a compiler's time to mind.

    Activations and optimisers are all compiled for bfloat16; other kinds of operands with one of each, for what changes
    with the kind is the product.
    """
    found = []
    for kind in KINDS:
        every = kind.code == BFLOAT16.code and kind.parts == 1
        if not kind.hopper:
            found.append(to_elements(kind))
        if kind is not HIGHEST:  # a single product of float32 is the portable kernels'
            found.append(matmul(kind))
        for activation in ACTIVATIONS if every else ("gelu",):
            found += [linear_forward(kind, activation), input_gradient(kind, activation)]
        found += [weight_update(kind, rule) for rule in ((None, *OPTIMIZERS) if every else ("adam",))]
    return tuple(found)
