"""The suite `kernels`: plain matrix products through `fastmlp.kernels.matmul`, checks included, into a given output."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..kernels import matmul
from ..kernels.contract import OPERATIONS, array_dtype
from ..kernels.network import aligned_zeros
from .contest import REFERENCE, ROUNDING, Setting, contest, judge, sides_of_calls
from .timing import seconds
from .workloads import Product


def product_row(product: Product, setting: Setting) -> dict[str, Any]:
    """One row of the suite."""
    setting.tell(f"{product.name}: do the numbers agree?")
    n, k, m, dtype = product.n, product.k, product.m, setting.dtype
    rng = np.random.default_rng(0)
    a, b = (aligned_zeros(shape, np.dtype(array_dtype(dtype))) for shape in _stored(product))
    for array in (a, b):
        array[...] = rng.standard_normal(array.shape, dtype=np.float32)
    ours, out = (aligned_zeros((n, m), np.dtype(array_dtype(dtype))) for _ in range(2))
    left, right = a.T if product.transpose_a else a, b.T if product.transpose_b else b

    def call(backend: str = setting.backend, into: np.ndarray = ours, arithmetic: str = dtype) -> np.ndarray:
        return matmul(
            a, b, into, transpose_a=product.transpose_a, transpose_b=product.transpose_b,
            dtype="bfloat16" if arithmetic == "bfloat16" else None,
            precision="high" if arithmetic == "high" else "highest", backend=backend,
        )  # fmt: skip

    first_call_s = seconds(call)
    single, double = ((left.astype(kind) @ right.astype(kind)) for kind in ("float32", "float64"))
    reference: Callable[[], object] = partial(np.matmul, left, right, out=out)
    if dtype in ROUNDING:
        single = call(REFERENCE, np.empty_like(out))
        reference = partial(call, REFERENCE, out) if dtype == "bfloat16" else reference
    agreement = judge(dtype, [single], [double], [ours])
    sides = sides_of_calls(
        setting,
        reference,
        lambda peer: peer.products(a, b, product.transpose_a, product.transpose_b),
        double,
        call,
        agreement,
        first_call_s,
        partial(call, REFERENCE, out, "bfloat16"),
        partial(call, arithmetic="float32") if dtype in ROUNDING else None,
    )
    setting.tell(f"{product.name}: how fast is it?")
    row = {
        "suite": "kernels",
        "workload": product.name,
        "case": product.case,
        "unit": "µs/call",
        "dtype": dtype,
    }
    return contest(row, sides, setting, OPERATIONS["matmul"].flops(n, k, m))


def _stored(product: Product) -> tuple[tuple[int, int], tuple[int, int]]:
    """Shapes of the operands as they lie in memory."""
    n, k, m = product.n, product.k, product.m
    return (k, n) if product.transpose_a else (n, k), (m, k) if product.transpose_b else (k, m)
