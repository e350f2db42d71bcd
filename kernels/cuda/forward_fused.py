"""Networks forward by CUDA C++'s forward_fused: one launch for all layers and all rows."""

from typing import Any

from ..cuda_cpp import fused
from ..cuda_cpp.fused import Fused
from ..network import Network
from . import cubins, limits


def choice(network: Network, rows: int) -> Fused | None:
    """How `rows` rows go forward on the current device; None where layer by layer is the way."""
    target = cubins.target()
    if target is None:
        return None
    return fused.choose(network, rows, target, limits.shared_limit(), limits.multiprocessors())


def forward(how: Fused, parameters: Any, x: Any, out: Any) -> None:
    """Write the network's outputs for x[n, inputs] to out[n, outputs], device arrays all, as chosen."""
    program = how.program
    kernel = cubins.kernel(program, "forward_fused", program.shared_bytes)
    arguments = fused.arguments(parameters, x, out)
    kernel((how.blocks,), (program.threads,), arguments, shared_mem=program.shared_bytes)
