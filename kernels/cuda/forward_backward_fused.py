"""Training narrow networks of bfloat16 by CUDA C++'s forward_backward_fused: two launches a step."""

from typing import Any

from ..cuda_cpp import fused_training
from ..cuda_cpp.fused_training import FusedTraining
from ..network import Network, Optimizer
from . import cubins, limits
from .optimizers import settings
from .reduction import sum_of_squares


def choice(network: Network, rows: int, labels: bool) -> FusedTraining | None:
    """How batches of `rows` rows are trained on the current device; None where layer by layer is the way."""
    target = cubins.target()
    if target is None or not network.bfloat16:
        return None
    return fused_training.choose(network, rows, labels, target, limits.shared_limit(), limits.multiprocessors())


def train(
    how: FusedTraining,
    network: Network,
    optimizer: Optimizer,
    parameters: Any,
    state: Any,
    updates: int,
    x: Any,
    target: Any,
    order: Any,
    start: int,
    batch_size: int,
    losses: Any,
    workspace: Any,
    penalties: Any = None,
) -> None:
    """The operation `train` on device arrays, as chosen.

    An error has the attribute `steps`: how many whole steps were made before it, and are in parameters and state.
    """
    weights = network.weights(parameters)
    for step in range(len(losses)):
        n = min(batch_size, len(x) - start % len(x))
        try:
            if step == 0:
                program, applying = how.program, fused_training.applying(network, optimizer.name)
                gradients = cubins.kernel(program, "forward_backward_fused", program.shared_bytes)
                apply = cubins.kernel(applying, "apply_gradients", applying.shared_bytes)
                partials, terms = workspace.sums(how.clusters)
            rule = optimizer
            if penalties is not None:
                rule = optimizer.shared(n)
                sum_of_squares(weights, rule.l2 / 2, workspace.partials, workspace.squares, penalties, step)
            first = start % len(x)
            batch: tuple[Any, Any, Any] = (
                (x[first:], target[first:], None) if order is None else (x, target, order[start:])
            )
            clusters = min(how.clusters, -(-n // how.rows))
            arguments = fused_training.arguments(parameters, *batch, n, partials, terms)
            gradients((clusters * how.blocks,), (program.threads,), arguments, shared_mem=program.shared_bytes)
            arguments = fused_training.applying_arguments(
                parameters, state, partials, terms, clusters, n, losses[step:], settings(rule, updates + step + 1)
            )
            grid = fused_training.applying_grid(network)
            apply(grid, (applying.threads,), arguments, shared_mem=applying.shared_bytes)
        except Exception as error:
            error.steps = step  # type: ignore[attr-defined]
            raise
        start += n
