"""The CPU backend: explicit vectors and register tiles in Numba, on a team of threads that is safe to fork.

See README.md for how blocking, layouts and threads fit together.
"""

from .bias_add import bias_add
from .ceilings import ceilings
from .compile import machine_file
from .forward import forward, predictor
from .linear_backward_update import linear_backward_update
from .linear_forward import linear_forward
from .loss import loss
from .matmul import matmul
from .mse import mse
from .operations import direct_operation
from .stepper import stepper
from .team import threads_for
from .train import gradients, timed, train
from .units import BFLOAT16, HIGH, HIGHEST, UNAVAILABLE
from .workspace import Workspace, training_kernels

__all__ = [
    "BFLOAT16",
    "HIGH",
    "HIGHEST",
    "UNAVAILABLE",
    "Workspace",
    "bias_add",
    "ceilings",
    "direct_operation",
    "forward",
    "gradients",
    "linear_backward_update",
    "linear_forward",
    "loss",
    "machine_file",
    "matmul",
    "mse",
    "predictor",
    "stepper",
    "threads_for",
    "timed",
    "train",
    "training_kernels",
]
