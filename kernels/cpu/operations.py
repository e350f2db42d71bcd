"""The operations that are judged and done by direct functions, by name."""

from collections.abc import Callable

from .bias_add import directly as bias_add
from .linear_forward import directly as linear_forward
from .matmul import directly as matmul
from .units import splits_every_product

_OPERATIONS = {"bias_add": bias_add, "linear_forward": linear_forward, "matmul": matmul}


def direct_operation(name: str) -> Callable[..., int] | None:
    """The function that does this operation, see kernels/README.md; None where there is none.

    Nor is there one for products where those of float32 are all split: it does small ones itself.
    """
    if name == "matmul" and splits_every_product():
        return None
    function: Callable[..., int] | None = _OPERATIONS[name].function
    return function
