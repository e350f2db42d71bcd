"""CUDA C++'s rounding to bfloat16, on the processor, against the reference's."""

import numpy as np
import pytest
from cuda_host import ORDERS, Kernel
from host_compiler import needs_compiler

from fastmlp.kernels.cuda_cpp.registry import ROUNDING
from fastmlp.kernels.reference.rounding import rounded

pytestmark = needs_compiler


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("count", [1, 31, 5000])
def test_rounding_gives_the_references_bits(rng, count, order):
    bits = rng.integers(0, 1 << 32, count, np.uint32)  # NaN, Inf and subnormals among them
    bits[: min(count, 4)] = np.array([0x7FFFFFFF, 0x7F7FFFFF, 0x3F808000, 0xFF800000], np.uint32)[:count]
    x, out = bits.view(np.float32), np.full(count, 0xDEAD, np.uint16)
    Kernel(ROUNDING, "round_bfloat16", order=order)((3,), (64,), (x, out, np.int64(count)))
    expected = rounded(x).view(np.uint32) >> 16
    np.testing.assert_array_equal(out, expected.astype(np.uint16))
