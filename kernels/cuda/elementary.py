"""The elementary functions that kernels call, and what differs between a GPU and Numba's simulator of one.

Compiled, the names of `math` become CUDA's own functions, in float32 for float32. The simulator runs kernels as Python,
where `math` raises and `numpy` goes on as IEEE arithmetic says: there the same names are NumPy's.
"""

import math

import numba
import numpy as np

SIMULATED = bool(numba.config.ENABLE_CUDASIM)
"""Whether NUMBA_ENABLE_CUDASIM asks for the simulator; device arrays are NumPy's then."""

if SIMULATED:
    from numpy import cos, exp, log, log1p, sin, sqrt, tanh

    def erfc(x: np.floating) -> np.floating:
        """The complementary error function, rounded to the argument's type."""
        return type(x)(math.erfc(x))

else:
    from math import cos, erfc, exp, log, log1p, sin, sqrt, tanh

__all__ = ["SIMULATED", "cos", "erfc", "exp", "log", "log1p", "sin", "sqrt", "tanh"]
