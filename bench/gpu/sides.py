"""Who trains a workload on the GPU: fastmlp, PyTorch in three ways, CuPy on cuBLAS, and the NumPy reference.

Each is a `Trainer` of peers/base.py whose data lie on the device; `fit` ends when the device is done. In a rehearsal,
which has no GPU, PyTorch computes on the CPU, NumPy stands for CuPy and a captured step is just called again.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ...kernels import backend as backends
from ..peers import Trainer
from ..peers.base import BETA1, BETA2, EPSILON
from ..peers.torch import Torch, TorchBfloat16, TorchCompile, _EagerTrainer
from ..training import new_network
from ..workloads import Data, Workload
from .evaluation import graphs_are

Builder = Callable[[Workload, list[np.ndarray], list[np.ndarray], Data], Trainer]


class Fastmlp:
    """`MLP.fit` as a user calls it, on device arrays; the reference on NumPy's."""

    def __init__(self, backend: str, dtype: str, workload: Workload, data: Data) -> None:
        self.workload, self.net = workload, new_network(workload, backend, dtype)
        resident = getattr(backends.load(backend), "resident", lambda array: array)
        cast = data.cast(dtype)
        self.x, self.t = resident(cast.x), resident(cast.t)

    def fit(self, epochs: int) -> None:
        """So many epochs; the losses that come back say that the device is done."""
        self.net.fit(self.x, self.t, epochs, self.workload.batch_size, shuffle=False, progress=False)

    def parameters(self) -> list[np.ndarray]:
        """Weights, then biases."""
        return [*self.net.weights, *self.net.biases]


class Launched(Fastmlp):
    """The same with every step launched kernel by kernel, none as a CUDA graph."""

    def fit(self, epochs: int) -> None:
        """As Fastmlp's."""
        with graphs_are("off"):
            super().fit(epochs)


class _OnDevice:
    """What PyTorch's peers do otherwise on a GPU."""

    torch: Any
    device = "cuda"

    def tensors(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        return [self.torch.from_numpy(array.copy()).to(self.device) for array in arrays]

    def batches(self, workload: Workload, data: Data) -> list[tuple[Any, Any]]:
        x, t = self.tensors([data.x, data.t])
        return list(zip(x.split(workload.batch_size), t.split(workload.batch_size), strict=True))

    def as_numpy(self, result: Any) -> np.ndarray:
        array: np.ndarray = result.detach().float().cpu().numpy()
        return array

    def done(self) -> None:
        if self.device == "cuda":
            self.torch.cuda.synchronize()


class _Eager(_OnDevice, Torch):
    pass


class _Compiled(_OnDevice, TorchCompile):
    pass


class _CompiledBfloat16(_OnDevice, TorchBfloat16):
    def forward(self, workload: Workload, parameters: Sequence[Any], x: Any) -> Any:
        with self.torch.autocast(self.device, dtype=self.torch.bfloat16):
            y = Torch.forward(self, workload, parameters, x)
        return y.float()


class _Synchronised:
    """A trainer of PyTorch's whose `fit` waits for the device."""

    def __init__(self, peer: Any, trainer: Trainer) -> None:
        self.peer, self.trainer = peer, trainer

    def fit(self, epochs: int) -> None:
        self.trainer.fit(epochs)
        self.peer.done()

    def parameters(self) -> list[np.ndarray]:
        return self.trainer.parameters()


class _Captured(_EagerTrainer):
    """PyTorch's eager step, captured whole as a CUDA graph and replayed for each batch, which is copied in first."""

    def __init__(
        self, peer: Any, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data
    ) -> None:
        super().__init__(peer, workload, weights, biases, data, "fused")
        self.torch = peer.torch
        self.device = peer.device
        self.replays: dict[int, Callable[[Any, Any], None]] = {}
        if workload.optimizer == "adam":
            for group in self.optimizer.param_groups:
                group["capturable"] = True
        start = [tensor.detach().clone() for tensor in self.tensors]
        for x, t in self.batches:
            if len(x) not in self.replays:
                self.replays[len(x)] = self._capture(x.clone(), t.clone())
        with self.torch.no_grad():
            for tensor, first in zip(self.tensors, start, strict=True):
                tensor.copy_(first)
            for memory in self.optimizer.state.values():
                for value in memory.values():
                    if self.torch.is_tensor(value):
                        value.zero_()

    def _capture(self, x: Any, t: Any) -> Callable[[Any, Any], None]:
        def step() -> None:
            self.optimizer.zero_grad(set_to_none=True)
            self.peer.loss(self.workload, self.tensors, x, t).backward()
            self.optimizer.step()

        replay = step
        if self.device == "cuda":
            stream = self.torch.cuda.Stream()
            stream.wait_stream(self.torch.cuda.current_stream())
            with self.torch.cuda.stream(stream):
                for _ in range(3):
                    step()
            self.torch.cuda.current_stream().wait_stream(stream)
            graph = self.torch.cuda.CUDAGraph()
            with self.torch.cuda.graph(graph):
                step()
            replay = graph.replay
        else:
            step()

        def run(batch_x: Any, batch_t: Any) -> None:
            x.copy_(batch_x)
            t.copy_(batch_t)
            replay()

        return run

    def fit(self, epochs: int) -> None:
        for _ in range(epochs):
            for x, t in self.batches:
                self.replays[len(x)](x, t)


class Arrays:
    """A training step written in NumPy's words, as one does with CuPy: products by cuBLAS, a kernel for every word."""

    def __init__(
        self, xp: Any, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data
    ) -> None:
        self.xp, self.workload = xp, workload
        self.w, self.b = ([xp.array(array) for array in arrays] for arrays in (weights, biases))
        self.memory = [[xp.zeros_like(array), xp.zeros_like(array)] for array in (*self.w, *self.b)]
        x, t = xp.asarray(data.x), xp.asarray(data.t)
        if t.ndim == 1:
            t = xp.eye(workload.widths[-1], dtype=x.dtype)[t]
        n = workload.batch_size
        self.batches = [(x[start : start + n], t[start : start + n]) for start in range(0, len(x), n)]
        self.updates = 0

    def fit(self, epochs: int) -> None:
        """So many epochs."""
        for _ in range(epochs):
            for x, t in self.batches:
                self._step(x, t)
        if self.xp is not np:
            self.xp.cuda.get_current_stream().synchronize()

    def _step(self, x: Any, t: Any) -> None:
        xp, last = self.xp, len(self.w) - 1
        y = [x]
        for i, (w, b) in enumerate(zip(self.w, self.b, strict=True)):
            z = y[-1] @ w + b
            hidden = self.workload.activation if i < last else "identity"
            y.append({"identity": lambda z: z, "relu": lambda z: xp.maximum(z, 0), "tanh": xp.tanh}[hidden](z))
        if self.workload.loss == "mse":
            dz = (y[-1] - t) * (2 / t.size)
        else:
            e = xp.exp(y[-1] - y[-1].max(axis=1, keepdims=True))
            dz = (e / e.sum(axis=1, keepdims=True) - t) * (1 / len(t))
        gradients: list[Any] = [None] * (2 * len(self.w))
        for i in range(last, -1, -1):
            gradients[i], gradients[len(self.w) + i] = y[i].T @ dz, dz.sum(axis=0)
            if i > 0:
                dz = dz @ self.w[i].T
                if self.workload.activation == "relu":
                    dz *= y[i] > 0
                elif self.workload.activation == "tanh":
                    dz *= 1 - y[i] * y[i]
        self._update(gradients)

    def _update(self, gradients: list[Any]) -> None:
        self.updates += 1
        rate = self.workload.learning_rate
        scale = rate * (1 - BETA2**self.updates) ** 0.5 / (1 - BETA1**self.updates)
        for array, g, (m, v) in zip((*self.w, *self.b), gradients, self.memory, strict=True):
            if self.workload.optimizer == "sgd":
                array -= rate * g
                continue
            m += (1 - BETA1) * (g - m)
            v += (1 - BETA2) * (g * g - v)
            array -= scale * m / (self.xp.sqrt(v) + EPSILON)

    def parameters(self) -> list[np.ndarray]:
        """Weights, then biases."""
        return [array if self.xp is np else array.get() for array in (*self.w, *self.b)]


def builders(dtype: str, compiled: bool, launched: bool, rehearsal: bool) -> dict[str, Builder]:
    """The sides of a contest in this dtype, the reference first and fastmlp second; each call may raise ImportError.

    torch.compile, which takes long, takes part if `compiled`, and fastmlp without CUDA graphs if `launched`.
    In float32 PyTorch multiplies in float32 as well, its default; in bfloat16 its sides are those of autocast.
    """

    def ours(backend: str, workload: Workload, weights: Any, biases: Any, data: Data) -> Trainer:
        return Fastmlp(backend, dtype, workload, data)

    def torch(cls: Any, kind: Any, workload: Workload, weights: Any, biases: Any, data: Data) -> Trainer:
        if rehearsal:
            cls = type(cls.__name__, (cls,), {"device": "cpu"})
        peer = cls(1)
        cast = data.cast(dtype)
        return _Synchronised(peer, kind(peer, workload, weights, biases, cast))

    def whole_step(peer: Any, workload: Workload, weights: Any, biases: Any, data: Data) -> Trainer:
        return TorchCompile.trainers(peer, workload, weights, biases, data)["whole step"]()

    def eager(peer: Any, workload: Workload, weights: Any, biases: Any, data: Data) -> Trainer:
        return _EagerTrainer(peer, workload, weights, biases, data, "fused")

    def array_library(workload: Workload, weights: Any, biases: Any, data: Data) -> Trainer:
        if rehearsal:
            return Arrays(np, workload, weights, biases, data.cast(dtype))
        import cupy

        return Arrays(cupy, workload, weights, biases, data.cast(dtype))

    rounding = dtype == "bfloat16"
    plain = _CompiledBfloat16 if rounding else _Eager
    found: dict[str, Builder] = {
        "numpy": partial(ours, "numpy"),
        "fastmlp": partial(ours, "cuda"),
        "torch eager": partial(torch, plain, eager),
        "torch CUDA graph": partial(torch, plain, _Captured),
    }
    if launched:
        found["fastmlp, launched"] = lambda workload, weights, biases, data: Launched("cuda", dtype, workload, data)
    if compiled:
        found["torch.compile"] = partial(torch, _CompiledBfloat16 if rounding else _Compiled, whole_step)
    if not rounding:
        found["cupy"] = array_library
    return found
