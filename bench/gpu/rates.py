"""What this device reaches at most: a large copy on it, and large products by the vendor's library."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np

from .evaluation import Skipped

ROUNDS = 7


def copy_rate(rehearsal: bool) -> dict[str, Any]:
    """Bytes a second that a copy on the device moves, read and written counted."""
    xp, done = _arrays(rehearsal)
    source = xp.ones((2**10 if rehearsal else 2**29,), np.float32)
    target = xp.empty_like(source)
    calls = 20

    def copies() -> None:
        for _ in range(calls):
            target[...] = source
        done()

    return {"bytes_per_s": calls * 2 * source.nbytes / _seconds(copies)}


def product_rate(dtype: str, rehearsal: bool) -> dict[str, Any]:
    """FLOP/s of square products in this dtype, random operands; PyTorch multiplies where it is there, else CuPy."""
    n = 32 if rehearsal else 4096 if dtype == "float64" else 8192
    multiply, by = _torch_product(dtype, n, rehearsal) or _cupy_product(dtype, n, rehearsal)
    calls = 10

    def products() -> None:
        multiply(calls)

    return {"flops_per_s": calls * 2 * n**3 / _seconds(products), "by": by, "n": n}


def _torch_product(dtype: str, n: int, rehearsal: bool) -> tuple[Callable[[int], None], str] | None:
    try:
        import torch
    except ImportError:
        return None
    if not (rehearsal or torch.cuda.is_available()):
        return None
    device = "cpu" if rehearsal else "cuda"
    kind = getattr(torch, "float32" if dtype == "tf32" else dtype)
    a, b = (torch.randn(n, n, device=device, dtype=torch.float32).to(kind) for _ in range(2))
    out = torch.empty(n, n, device=device, dtype=kind)

    def multiply(calls: int) -> None:
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
        for _ in range(calls):
            torch.mm(a, b, out=out)
        if not rehearsal:
            torch.cuda.synchronize()
        torch.backends.cuda.matmul.allow_tf32 = before

    return multiply, f"torch {torch.__version__}"


def _cupy_product(dtype: str, n: int, rehearsal: bool) -> tuple[Callable[[int], None], str]:
    if dtype in ("bfloat16", "tf32"):
        raise Skipped(f"CuPy does not multiply {dtype}, and PyTorch is not there")
    xp, done = _arrays(rehearsal)
    a, b = (xp.asarray(np.random.default_rng(i).standard_normal((n, n)).astype(dtype)) for i in range(2))
    out = xp.empty_like(a)

    def multiply(calls: int) -> None:
        for _ in range(calls):
            xp.matmul(a, b, out=out)
        done()

    return multiply, f"{xp.__name__} {xp.__version__}"


def _arrays(rehearsal: bool) -> tuple[Any, Callable[[], object]]:
    """CuPy and how to wait for it, or NumPy."""
    if rehearsal:
        return np, lambda: None
    import cupy

    return cupy, lambda: cupy.cuda.get_current_stream().synchronize()


def _seconds(call: Callable[[], None]) -> float:
    """The median of some calls, after one that warms up."""
    call()
    taken = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return median(taken)
