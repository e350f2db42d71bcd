"""What LLVM makes of the micro-kernel: fused multiply-adds on whole registers, whose accumulators never leave them."""

import platform
import re

import numpy as np
import pytest
from vectors import compiled

from fastmlp.kernels.contract import OPTIMIZERS
from fastmlp.kernels.cpu import ahead, micro_kernels, optimizers, packing
from fastmlp.kernels.cpu.simd import HAS_BFLOAT16, VECTOR_BYTES, address_of, element, pairs_at, pointer, pointer_at
from fastmlp.kernels.network import Optimizer

REGISTER = {32: "ymm", 64: "zmm"}.get(VECTOR_BYTES)

pytestmark = [
    pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="reads x86-64 assembly"),
    pytest.mark.skipif(REGISTER is None, reason="registers of 16 bytes have neither fused multiply-adds nor masks"),
]

KERNELS = {
    "micro_kernel": (micro_kernels.micro_kernel, packing.TALL * 2, None),
    "_medium_wide": (micro_kernels._medium_wide, packing.MEDIUM * 2, 1),
    "_tall_narrow": (micro_kernels._tall_narrow, packing.TALL, 1),
}
"""The micro-kernels that do the bulk of the work, how many accumulators each has, and a width it is called with."""


def loops(assembly):
    """The innermost loops: instructions between a label and a jump back to it with no other label's loop inside."""
    lines = [line.strip() for line in assembly.splitlines()]
    labels = {line[:-1]: number for number, line in enumerate(lines) if re.fullmatch(r"\.\w+:", line)}
    found = []
    for number, line in enumerate(lines):
        jump = re.fullmatch(r"j\w+\s+(\.\w+)", line)
        if jump and labels.get(jump[1], number) < number:
            found.append((labels[jump[1]], number))
    inner = [(a, b) for a, b in found if not any(a <= c and d <= b and (a, b) != (c, d) for c, d in found)]
    return [lines[a:b] for a, b in inner]


def main_loop(kernel, dtype):
    """The loop over k: the innermost one that multiplies."""
    kernel, _, width = KERNELS[kernel]

    @compiled
    def call(depth, a, a_row, a_step, b, b_step, width, start, c, c_row):
        c_at = pointer(c)
        kernel(
            depth, pointer(a), a_row, a_step, pointer(b), b_step, width, pointer(start), 0, c_at, c_row,
            element(c_at, -np.inf),
        )  # fmt: skip

    array = np.ones(4096, dtype)
    call(3, array, 3, 1, array, 1, width, array, np.zeros(4096, dtype), 64)
    (assembly,) = call.inspect_asm().values()
    multiplying = [loop for loop in loops(assembly) if any(line.startswith("vfmadd") for line in loop)]
    assert multiplying, "no loop with fused multiply-adds"
    return max(multiplying, key=lambda loop: sum(line.startswith("vfmadd") for line in loop))


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_step_of_k_is_one_fused_multiply_add_an_accumulator(kernel, dtype):
    kind = "ps" if dtype == np.float32 else "pd"
    body = main_loop(kernel, dtype)
    fused = [line for line in body if re.match(rf"vfn?m(add|sub)\d+{kind}\b", line)]
    assert len(fused) % KERNELS[kernel][1] == 0
    assert len(fused) >= KERNELS[kernel][1]
    assert all(f"%{REGISTER}" in line for line in fused)
    assert not [line for line in body if re.match(r"v(mul|add)[ps][sd]\b", line)]


@pytest.mark.parametrize("kernel", KERNELS)
def test_no_vector_is_spilled_in_the_loop_over_k(kernel, dtype):
    stores = [line for line in main_loop(kernel, dtype) if re.match(r"vmov\w*\s+%[xyz]mm\d+,\s*\S*\(", line)]
    assert stores == []


@pytest.mark.parametrize("operand", ["a", "b"])
def test_a_kernel_that_copies_an_operand_stores_its_copy_and_nothing_else(operand, dtype):
    """The elements of A's step in a tile, or the vectors of B's: no accumulator is spilled to make room."""

    @compiled
    def call_a(depth, a, b, b_step, start, c, c_row, copy):
        c_at = pointer(c)
        micro_kernels.copying_a(
            depth, pointer(a), 40, pointer(b), b_step, pointer(start), 0, c_at, c_row, element(c_at, -np.inf),
            pointer(copy),
        )  # fmt: skip

    @compiled
    def call_b(depth, a, b, b_step, start, c, c_row, copy):
        c_at = pointer(c)
        micro_kernels.copying_b(
            depth, pointer(a), 40, 1, pointer(b), b_step, pointer(start), 0, c_at, c_row, element(c_at, -np.inf),
            pointer(copy),
        )  # fmt: skip

    call = call_a if operand == "a" else call_b
    array, lanes = np.ones(4096, dtype), VECTOR_BYTES // np.dtype(dtype).itemsize
    call(3, array, array, 64, array, np.zeros(4096, dtype), 64, np.zeros(4096, dtype))
    (assembly,) = call.inspect_asm().values()
    body = max(loops(assembly), key=lambda loop: sum(line.startswith("vfmadd") for line in loop))
    steps, rest = divmod(sum(line.startswith("vfmadd") for line in body), packing.TALL * packing.PANEL)
    assert (steps > 0, rest) == (True, 0)
    copied = [line for line in body if re.match(r"vmov\w*\s+%[xyz]mm\d+,\s*\S*\(", line)]
    assert len(copied) == steps * (-(-packing.TALL // lanes) if operand == "a" else packing.PANEL)


def test_a_whole_tile_needs_no_masks(dtype):
    assert not [line for line in main_loop("micro_kernel", dtype) if "{%k" in line]


def test_the_rows_addresses_are_no_chain_of_additions(dtype):
    """One addition a row would take as long as the multiply-adds, and no load could run ahead of them."""
    additions = [line for line in main_loop("micro_kernel", dtype) if line.startswith("add")]
    assert len(additions) < packing.TALL // 2


def test_what_an_update_changes_is_asked_for_to_write(dtype):
    """Weights and the optimiser's slots were read by the other cores too: one request instead of two."""
    settings = optimizers.settings_of(Optimizer("adam"), OPTIMIZERS["adam"].code, np.dtype(np.float32))

    @compiled
    def call(settings, w, slot0, slot1):
        changed = optimizers.changed_by_update(pointer(settings), pointer(w), pointer(slot0), pointer(slot1))
        ahead.ask_for(ahead.changing_ahead(pointer_at(0, pointer(w)), changed, 64), 0, 0, 2, 64)

    call(settings, *np.zeros((3, 128), dtype))
    (assembly,) = call.inspect_asm().values()
    asked = [line for line in assembly.splitlines() if re.match(r"\s*prefetch", line)]
    assert len(asked) >= 3
    assert all("prefetchw" in line for line in asked)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="no instruction for bfloat16 is at work")
@pytest.mark.parametrize("kernel", KERNELS)
def test_on_pairs_a_step_is_one_bfloat16_product_an_accumulator(kernel):
    kernel, accumulators, width = KERNELS[kernel]

    @compiled
    def call(depth, a, b, b_step, width, c, c_row):
        c_at = pointer(c)
        a_at, b_at = pairs_at(address_of(pointer(a))), pairs_at(address_of(pointer(b)))
        kernel(depth, a_at, 3, 1, b_at, b_step, width, c_at, 0, c_at, c_row, element(c_at, -np.inf))

    operands, out = np.ones((2, 4096), np.float32), np.zeros(4096, np.float32)
    call(3, operands[0], operands[1], 64, width, out, 64)
    (assembly,) = call.inspect_asm().values()
    body = max(loops(assembly), key=lambda loop: sum(line.startswith("vdpbf16ps") for line in loop))
    products = [line for line in body if line.startswith("vdpbf16ps")]
    assert len(products) % accumulators == 0
    assert len(products) >= accumulators
    assert all("%zmm" in line for line in products)
    assert [line for line in body if re.match(r"vmov\w*\s+%[xyz]mm\d+,\s*\S*\(", line)] == [], "a spill"
    assert not [line for line in body if line.startswith("vfmadd")]
