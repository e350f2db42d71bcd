"""out[n, m] = a[n, k] @ b[k, m], or with a or b stored transposed."""

import os

import numpy as np

from ..contract import DONE, JUDGED, OPERATIONS, REFUSED
from ..network import aligned_zeros
from .activations import IDENTITY, floor_of
from .ahead import nothing_ahead
from .compile import entry
from .direct import (
    ENTRIES,
    FALSE,
    PLAIN,
    TRUE,
    WRITABLE,
    Operation,
    address,
    data_of,
    direct,
    dtype_of,
    element_size,
    entry_for,
    is_array,
    length_of,
    may_share,
    stack_integers,
)
from .layer import nothing_after
from .operands import operand_size, pair_matrix
from .packing import PANEL, Shape
from .pairs import steps_held
from .phases import conducted_alone
from .simd import VECTOR_BYTES, address_of, pointer_at, steps_of
from .squares import LEFT, RIGHT
from .team import PARALLEL_FLOPS, conduct_by
from .tiles import product
from .units import parts_of_product
from .workspace import ZERO_ROW, products_for, room_for


@entry
def _matmul(
    shared, me, like, zeros, packed, capacity, scratch, n, k, m, a, a_row, a_step, b, b_step, b_transposed, out
):
    product(
        shared, me, n, m, k, pointer_at(a, like), a_row, a_step, pointer_at(b, like), b_step, b_transposed != 0,
        pointer_at(zeros, like), 0, 0, pointer_at(out, like), m, floor_of(IDENTITY, like),
        pointer_at(packed, like), capacity, pointer_at(scratch, like), nothing_ahead(like), nothing_after, 0,
    )  # fmt: skip


ZEROS, ROOM, IS_ROOM_TAKEN = range(ENTRIES + 2, ENTRIES + 5)
"""Places in the table of `_matmul_directly`: zeros to start from; ROOM_BYTES for panels of a transposed B, which one
call has at a time."""

ROOM_BYTES = 1 << 16


@direct
def _matmul_directly(known, arguments, count):
    """(a, b, out, transpose_a, transpose_b) -> REFUSED, JUDGED or DONE: the desk's judgement, in compiled code.

    Products that one thread does alone, of matrices as they lie, are done here.
    """
    a, b, out, transpose_a, transpose_b = arguments[0], arguments[1], arguments[2], arguments[3], arguments[4]
    size, dtype = element_size(known, a), dtype_of(known, a)
    if size == 0:
        return REFUSED
    if not (is_array(known, a, dtype, 2, PLAIN) and is_array(known, b, dtype, 2, PLAIN)):
        return REFUSED
    if not is_array(known, out, dtype, 2, WRITABLE):
        return REFUSED
    is_a_transposed, is_b_transposed = transpose_a == known[TRUE], transpose_b == known[TRUE]
    if not (is_a_transposed or transpose_a == known[FALSE]) or not (is_b_transposed or transpose_b == known[FALSE]):
        return REFUSED
    n, m = length_of(out, 0), length_of(out, 1)
    k = length_of(a, 0) if is_a_transposed else length_of(a, 1)
    if length_of(a, 1 if is_a_transposed else 0) != n:
        return REFUSED
    if length_of(b, 1 if is_b_transposed else 0) != k or length_of(b, 0 if is_b_transposed else 1) != m:
        return REFUSED
    if may_share(out, n * m * size, a, n * k * size) or may_share(out, n * m * size, b, k * m * size):
        return REFUSED
    flops = 2 * n * k * m
    entry = entry_for(known, size)
    a_row, a_step = (1, n) if is_a_transposed else (k, 1)
    needs_room = is_b_transposed and m > 1
    if entry == 0 or flops >= PARALLEL_FLOPS:
        return JUDGED
    if needs_room and (known[IS_ROOM_TAKEN] or k * PANEL * VECTOR_BYTES > ROOM_BYTES):
        return JUDGED
    job = stack_integers(14)
    # Without need there is no room for copies: in products of so little work they would not pay.
    job[0], job[1], job[2], job[3] = known[ZEROS], known[ROOM], ROOM_BYTES // size if needs_room else 0, 0
    job[4], job[5], job[6] = n, k, m
    job[7], job[8], job[9] = data_of(a), a_row, a_step
    job[10], job[11], job[12], job[13] = data_of(b), k if is_b_transposed else m, is_b_transposed, data_of(out)
    if needs_room:
        known[IS_ROOM_TAKEN] = 1
    conducted_alone(entry, address_of(job), flops)
    if needs_room:
        known[IS_ROOM_TAKEN] = 0
    return DONE


@entry
def _matmul_in_pairs(
    shared, me, like, pairs, zeros, packed, capacity, scratch, n, k, m, a, b, out, a_pairs, b_pairs, transpose_a,
    transpose_b,
):  # fmt: skip
    a_at, b_at, no_pairs = pointer_at(a_pairs, pairs), pointer_at(b_pairs, pairs), pointer_at(0, pairs)
    a_row, a_step, b_step = steps_held(k, a_at), 1, m
    if transpose_a:
        a_row, a_step = 1, n
        pair_matrix(shared, me, LEFT, k, n, pointer_at(a, like), no_pairs, a_at)
    else:
        pair_matrix(shared, me, LEFT, n, k, pointer_at(a, like), a_at, no_pairs)
    if transpose_b:
        b_step = steps_held(k, b_at)
        pair_matrix(shared, me, RIGHT, m, k, pointer_at(b, like), b_at, no_pairs)
    else:
        pair_matrix(shared, me, RIGHT, k, m, pointer_at(b, like), no_pairs, b_at)
    product(
        shared, me, n, m, steps_of(k, a_at), a_at, a_row, a_step, b_at, b_step, transpose_b != 0,
        pointer_at(zeros, like), 0, 0, pointer_at(out, like), m, floor_of(IDENTITY, like),
        pointer_at(packed, pairs), capacity, pointer_at(scratch, like), nothing_ahead(like), nothing_after, 0,
    )  # fmt: skip


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray,
    transpose_a: bool = False,
    transpose_b: bool = False,
    parts: int = 0,
) -> None:
    """out[n, m] = a @ b; the stored arrays are a[n, k] or a[k, n], b[k, m] or b[m, k]; `parts`: kernels/README.md."""
    (n, m), k = out.shape, a.shape[0 if transpose_a else 1]
    flops = OPERATIONS["matmul"].flops(n, k, m)
    parts = parts_of_product(n, k, m, out.dtype, parts)
    if parts:
        products, crew = products_for(out.dtype, [Shape(k, m)], flops, parts)
        job = (
            *products.addresses, n, k, m, address(a), address(b), address(out),
            room_for("a", operand_size(n, k, parts), 4), room_for("b", operand_size(m, k, parts), 4), transpose_a,
            transpose_b,
        )  # fmt: skip
        conduct_by(crew, _matmul_in_pairs.in_parts(parts).address(out.dtype), job, flops)
        return
    products, crew = products_for(out.dtype, [Shape(k, m)], flops)
    a_row, a_step = (1, n) if transpose_a else (k, 1)
    job = (
        *products.addresses, n, k, m, address(a), a_row, a_step, address(b), k if transpose_b else m, transpose_b,
        address(out),
    )  # fmt: skip
    conduct_by(crew, _matmul.address(out.dtype), job, flops)
    directly.learn(_matmul, out.dtype)


_room = aligned_zeros(ROOM_BYTES, np.uint8)
directly = Operation(_matmul_directly, address(ZERO_ROW), address(_room), 0, keeps=_room)
"""(a, b, out, transpose_a, transpose_b)."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: directly.write(IS_ROOM_TAKEN, 0))
