"""The operations of fastmlp on plain arrays: checked, then run by the chosen backend.

>>> from fastmlp.kernels import matmul, bias_add, mse, linear_forward, linear_backward_update
"""

if __name__ != "fastmlp.kernels":
    raise ImportError(
        f"this folder is the package fastmlp.kernels, but was imported as {__name__!r}: that would make a second copy "
        "of every compiled function. Write `import fastmlp.kernels` (after `pip install -e .` in a checkout)."
    )

from .ops import bias_add, linear_backward_update, linear_forward, matmul, mse

__all__ = ["bias_add", "linear_backward_update", "linear_forward", "matmul", "mse"]
