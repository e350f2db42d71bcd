"""The elementary functions that kernels call, and what differs between a GPU and Numba's simulator of one.

Compiled, the names of `math` become CUDA's own functions, in float32 for float32. The simulator runs kernels as Python,
where `math` raises and `numpy` goes on as IEEE arithmetic says: there the same names are NumPy's.
"""

import math
from typing import Any

import numba
import numpy as np

SIMULATED = bool(numba.config.ENABLE_CUDASIM)
"""Whether NUMBA_ENABLE_CUDASIM asks for the simulator; device arrays are NumPy's then."""


def _simulated_erfc(x: np.floating) -> np.floating:
    """The complementary error function, which NumPy lacks, rounded to the argument's type."""
    return type(x)(math.erfc(x))


_source: Any = np if SIMULATED else math

cos, exp, log, log1p = _source.cos, _source.exp, _source.log, _source.log1p
sin, sqrt, tanh = _source.sin, _source.sqrt, _source.tanh
erfc = _simulated_erfc if SIMULATED else math.erfc
