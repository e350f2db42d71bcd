"""The CUDA backend: portable kernels in numba-cuda, for any shape, float32 and float64; tensor cores by CUDA C++.

The functions take device arrays: CuPy's, on the current device, and work on its current stream. NumPy arrays travel
to the device and back. See README.md for what has been proven of them and how.
"""

from ..network import Network as _Network
from ..network import Optimizer as _Optimizer
from . import bias_add as _bias_add
from . import forward as _forward
from . import forward_backward_fused as _forward_backward_fused
from . import graphs as _graphs
from . import linear_backward_update as _linear_backward_update
from . import linear_forward as _linear_forward
from . import loss as _loss
from . import matmul as _matmul
from . import mse as _mse
from . import train as _train
from . import train_resident as _train_resident
from .memory import DeviceArray, adopt, device, empty, follow
from .memory import hosted as _hosted
from .memory import to_device as resident
from .mirror import Mirror
from .tensor_cores import BFLOAT16, FLOAT16, HIGH, HIGHEST, describe
from .tensor_cores import why_not as why_no_tensor_cores
from .workspace import Workspace

matmul = _hosted(_matmul.matmul, writes=["out"])
bias_add = _hosted(_bias_add.bias_add, writes=["out"])
mse = _hosted(_mse.mse, writes=["gradient"])
linear_forward = _hosted(_linear_forward.linear_forward, writes=["y", "z"])
linear_backward_update = _hosted(
    _linear_backward_update.linear_backward_update, updates=["w", "b", "state"], writes=["dz", "dx"]
)
forward = _hosted(_forward.forward, writes=["out"])
loss = _hosted(_loss.loss, writes=["dy"])
gradients = _hosted(_train.gradients, updates=["gradient"])
train = _hosted(_train.train, updates=["parameters", "state"], writes=["losses", "penalties"])


def training_kernel(network: _Network, optimizer: _Optimizer, rows: int, labels: bool) -> str:
    """What trains on batches of `rows` rows, for a plan's text; labels: targets are classes."""
    how = _forward_backward_fused.choice(network, rows, labels) or _train_resident.choice(
        network, optimizer, rows, labels
    )
    return f"layer by layer, three launches each, {_graphs.describe()}" if how is None else how.kernel


__all__ = [
    "BFLOAT16",
    "FLOAT16",
    "HIGH",
    "HIGHEST",
    "DeviceArray",
    "Mirror",
    "Workspace",
    "adopt",
    "bias_add",
    "describe",
    "device",
    "empty",
    "follow",
    "forward",
    "gradients",
    "linear_backward_update",
    "linear_forward",
    "loss",
    "matmul",
    "mse",
    "resident",
    "train",
    "training_kernel",
    "why_no_tensor_cores",
]
