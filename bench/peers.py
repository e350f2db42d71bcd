"""Other frameworks, each at its best: the whole step compiled, the update inside it, the data already in its hands.

A peer offers *ways*, a name and a call each, where it cannot be known beforehand which is its best: a few calls of
every way are timed, and the fastest enters the contest. No framework is imported before it is asked for.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import metadata
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from ..errors import ArgumentError, require_name
from .workloads import Data, Workload

Calls = dict[str, Callable[[], Any]]
"""Ways to do the same thing: what each is called, and the call, which blocks until its result is there."""

BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's settings in every workload: fastmlp's defaults, and everyone else's."""


class Trainer(Protocol):
    """A network of a peer with data placed where it wants them, cut into batches: neither cut nor shuffled again."""

    def fit(self, epochs: int) -> None:
        """Make whole epochs; blocks until the parameters are there."""

    def parameters(self) -> list[np.ndarray]:
        """Weights w[in, out], then biases."""


Trainers = Mapping[str, Callable[[], Trainer]]


class Peer:
    """A framework on `threads` threads. A method that gives no way says that it cannot do that."""

    name: str
    package: str
    cure: str
    trains = True

    def __init__(self, threads: int) -> None:
        """Import the framework and set its threads; raises ImportError or OSError where it cannot be used."""
        self.threads = threads

    @property
    def version(self) -> str:
        """Of its package."""
        return metadata.version(self.package)

    def trainers(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Trainers:
        """Ways to train from these weights and biases, which are not written. Each call builds a fresh trainer."""
        return {}

    def gradients(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Calls:
        """Ways to take the gradients (of the weights, then of the biases) of all rows as one batch."""
        return {}

    def predictions(
        self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], x: np.ndarray
    ) -> Calls:
        """Ways to take the network's outputs for x."""
        return {}

    def products(self, a: np.ndarray, b: np.ndarray, transpose_a: bool, transpose_b: bool) -> Calls:
        """Ways to multiply two matrices."""
        return {}

    def as_numpy(self, result: Any) -> np.ndarray:
        """An array of this framework for comparison."""
        return np.asarray(result)


class _Torch(Peer):
    """What PyTorch's two modes share."""

    package = cure = "torch"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch

        self.torch = torch
        torch.set_num_threads(threads)

    def as_numpy(self, result: Any) -> np.ndarray:
        return result.detach().numpy()

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
        parameters, x_ = self.tensors([*weights, *biases]), self.torch.from_numpy(x)

        def predict() -> Any:
            with self.torch.inference_mode():
                return self.forward(workload, parameters, x_)

        return {"eager": predict}

    def products(self, a: np.ndarray, b: np.ndarray, transpose_a: bool, transpose_b: bool) -> Calls:
        """Into a given output, as NumPy."""
        a_, b_ = self.torch.from_numpy(a), self.torch.from_numpy(b)
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
        parameters, x_ = self.tensors([*weights, *biases]), self.torch.from_numpy(x)
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
            self.state = first, second, torch.zeros((), dtype=self.tensors[0].dtype)
        self.batches = peer.batches(workload, data)

    def fit(self, epochs: int) -> None:
        with self.peer.torch.no_grad():
            for _ in range(epochs):
                for x, t in self.batches:
                    self.step(self.tensors, self.state, x, t)

    def parameters(self) -> list[np.ndarray]:
        return [self.peer.as_numpy(tensor) for tensor in self.tensors]


class Jax(Peer):
    """JAX on the CPU: the whole step under jit, its parameters donated; or all of an epoch's steps under one scan."""

    name = "jax"
    package = cure = "jax"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        os.environ["JAX_PLATFORMS"] = "cpu"
        os.environ["NPROC"] = str(threads)  # XLA's pool of threads is as large as this says
        import jax

        jax.config.update("jax_enable_x64", True)
        self.jax = jax

    def forward(self, workload: Workload, parameters: Sequence[Any], x: Any) -> Any:
        """The network's outputs; parameters are the weights, then the biases."""
        jax = self.jax
        activation = {"identity": lambda z: z, "relu": jax.nn.relu, "tanh": jax.numpy.tanh}[workload.activation]
        layers = len(workload.widths) - 1
        for index in range(layers):
            x = x @ parameters[index] + parameters[layers + index]
            if index < layers - 1:
                x = activation(x)
        return x

    def loss(self, workload: Workload, parameters: Sequence[Any], x: Any, t: Any) -> Any:
        """The mean over the batch."""
        jnp, y = self.jax.numpy, self.forward(workload, parameters, x)
        if workload.loss == "mse":
            return jnp.mean((y - t) ** 2)
        return -jnp.mean(jnp.take_along_axis(self.jax.nn.log_softmax(y), t[:, None], axis=1))

    def trainers(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Trainers:
        """See `steps`."""
        return {
            "a step a call": partial(_JaxTrainer, self, workload, weights, biases, data, False),
            "an epoch a call": partial(_JaxTrainer, self, workload, weights, biases, data, True),
        }

    def gradients(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Calls:
        """The gradient as one compiled function."""
        parameters, x, t = self.arrays([*weights, *biases]), self.jax.numpy.array(data.x), self.jax.numpy.array(data.t)
        gradient = self.jax.jit(self.jax.grad(lambda p, x, t: self.loss(workload, p, x, t)))
        return {"jit": lambda: self.jax.block_until_ready(gradient(parameters, x, t))}

    def predictions(
        self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], x: np.ndarray
    ) -> Calls:
        """The forward pass as one compiled function."""
        parameters, x_ = self.arrays([*weights, *biases]), self.jax.numpy.array(x)
        forward = self.jax.jit(lambda p, x: self.forward(workload, p, x))
        return {"jit": lambda: forward(parameters, x_).block_until_ready()}

    def arrays(self, arrays: Sequence[np.ndarray]) -> tuple[Any, ...]:
        """Copies, since a step gives the memory of its parameters away."""
        return tuple(self.jax.numpy.array(array) for array in arrays)

    @cache  # noqa: B019 - a peer lives as long as its process, and so do the compiled functions
    def steps(self, workload: Workload) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """(state, x, t) -> state in the old one's memory: one step on x[n, k], and as many as x[steps, n, k] holds."""
        jax, rate = self.jax, workload.learning_rate
        jnp = jax.numpy

        def step(state: Any, x: Any, t: Any) -> Any:
            parameters, first, second, count = state
            gradients = jax.grad(lambda p: self.loss(workload, p, x, t))(parameters)
            if workload.optimizer == "sgd":
                return tuple(w - rate * g for w, g in zip(parameters, gradients, strict=True)), first, second, count
            count = count + 1
            scale = rate * jnp.sqrt(1 - BETA2**count) / (1 - BETA1**count)
            first = tuple(BETA1 * m + (1 - BETA1) * g for m, g in zip(first, gradients, strict=True))
            second = tuple(BETA2 * v + (1 - BETA2) * g * g for v, g in zip(second, gradients, strict=True))
            moments = zip(parameters, first, second, strict=True)
            return tuple(w - scale * m / (jnp.sqrt(v) + EPSILON) for w, m, v in moments), first, second, count

        def many(state: Any, x: Any, t: Any) -> Any:
            return jax.lax.scan(lambda state, batch: (step(state, *batch), None), state, (x, t))[0]

        return jax.jit(step, donate_argnums=0), jax.jit(many, donate_argnums=0)


class _JaxTrainer:
    def __init__(
        self,
        peer: Jax,
        workload: Workload,
        weights: list[np.ndarray],
        biases: list[np.ndarray],
        data: Data,
        scan: bool,
    ) -> None:
        jnp, n = peer.jax.numpy, workload.batch_size
        one, many = peer.steps(workload)
        parameters = peer.arrays([*weights, *biases])
        first, second = (
            tuple(jnp.zeros_like(p) for p in parameters) if workload.optimizer == "adam" else () for _ in range(2)
        )
        self.jax, self.state = peer.jax, (parameters, first, second, jnp.zeros((), parameters[0].dtype))
        whole = len(data.x) // n * n
        cuts = [*range(0, whole, n), whole, len(data.x)]
        self.calls = [(one, jnp.array(data.x[a:b]), jnp.array(data.t[a:b])) for a, b in pairwise(cuts) if a < b]
        if scan:
            stacked = (jnp.array(array[:whole].reshape(-1, n, *array.shape[1:])) for array in (data.x, data.t))
            self.calls = [(many, *stacked), *self.calls[whole // n :]]

    def fit(self, epochs: int) -> None:
        for _ in range(epochs):
            for step, x, t in self.calls:
                self.state = step(self.state, x, t)
        self.jax.block_until_ready(self.state)

    def parameters(self) -> list[np.ndarray]:
        return [np.asarray(array) for array in self.state[0]]


class OnnxRuntime(Peer):
    """onnxruntime, predictions alone: one thread, or all of them."""

    name = "onnxruntime"
    package = "onnxruntime"
    cure = "onnxruntime onnx"
    trains = False

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import onnx
        import onnxruntime

        self.onnx, self.runtime = onnx, onnxruntime

    def predictions(
        self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], x: np.ndarray
    ) -> Calls:
        """One `run` of a session; small networks are quicker on one thread."""
        model = self.model(workload, weights, biases)

        def call(threads: int) -> Callable[[], Any]:
            options = self.runtime.SessionOptions()
            options.intra_op_num_threads = threads
            session = self.runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            return lambda: session.run(None, {"x": x})[0]

        return {f"{threads} thread(s)": call(threads) for threads in sorted({1, self.threads})}

    def model(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray]) -> bytes:
        """The network as ONNX: a Gemm and an activation a layer. Opset 13 holds all that is used here."""
        helper, numpy_helper = self.onnx.helper, self.onnx.numpy_helper
        kind = helper.np_dtype_to_tensor_dtype(weights[0].dtype)
        nodes, constants, name = [], [], "x"
        for index, (w, b) in enumerate(zip(weights, biases, strict=True)):
            constants += [numpy_helper.from_array(w, f"w{index}"), numpy_helper.from_array(b, f"b{index}")]
            nodes.append(helper.make_node("Gemm", [name, f"w{index}", f"b{index}"], [f"z{index}"]))
            name = f"z{index}"
            if index < len(weights) - 1 and workload.activation != "identity":
                nodes.append(helper.make_node(workload.activation.capitalize(), [name], [f"y{index}"]))
                name = f"y{index}"
        ends = (
            [helper.make_tensor_value_info(label, kind, [None, width])]
            for label, width in (("x", workload.widths[0]), (name, workload.widths[-1]))
        )
        graph = helper.make_graph(nodes, "mlp", *ends, constants)
        opset = helper.make_opsetid("", 13)
        model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
        return model.SerializeToString()


PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Torch, TorchCompile, Jax, OnnxRuntime)}


def load(names: Sequence[str], threads: int) -> tuple[Peer, ...]:
    """The peers of these names; "numpy" is in every run as the reference, and so none of them.

    Raises ArgumentError for an unknown name and, with the cure, for a peer that is not installed.
    """
    found = []
    for name in dict.fromkeys(names):
        if require_name("--peers", name, ("numpy", *PEERS)) == "numpy":
            continue
        try:
            found.append(PEERS[name](threads))
        except (ImportError, OSError) as error:  # OSError: a shared library of its is missing or damaged
            raise ArgumentError(
                f"peer {name!r} cannot run here ({error}); `pip install {PEERS[name].cure}` would repair it"
            ) from error
    return tuple(found)
