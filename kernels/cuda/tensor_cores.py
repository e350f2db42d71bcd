"""Which networks' products run on tensor cores, on what operands, and why not."""

from itertools import pairwise

import numpy as np

from ..cuda_cpp import compile as compilation
from ..cuda_cpp import layers
from ..cuda_cpp.layers import EDGE, Elements
from ..network import Network
from . import cubins

BFLOAT16 = "multiplied on tensor cores, exact products summed in float32"
"""How products of bfloat16 run."""

FLOAT16 = BFLOAT16
"""How products of float16 run."""

HIGH = "three products of bfloat16 parts on tensor cores where that is faster, else float32's own multiply-adds"
"""How products of precision "high" run."""

HIGHEST = "six products of bfloat16 parts on tensor cores where that is faster, else float32's own multiply-adds"
"""How products of precision "highest" run."""

FAST_CAPABILITIES = ((8, 0), (9, 0), (10, 0), (10, 3))
"""Devices whose tensor cores multiply bfloat16 at 14 times the rate of float32's units or more, by the data sheets.

Float32 in three parts takes six products, so it gains there alone: GeForce's and the like have a ratio of 2 to 4.
"""

WASTE = 2.0
"""Tiles may compute this many times what is asked for; past that the portable kernels' smaller tiles are as good."""

_OF_PARTS = {
    1: (layers.BFLOAT16, layers.BFLOAT16_HOPPER),
    2: (layers.HIGH, layers.HIGH_HOPPER),
    3: (layers.HIGHEST, layers.HIGHEST_HOPPER),
}
"""What float32 operands are multiplied as, in how many parts: usually, and on Hopper."""


def elements_of(network: Network) -> Elements | None:
    """What the network's products multiply on the current device; None where the portable kernels run them."""
    if network.dtype != np.float32:
        return None
    if network.float16:
        return _for_device(layers.FLOAT16, layers.FLOAT16_HOPPER, network.widths)
    return _choice(network.widths, 1 if network.bfloat16 else 2 if network.high else 3)


def elements_of_matmul(shape: tuple[int, int], elements_of_a: int, parts: int) -> Elements | None:
    """The same for one product a @ b of this shape; `parts` as matmul takes them, 0 for the portable kernels."""
    if parts == 0 or elements_of_a == 0 or 0 in shape:
        return None
    return _choice(shape, parts)


def _choice(widths: tuple[int, ...], parts: int) -> Elements | None:
    if parts > 1 and not (fills_tiles(widths) and splitting_pays()):
        return None
    return _for_device(*_OF_PARTS[parts], widths)


def _for_device(usual: Elements, hopper: Elements, widths: tuple[int, ...]) -> Elements:
    return hopper if cubins.capability() == (9, 0) and fills_tiles(widths) else usual


def fills_tiles(widths: tuple[int, ...]) -> bool:
    """Whether layers this wide keep tiles busy: given enough rows, the three products' padding is in bounds."""
    pairs = list(pairwise(widths))
    asked = 3 * sum(k * m for k, m in pairs)
    computed = sum(_padded(k) * _padded(m) for k, m in pairs)  # the weight gradient
    computed += sum(k * _padded(m) for k, m in pairs)  # forward
    computed += sum(_padded(k) * m for k, m in pairs)  # the input gradient
    return computed <= WASTE * asked


def _padded(size: int) -> int:
    return -(-size // EDGE) * EDGE


def splitting_pays() -> bool:
    """Whether float32 in parts is faster on the current device than its own multiply-adds, and can be had."""
    return cubins.capability() in FAST_CAPABILITIES and why_not() is None


def why_not() -> str | None:
    """None if the kernels for tensor cores run on the current device; else the reason, and the cure."""
    major, minor = cubins.capability()
    if major < 8:
        return (
            f"the device has compute capability {major}.{minor}, and tensor cores take these kernels' operands "
            "from 8.0 on (A100, RTX 30); dtype='float32' runs on it"
        )
    return compilation.why_not()


def describe(network: Network) -> str:
    """One line on how the network's products run on the current device."""
    elements = elements_of(network)
    if elements is None:
        return f"{network.dtype.name} multiply-adds, portable kernels"
    products = elements.parts * (elements.parts + 1) // 2
    instruction = "wgmma and TMA" if elements.hopper else "mma.sync"
    times = f", {products} for each product" if products > 1 else ""
    return f"tensor cores ({instruction}) on {elements.name}{times}, summed in float32"
