"""Pointers, vectors and register tiles as first-class Numba values, so that kernels read as plain loops.

A `Pointer` walks elements like a C pointer. A `Vector` is as many elements as one register of this CPU holds;
arithmetic and comparison operators work lane by lane and mix with Python scalars. A `Tile` is rows x columns vectors,
the accumulators of a matrix product, which LLVM keeps in registers. All of it is for compiled code only, and one source
serves every instruction set.

    registers.py       how wide a register is, and the types of all that follows
    pointers.py        elements at an address
    vectors.py         operators and functions lane by lane, sums of the lanes
    memory.py          vectors loaded and stored, whole or cut off; squares transposed
    bfloat16.py        pairs of bfloat16: rounding, splitting, multiply-adds
    register_tiles.py  tiles: products of matrices

To be read in this order: a module imports those above it alone. An `@intrinsic` is given the types of a call's
arguments and returns the call's signature and `codegen`, which writes its LLVM instructions. Functions named `emit_...`
write instructions for the intrinsics of other modules, amx.py's included. What kernels call is exported here.
"""

from .bfloat16 import (
    high_part,
    load_first_of_pairs,
    multiply_add,
    pairs_of,
    parts_of,
    steps_of,
    store_first_pairs,
    store_pairs,
)
from .memory import (
    keep_first,
    load,
    load_first,
    prefetch,
    prefetch_to_write,
    store,
    store_first,
    transpose_picked,
    transpose_square,
)
from .pointers import (
    address_of,
    element,
    float32_at,
    float64_at,
    int64_at,
    lanes,
    pairs_at,
    pointer,
    pointer_at,
    specialised,
    split_pairs_at,
)
from .register_tiles import (
    tile_add,
    tile_at_least,
    tile_dot_add,
    tile_lane_sums,
    tile_multiply_add,
    tile_splat,
    tile_store,
    tile_sum,
    tile_zeros,
)
from .registers import (
    HAS_BFLOAT16,
    I32,
    I64,
    PAIR,
    ROUNDED,
    SPLIT_PAIR,
    VECTOR_BYTES,
    Pair,
    Pointer,
    PointerModel,
    widest_register,
)
from .vectors import (
    absolute,
    any_lane,
    binary_exponent,
    constant,
    copysign,
    floor,
    fma,
    largest_lane,
    polynomial,
    power_of_two,
    round_to_even,
    select,
    splat,
    square_root,
    sum_lanes,
    wide_add,
    wide_add_square,
    wide_total,
    wide_zeros,
)

__all__ = [
    "HAS_BFLOAT16",
    "I32",
    "I64",
    "PAIR",
    "ROUNDED",
    "SPLIT_PAIR",
    "VECTOR_BYTES",
    "Pair",
    "Pointer",
    "PointerModel",
    "absolute",
    "address_of",
    "any_lane",
    "binary_exponent",
    "constant",
    "copysign",
    "element",
    "float32_at",
    "float64_at",
    "floor",
    "fma",
    "high_part",
    "int64_at",
    "keep_first",
    "lanes",
    "largest_lane",
    "load",
    "load_first",
    "load_first_of_pairs",
    "multiply_add",
    "pairs_at",
    "pairs_of",
    "parts_of",
    "pointer",
    "pointer_at",
    "polynomial",
    "power_of_two",
    "prefetch",
    "prefetch_to_write",
    "round_to_even",
    "select",
    "specialised",
    "splat",
    "split_pairs_at",
    "square_root",
    "steps_of",
    "store",
    "store_first",
    "store_first_pairs",
    "store_pairs",
    "sum_lanes",
    "tile_add",
    "tile_at_least",
    "tile_dot_add",
    "tile_lane_sums",
    "tile_multiply_add",
    "tile_splat",
    "tile_store",
    "tile_sum",
    "tile_zeros",
    "transpose_picked",
    "transpose_square",
    "wide_add",
    "wide_add_square",
    "wide_total",
    "wide_zeros",
    "widest_register",
]
