"""What a training step will run, how much memory it takes, and the time that the machine's ceilings allow."""

import textwrap
from dataclasses import dataclass
from functools import cached_property

from .kernels import backend as backends
from .kernels.contract import HIGHEST_IN_FLOAT32, LOSSES, OPERATIONS, forward_flops, step_flops
from .kernels.crossover import Cell
from .kernels.network import Network, Optimizer

MANY_STEPS = 1000
"""Steps of the call that `threads` is stated for: enough that waking threads costs nothing."""


@dataclass(frozen=True)
class Phase:
    """One operation of a step on x[n, k] @ w[k, m]: FLOPs and bytes that must move, by the contract."""

    layer: int
    operation: str
    n: int
    k: int
    m: int
    activation: str
    flops: int
    bytes: int


@dataclass(frozen=True)
class Plan:
    """The plan of a training step on `batch_size` rows; `print(plan)` shows it all."""

    structure: Network
    optimizer: Optimizer
    backend: str
    asked: str
    batch_size: int

    @property
    def reason(self) -> str:
        """Why this backend."""
        if self.asked != "auto":
            return "asked for by name"
        return f"auto, {backends.automatic(self.structure)[1]}"

    @property
    def kernel(self) -> str | None:
        """Which of its ways to train the backend takes; None where it has but one."""
        kernels_of = getattr(backends.load(self.backend), "training_kernels", None)
        return None if kernels_of is None else next(iter(kernels_of(self.structure)))

    @property
    def measured(self) -> Cell | None:
        """What was measured on this machine of such a network and batch, the fastest first; None if nothing was."""
        return backends.crossover().nearest(self.structure, self.batch_size)

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """The operations of one step in the order they run: forward through the layers, then backward."""
        n, itemsize = self.batch_size, self.structure.dtype.itemsize
        forward: list[Phase] = []
        backward: list[Phase] = []
        for i, layer in enumerate(self.structure.layers):
            k, m = layer.inputs, layer.outputs
            no_z = () if layer.saves_preactivation else ("z",)
            no_dx = ("dx",) if i == 0 else ()
            ahead = forward_flops((k, m), n)
            back = OPERATIONS["linear_backward_update"].flops(n, k, m) if i > 0 else step_flops((k, m), n) - ahead
            for phases, name, flops, absent in (
                (forward, "linear_forward", ahead, no_z),
                (backward, "linear_backward_update", back, no_dx),
            ):
                moved = OPERATIONS[name].bytes(n, k, m, itemsize, absent)
                phases.append(Phase(i, name, n, k, m, layer.activation, flops, moved))
        return (*forward, *reversed(backward))

    @property
    def flops(self) -> int:
        """FLOPs of one step."""
        return sum(phase.flops for phase in self.phases)

    @property
    def bytes(self) -> int:
        """Bytes that one step must move if nothing stays in cache between two operations."""
        return sum(phase.bytes for phase in self.phases)

    @cached_property
    def memory(self) -> dict[str, int]:
        """Bytes that a fit holds, by kind. Shuffling adds 8 bytes a sample of the training set."""
        size = self.structure.size * self.structure.dtype.itemsize
        workspace = backends.load(self.backend).Workspace(self.structure, self.batch_size, True)
        return {
            "parameters": size,
            "optimizer state": self.optimizer.slots * size,
            "activations and gradients": workspace.nbytes,
        }

    @property
    def nbytes(self) -> int:
        """Bytes that a fit holds."""
        return sum(self.memory.values())

    @cached_property
    def threads(self) -> int | None:
        """Threads of a call of many steps; None where the backend counts none: NumPy's BLAS, the GPU."""
        threads_for = getattr(backends.load(self.backend), "threads_for", None)
        return None if threads_for is None else threads_for(self.flops, MANY_STEPS)

    @cached_property
    def ceilings(self) -> tuple[float, float] | None:
        """(FLOP/s, bytes/s) that this machine reaches at most with what this plan holds; None if not measured."""
        measured = backends.ceilings(self.backend)
        if measured is None:
            return None
        return measured.peak(self.structure.arithmetic, self.threads), measured.bandwidth(self.nbytes, self.threads)

    @property
    def seconds_allowed(self) -> float | None:
        """The least time a step can take: for each operation the longer of its arithmetic and its memory traffic."""
        if self.ceilings is None:
            return None
        flops, bandwidth = self.ceilings
        return sum(max(phase.flops / flops, phase.bytes / bandwidth) for phase in self.phases)

    @property
    def _products(self) -> list[str]:
        """How products run, where the backend has more than one way."""
        describe = getattr(backends.load(self.backend), "describe", None)
        return [] if describe is None else [f"products: {describe(self.structure)}"]

    @property
    def _training(self) -> list[str]:
        """What trains, where the backend has more than one way."""
        describe = getattr(backends.load(self.backend), "training_kernel", None)
        labels = LOSSES[self.structure.loss].target == "classes"
        return [] if describe is None else [describe(self.structure, self.optimizer, self.batch_size, labels)]

    @property
    def _precision(self) -> list[str]:
        """How products of float32 run, where they may run in more than one way."""
        if self.structure.dtype_name != "float32":
            return []
        module = backends.load(self.backend)
        how = module.HIGH if self.structure.high else module.HIGHEST
        return [] if how == HIGHEST_IN_FLOAT32 else [f"precision {self.structure.precision} is {how}"]

    def __str__(self) -> str:
        widths = "-".join(map(str, self.structure.widths))
        unknown = "threads of the GPU" if self.backend == "cuda" else "threads as NumPy's BLAS decides"
        threads = unknown if self.threads is None else f"threads: {self.threads}"
        lines = [
            f"MLP {widths}, {self.structure.dtype_name}, {self.structure.loss}, {self.optimizer.name}, "
            f"batch {self.batch_size}",
            f"backend {self.backend} ({self.reason})",
            f"{'' if self.kernel is None else f'kernel {self.kernel}, '}{threads}",
            *([f"bfloat16 is {backends.load(self.backend).BFLOAT16}"] if self.structure.bfloat16 else []),
            *([f"float16 is {backends.load(self.backend).FLOAT16}"] if self.structure.float16 else []),
            *self._precision,
            *self._products,
            *(f"trains by {each}" for each in self._training),
            "",
            f"{'layer':>5}  {'operation':<22}  {'n x k x m':>18}  {'activation':<10}  {'MFLOP':>10}  {'KiB moved':>10}",
        ]
        lines += [
            f"{phase.layer:>5}  {phase.operation:<22}  {f'{phase.n} x {phase.k} x {phase.m}':>18}  "
            f"{phase.activation:<10}  {phase.flops / 1e6:>10.3f}  {phase.bytes / 1024:>10.1f}"
            for phase in self.phases
        ]
        lines += [f"{'step':>5}  {'':<54}  {self.flops / 1e6:>10.3f}  {self.bytes / 1024:>10.1f}", ""]
        if self.seconds_allowed is not None and self.ceilings is not None:
            flops, bandwidth = self.ceilings
            lines += [
                f"the machine allows {1e6 * self.seconds_allowed:.2f} us a step "
                f"({flops / 1e9:.0f} GFLOP/s, {bandwidth / 1e9:.1f} GB/s)",
                "",
            ]
        if self.measured is not None:
            times = "; ".join(f"{each} {each.us:.4g}" for each in self.measured.contenders)
            lines += [
                f"measured here, four layers {self.measured.width} wide, batch {self.measured.batch_size}, us a step:",
                *textwrap.wrap(times, 120, initial_indent="  ", subsequent_indent="  "),
                "",
            ]
        lines += [f"{kind:<26} {_binary(size):>12}" for kind, size in {**self.memory, "total": self.nbytes}.items()]
        return "\n".join(lines)


def _binary(size: float) -> str:
    """Bytes in the unit that reads best."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} GiB"
