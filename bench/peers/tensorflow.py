"""TensorFlow: whole steps, or whole epochs, as one tf.function, compiled by XLA or not."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np

from ..workloads import Data, Workload
from .base import BETA1, BETA2, EPSILON, Calls, Peer, Trainers, forward


class TensorFlow(Peer):
    """TensorFlow on the CPU."""

    name = "tensorflow"
    package = cure = "tensorflow"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its advice on instruction sets
        import tensorflow

        self.tf = tensorflow
        try:
            tensorflow.config.set_visible_devices([], "GPU")
            tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
            tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
        except RuntimeError:  # it has started already, with the settings of this process's first such peer
            pass

    @property
    def version(self) -> str:
        """Its own word: it is installed as tensorflow, tensorflow-cpu and by other names."""
        return str(self.tf.__version__)

    def as_numpy(self, result: Any) -> np.ndarray:
        """An array of this framework for comparison."""
        return result.numpy()

    def forward(self, workload: Workload, parameters: Sequence[Any], x: Any) -> Any:
        """The network's outputs; parameters are the weights, then the biases."""
        return forward(workload, parameters, x, self.tf.nn.relu, self.tf.tanh)

    def loss(self, workload: Workload, parameters: Sequence[Any], x: Any, t: Any) -> Any:
        """The mean over the batch."""
        tf, y = self.tf, self.forward(workload, parameters, x)
        if workload.loss == "mse":
            return tf.reduce_mean((y - t) ** 2)
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=t, logits=y))

    def trainers(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Trainers:
        """A step or an epoch a call, with XLA or without."""
        return {
            f"{'an epoch' if epoch else 'a step'} a call{', XLA' if xla else ''}": partial(
                _Trainer, self, workload, weights, biases, data, epoch, xla
            )
            for epoch, xla in product((False, True), (False, True))
        }

    def gradients(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Calls:
        """The gradient as one function."""
        tf = self.tf
        parameters, x, t = [*map(tf.constant, [*weights, *biases])], tf.constant(data.x), tf.constant(data.t)

        def gradients(parameters: Any, x: Any, t: Any) -> Any:
            with tf.GradientTape() as tape:
                tape.watch(parameters)
                loss = self.loss(workload, parameters, x, t)
            return tape.gradient(loss, parameters)

        return self.ways(gradients, parameters, x, t)

    def predictions(
        self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], x: np.ndarray
    ) -> Calls:
        """The forward pass as one function."""
        parameters = [*map(self.tf.constant, [*weights, *biases])]
        return self.ways(partial(self.forward, workload), parameters, self.tf.constant(x))

    def ways(self, function: Callable[..., Any], *arguments: Any) -> Calls:
        """A call of the function, compiled by XLA or not."""
        compiled = (
            ("function", self.tf.function(function)), ("XLA", self.tf.function(function, jit_compile=True))
        )  # fmt: skip
        return {name: partial(call, *arguments) for name, call in compiled}


class _Trainer:
    """Parameters and Adam's state are variables, which the function updates in place."""

    def __init__(
        self,
        peer: TensorFlow,
        workload: Workload,
        weights: list[np.ndarray],
        biases: list[np.ndarray],
        data: Data,
        epoch: bool,
        xla: bool,
    ) -> None:
        tf, n = peer.tf, workload.batch_size
        self.tf, self.workload, self.peer = tf, workload, peer
        self.variables = [tf.Variable(array) for array in (*weights, *biases)]
        adam = workload.optimizer == "adam"
        self.first, self.second = (
            [tf.Variable(tf.zeros_like(w)) for w in self.variables] if adam else [] for _ in range(2)
        )
        self.count = tf.Variable(tf.zeros((), self.variables[0].dtype))
        step = tf.function(self.step, jit_compile=xla)
        whole = len(data.x) // n * n
        cuts = [*range(0, whole, n), whole, len(data.x)]
        self.calls = [
            partial(step, tf.constant(data.x[a:b]), tf.constant(data.t[a:b])) for a, b in pairwise(cuts) if a < b
        ]
        if epoch:
            x, t = (tf.constant(array[:whole].reshape(-1, n, *array.shape[1:])) for array in (data.x, data.t))
            self.calls = [partial(tf.function(self.steps, jit_compile=xla), x, t), *self.calls[whole // n :]]

    def step(self, x: Any, t: Any) -> None:
        """One update."""
        tf, rate = self.tf, self.workload.learning_rate
        with tf.GradientTape() as tape:
            loss = self.peer.loss(self.workload, self.variables, x, t)
        gradients = tape.gradient(loss, self.variables)
        if self.workload.optimizer == "sgd":
            for w, g in zip(self.variables, gradients, strict=True):
                w.assign_sub(rate * g)
            return
        self.count.assign_add(1)
        scale = rate * tf.sqrt(1 - BETA2**self.count) / (1 - BETA1**self.count)
        for w, g, m, v in zip(self.variables, gradients, self.first, self.second, strict=True):
            m.assign(BETA1 * m + (1 - BETA1) * g)
            v.assign(BETA2 * v + (1 - BETA2) * g * g)
            w.assign_sub(scale * m / (tf.sqrt(v) + EPSILON))

    def steps(self, x: Any, t: Any) -> None:
        """As many as x[steps, n, k] holds."""
        for index in self.tf.range(len(x)):
            self.step(x[index], t[index])

    def fit(self, epochs: int) -> None:
        for _ in range(epochs):
            for call in self.calls:
                call()
        self.variables[0].numpy()  # which waits

    def parameters(self) -> list[np.ndarray]:
        return [variable.numpy() for variable in self.variables]
