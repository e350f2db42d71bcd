"""PyTorch: eager, whole steps compiled, and both in bfloat16 by autocast."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np

from ..workloads import Data, Workload
from .base import BETA1, BETA2, EPSILON, Calls, Peer, Trainers


class _Torch(Peer):
    """What PyTorch's two modes share."""

    package = cure = "torch"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def as_numpy(self, result: Any) -> np.ndarray:
        result = result.detach()
        return (result.float() if result.dtype == self.torch.bfloat16 else result).numpy()

    def operands(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        """Copies that are only multiplied: for a peer in bfloat16 they are cast here, once."""
        tensors = self.tensors(arrays)
        return [tensor.bfloat16() for tensor in tensors] if self.bfloat16 else tensors

    def tensors(self, arrays: Sequence[np.ndarray]) -> list[Any]:
        """Copies, since the framework trains them in place."""
        return [self.torch.from_numpy(array.copy()) for array in arrays]

    def batches(self, workload: Workload, data: Data) -> list[tuple[Any, Any]]:
        """The data as tensors, a view each batch."""
        x, t = self.torch.from_numpy(data.x), self.torch.from_numpy(data.t)
        return list(zip(x.split(workload.batch_size), t.split(workload.batch_size), strict=True))

    def forward(self, workload: Workload, parameters: Sequence[Any], x: Any) -> Any:
        """The network's outputs; parameters are the weights, then the biases."""
        activation = {"identity": lambda z: z, "relu": self.torch.relu, "tanh": self.torch.tanh}[workload.activation]
        layers = len(workload.widths) - 1
        for index in range(layers):
            x = self.torch.addmm(parameters[layers + index], x, parameters[index])
            if index < layers - 1:
                x = activation(x)
        return x

    def loss(self, workload: Workload, parameters: Sequence[Any], x: Any, t: Any) -> Any:
        functional = self.torch.nn.functional
        function = {"mse": functional.mse_loss, "cross_entropy": functional.cross_entropy}[workload.loss]
        return function(self.forward(workload, parameters, x), t)


class Torch(_Torch):
    """PyTorch, eager: autograd, then a fused or a foreach optimiser."""

    name = "torch"

    def trainers(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Trainers:
        """Autograd, then all parameters in one call of the optimiser."""
        return {
            f"{kind} optimiser": partial(_EagerTrainer, self, workload, weights, biases, data, kind)
            for kind in ("fused", "foreach")
        }

    def gradients(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Calls:
        """Autograd."""
        parameters = [tensor.requires_grad_() for tensor in self.tensors([*weights, *biases])]
        ((x, t),) = self.batches(workload, data)
        return {"eager": lambda: self.torch.autograd.grad(self.loss(workload, parameters, x, t), parameters)}

    def predictions(
        self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], x: np.ndarray
    ) -> Calls:
        """Without anything of autograd."""
        *parameters, x_ = self.operands([*weights, *biases, x])

        def predict() -> Any:
            with self.torch.inference_mode():
                return self.forward(workload, parameters, x_)

        return {"eager": predict}

    def products(self, a: np.ndarray, b: np.ndarray, transpose_a: bool, transpose_b: bool) -> Calls:
        """Into a given output, as NumPy."""
        a_, b_ = self.operands([a, b])
        a_, b_ = a_.T if transpose_a else a_, b_.T if transpose_b else b_
        out = self.torch.empty((a_.shape[0], b_.shape[1]), dtype=a_.dtype)
        return {"mm": lambda: self.torch.mm(a_, b_, out=out)}


class _EagerTrainer:
    def __init__(
        self,
        peer: _Torch,
        workload: Workload,
        weights: list[np.ndarray],
        biases: list[np.ndarray],
        data: Data,
        kind: str,
    ) -> None:
        self.peer, self.workload = peer, workload
        self.tensors = [tensor.requires_grad_() for tensor in peer.tensors([*weights, *biases])]
        self.batches = peer.batches(workload, data)
        optim = peer.torch.optim
        rule = {"sgd": optim.SGD, "adam": optim.Adam}[workload.optimizer]
        self.optimizer = rule(self.tensors, lr=workload.learning_rate, **{kind: True})

    def fit(self, epochs: int) -> None:
        for _ in range(epochs):
            for x, t in self.batches:
                self.optimizer.zero_grad(set_to_none=True)
                self.peer.loss(self.workload, self.tensors, x, t).backward()
                self.optimizer.step()

    def parameters(self) -> list[np.ndarray]:
        return [self.peer.as_numpy(tensor) for tensor in self.tensors]


class TorchCompile(_Torch):
    """PyTorch with the whole step, update included, in one compiled function."""

    name = "torch-compile"

    def trainers(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Trainers:
        """See `step`."""
        return {"whole step": partial(_CompiledTrainer, self, workload, weights, biases, data)}

    def gradients(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Calls:
        """The gradient as one compiled function."""
        parameters = self.tensors([*weights, *biases])
        ((x, t),) = self.batches(workload, data)
        gradient = self.compiled(self.torch.func.grad(lambda p, x, t: self.loss(workload, p, x, t)))
        return {"compiled": lambda: gradient(parameters, x, t)}

    def predictions(
        self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], x: np.ndarray
    ) -> Calls:
        """The forward pass as one compiled function."""
        *parameters, x_ = self.operands([*weights, *biases, x])
        forward = self.compiled(lambda p, x: self.forward(workload, p, x))

        def predict() -> Any:
            with self.torch.inference_mode():
                return forward(parameters, x_)

        return {"compiled": predict}

    @cache  # noqa: B019 - a peer lives as long as its process, and so do the compiled functions
    def step(self, workload: Workload) -> Callable[..., Any]:
        """One compiled update in place of `parameters` and Adam's `state`: two lists of their shapes, and a counter."""
        torch, rate = self.torch, workload.learning_rate

        def step(parameters: list[Any], state: Any, x: Any, t: Any) -> None:
            gradients = torch.func.grad(lambda p: self.loss(workload, p, x, t))(parameters)
            if workload.optimizer == "sgd":
                for w, g in zip(parameters, gradients, strict=True):
                    w.sub_(rate * g)
                return
            first, second, count = state
            count.add_(1)
            scale = rate * torch.sqrt(1 - BETA2**count) / (1 - BETA1**count)
            for w, g, m, v in zip(parameters, gradients, first, second, strict=True):
                m.mul_(BETA1).add_((1 - BETA1) * g)
                v.mul_(BETA2).add_((1 - BETA2) * g * g)
                w.sub_(scale * m / (torch.sqrt(v) + EPSILON))

        return self.compiled(step)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, compiled for the very shapes it gets.

        What was compiled for earlier rows is dropped: all of it would share one function's limit of eight variants,
        and be looked through at every call.
        """
        self.torch.compiler.reset()
        return self.torch.compile(function, dynamic=False, fullgraph=True)


class _CompiledTrainer:
    def __init__(
        self, peer: TorchCompile, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data
    ) -> None:
        torch = peer.torch
        self.peer, self.step = peer, peer.step(workload)
        self.tensors = peer.tensors([*weights, *biases])
        self.state: Any = None
        if workload.optimizer == "adam":
            first, second = ([torch.zeros_like(tensor) for tensor in self.tensors] for _ in range(2))
            count = torch.zeros(1, dtype=self.tensors[0].dtype)  # PyTorch 2.13 never counts a scalar of float64
            self.state = first, second, count
        self.batches = peer.batches(workload, data)

    def fit(self, epochs: int) -> None:
        with self.peer.torch.no_grad():
            for _ in range(epochs):
                for x, t in self.batches:
                    self.step(self.tensors, self.state, x, t)

    def parameters(self) -> list[np.ndarray]:
        return [self.peer.as_numpy(tensor) for tensor in self.tensors]


class TorchBfloat16(TorchCompile):
    """PyTorch in mixed precision: autocast to bfloat16 around the forward pass, eager or in the compiled step."""

    name = "torch-bf16"
    bfloat16 = True

    def forward(self, workload: Workload, parameters: Sequence[Any], x: Any) -> Any:
        """As PyTorch's documentation of autocast has it: the loss is taken in float32."""
        with self.torch.autocast("cpu", dtype=self.torch.bfloat16):
            y = super().forward(workload, parameters, x)
        return y.float()

    def trainers(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Trainers:
        """Of float32 alone: autocast leaves float64 as it is."""
        if weights[0].dtype != np.float32:
            return {}
        eager = partial(_EagerTrainer, self, workload, weights, biases, data, "fused")
        return {"eager": eager, **super().trainers(workload, weights, biases, data)}

    def gradients(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Calls:
        """None: that row is one of float64."""
        return {}

    def predictions(
        self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], x: np.ndarray
    ) -> Calls:
        """Eager or compiled, of float32 alone."""
        if weights[0].dtype != np.float32:
            return {}
        return {
            **Torch.predictions(self, workload, weights, biases, x),  # type: ignore[arg-type]
            **super().predictions(workload, weights, biases, x),
        }

    def products(self, a: np.ndarray, b: np.ndarray, transpose_a: bool, transpose_b: bool) -> Calls:
        """Operands of bfloat16 into a given output of bfloat16, of float32 alone."""
        if a.dtype != np.float32:
            return {}
        return Torch.products(self, a, b, transpose_a, transpose_b)  # type: ignore[arg-type]
