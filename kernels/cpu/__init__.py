"""The CPU backend: explicit vectors and register tiles in Numba, on a team of threads that is safe to fork.

See kernels/README.md for how blocking, layouts and threads fit together.
"""

from .bias_add import bias_add
from .ceilings import ceilings
from .forward import forward
from .linear_backward_update import linear_backward_update
from .linear_forward import linear_forward
from .loss import loss
from .matmul import matmul
from .mse import mse
from .team import threads_for
from .train import gradients, train
from .workspace import Workspace

__all__ = [
    "Workspace",
    "bias_add",
    "ceilings",
    "forward",
    "gradients",
    "linear_backward_update",
    "linear_forward",
    "loss",
    "matmul",
    "mse",
    "threads_for",
    "train",
]
