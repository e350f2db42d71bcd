"""JAX on the CPU."""

import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any

import numpy as np

from ..workloads import Data, Workload
from .base import BETA1, BETA2, EPSILON, Calls, Peer, Trainers, forward


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
        return forward(workload, parameters, x, self.jax.nn.relu, self.jax.numpy.tanh)

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
