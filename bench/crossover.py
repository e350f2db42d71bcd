"""The suite `crossover`: for a grid of widths and batches, which backend and which of its kernels trains soonest."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..buffers import Buffers
from ..errors import BackendUnavailable
from ..kernels import backend as backends
from ..kernels.contract import step_flops
from ..kernels.crossover import Cell, Contender
from ..kernels.network import Optimizer
from ..network import POSITIONS_A_CALL
from .contest import REFERENCE, Setting, Side, contest, judge
from .timing import repeated, seconds
from .training import AGREEMENT_STEPS, Trial, new_network, new_row, peer_sides
from .workloads import SIZE_FLOPS, Workload

ROUNDS = 7
"""Turns of each cell: few, for there are many cells."""


@dataclass
class Entrant(Side):
    """A side that is a way of `backend` to train; `usual` if it is what the backend does by itself."""

    backend: str = REFERENCE
    usual: bool = True


class Steps:
    """A fresh network that `self()` trains for `count` steps, in one call of the backend's `train`.

    Rows come in a random order, as `fit` has them. `workspace` makes the workspace, and so chooses the backend's
    kernel; None takes the backend's own choice.
    """

    def __init__(
        self, workload: Workload, backend: str, dtype: str, count: int, workspace: Callable[..., Any] | None = None
    ):
        net, self._module = new_network(workload, REFERENCE, dtype), backends.load(backend)
        self._structure, self._optimizer = net.structure, Optimizer(workload.optimizer, workload.learning_rate)
        self._buffers = Buffers(net.structure, self._optimizer)
        self._buffers.move(self._module)
        self._buffers.parameters[:] = net.parameters
        data = workload.make(workload).cast(dtype)
        self._x, self._t = self._buffers.near(data.x), self._buffers.near(data.t)
        rows = np.random.default_rng(0).permutation(workload.samples)
        self._order = np.resize(rows, count * workload.batch_size)
        self._batch_size, self._losses = workload.batch_size, np.empty(count)
        with self._buffers.device():
            self.workspace = (workspace or self._module.Workspace)(net.structure, workload.batch_size, True)

    def __call__(self) -> None:
        """Make the steps; their losses are there when they are made."""
        self._module.train(
            self._structure, self._optimizer, *self._buffers.operands(writes=True), 0, self._x, self._t, self._order, 0,
            self._batch_size, self._losses, self.workspace,
        )  # fmt: skip
        self._buffers.written()

    def parameters(self) -> np.ndarray:
        """A live view of them."""
        return self._buffers.parameters

    def outcome(self) -> list[np.ndarray]:
        """What the steps leave: each weight matrix, all biases as one, the losses."""
        self()
        left = self.parameters()
        return [*self._structure.weights(left), np.concatenate(self._structure.biases(left)), self._losses]


def crossover_row(workload: Workload, setting: Setting) -> dict[str, Any]:
    """One row of the suite, a cell of the map; it is kept for `backend="auto"` and the plan, but not of a quick run."""
    row = new_row(workload, setting, "crossover")
    sides = _sides(workload, setting, row["dtype"])
    setting.tell(f"{workload.name}: who is the fastest?")
    contest(row, sides, setting, step_flops(workload.widths, workload.batch_size), most=ROUNDS)
    if not setting.quick:
        _keep(row, sides, setting)
    return row


def _sides(workload: Workload, setting: Setting, dtype: str) -> list[Side]:
    """The reference, peers, the backend by its own choice, by its other kernels, on one thread; other backends."""
    flops = step_flops(workload.widths, workload.batch_size)
    count = max(1, min(int(SIZE_FLOPS) // flops, POSITIONS_A_CALL // workload.batch_size))
    single, double = (
        Steps(workload, REFERENCE, kind, AGREEMENT_STEPS).outcome()
        for kind in ("float32" if dtype == "float64" else dtype, "float64")
    )

    def entrant(name: str, role: str, backend: str, kernel: str | None, workspace: Any, usual: bool) -> Entrant:
        received: list[np.ndarray] = []
        trial = Steps(workload, backend, dtype, AGREEMENT_STEPS, workspace)
        first_call_s = seconds(lambda: received.extend(trial.outcome()))
        agreement = judge(dtype, single, double, received) | {"steps": AGREEMENT_STEPS}
        steps = Steps(workload, backend, dtype, count, workspace)
        call, times = repeated(steps)
        threads = _threads(backend, steps, flops, count, setting)
        return Entrant(
            name, role, call, threads, count * times, kernel, agreement, first_call_s, backend=backend, usual=usual
        )

    reference = entrant(REFERENCE, "reference", REFERENCE, None, None, True)
    reference.agreement = reference.first_call_s = None
    sides: list[Side] = [reference]
    epochs = -(-reference.count * workload.batch_size // workload.samples)
    sized = replace(workload, epochs=epochs)
    trial = Trial(sized, sized.make(sized).cast(dtype), dtype)
    sides += [replace(peer, count=sized.steps) for peer in peer_sides(trial, setting)]
    chosen, *others = _kernels(setting.backend, workload, dtype)
    usual = entrant(setting.backend, "backend", setting.backend, *chosen, True)
    sides.append(usual)
    sides += [
        entrant(f"{setting.backend}, {kernel}", "variant", setting.backend, kernel, workspace, False)
        for kernel, workspace in others
    ]
    if setting.alone and usual.threads > 1:
        alone = entrant(f"{setting.backend}, 1 thread", "variant", setting.backend, *chosen, False)
        sides.append(replace(alone, call=setting.on_one_thread(alone.call), threads=1))
    for other in backends.BACKENDS:
        if other not in (REFERENCE, setting.backend) and _trains(other, dtype):
            kernel, workspace = _kernels(other, workload, dtype)[0]
            sides.append(entrant(other, "variant", other, kernel, workspace, True))
    return sides


def _kernels(backend: str, workload: Workload, dtype: str) -> list[tuple[str | None, Any]]:
    """The backend's ways to train the network and what makes their workspaces, its own choice first; or one of None."""
    kernels_of = getattr(backends.load(backend), "training_kernels", None)
    if kernels_of is None:
        return [(None, None)]
    return list(kernels_of(new_network(workload, REFERENCE, dtype).structure).items()) or [(None, None)]


def _threads(backend: str, steps: Steps, flops: int, count: int, setting: Setting) -> int:
    """Threads that a call takes; of the reference those that it may take."""
    threads_for = getattr(backends.load(backend), "threads_for", None)
    asked = setting.threads if threads_for is None else threads_for(flops, count)
    return min(asked, getattr(steps.workspace, "most_members", asked))


def _trains(backend: str, dtype: str) -> bool:
    try:
        backends.load(backend)
        backends.require_dtype(backend, dtype)
    except BackendUnavailable:
        return False
    return True


def _keep(row: dict[str, Any], sides: Sequence[Side], setting: Setting) -> None:
    """Let the machine's map know of the row; peers are no backends."""
    contenders = [
        Contender(side.backend, side.way, side.threads, side.usual, figures["value"]["median"], figures["value"]["iqr"])
        for side, figures in zip(sides, row["sides"], strict=True)
        if isinstance(side, Entrant) and figures["value"] is not None
    ]
    if contenders:
        contenders.sort(key=lambda each: each.us)
        cell = Cell(row["widths"][0], row["batch_size"], tuple(contenders))
        backends.crossover().record(row["dtype"], setting.threads, cell)
