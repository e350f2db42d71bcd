"""The suite `kernels`: plain matrix products through `fastmlp.kernels.matmul`, checks included, into a given output."""

from typing import Any

import numpy as np

from ..kernels import matmul
from ..kernels.contract import OPERATIONS
from ..kernels.network import aligned_zeros
from .contest import REFERENCE, Setting, Side, contest, enter_ways, judge, judge_peer
from .timing import repeated, seconds
from .workloads import Product


def product_row(product: Product, setting: Setting) -> dict[str, Any]:
    """One row of the suite."""
    setting.tell(f"{product.name}: do the numbers agree?")
    n, k, m, dtype = product.n, product.k, product.m, setting.dtype
    rng = np.random.default_rng(0)
    a, b = (aligned_zeros(shape, np.dtype(dtype)) for shape in _stored(product))
    for array in (a, b):
        array[...] = rng.standard_normal(array.shape, dtype=np.float32)
    ours, out = (aligned_zeros((n, m), np.dtype(dtype)) for _ in range(2))
    left, right = a.T if product.transpose_a else a, b.T if product.transpose_b else b

    def call() -> np.ndarray:
        return matmul(
            a, b, ours, transpose_a=product.transpose_a, transpose_b=product.transpose_b, backend=setting.backend
        )

    first_call_s = seconds(call)
    single, double = ((left.astype(kind) @ right.astype(kind)) for kind in ("float32", "float64"))
    agreement = judge(dtype, [single], [double], [ours])
    sides = [Side(REFERENCE, "reference", lambda: np.matmul(left, right, out=out), setting.threads)]
    for peer in setting.peers:
        ways = peer.products(a, b, product.transpose_a, product.transpose_b)
        agreements = {way: judge_peer(None, [double], [peer.as_numpy(times())]) for way, times in ways.items()}
        side = enter_ways(peer.name, setting.threads, ways, agreements)
        if side is not None:
            sides.append(side)
    sides.append(
        Side(setting.backend, "backend", call, setting.threads, agreement=agreement, first_call_s=first_call_s)
    )
    for side in sides:
        side.call, side.count = repeated(side.call)
    if setting.alone:
        alone, count = repeated(call)
        sides.append(Side(f"{setting.backend}, 1 thread", "variant", setting.on_one_thread(alone), 1, count))
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
