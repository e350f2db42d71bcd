"""What a peer is: another framework at its best, that does what it can of the suites' work."""

from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Any, Protocol

import numpy as np

from ..workloads import Data, Workload

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


def forward(
    workload: Workload, parameters: Sequence[Any], x: Any, relu: Callable[[Any], Any], tanh: Callable[[Any], Any]
) -> Any:
    """The network's outputs by a framework's own operators; parameters are the weights, then the biases."""
    activation = {"identity": lambda z: z, "relu": relu, "tanh": tanh}[workload.activation]
    layers = len(workload.widths) - 1
    for index in range(layers):
        x = x @ parameters[index] + parameters[layers + index]
        if index < layers - 1:
            x = activation(x)
    return x


class Peer:
    """A framework on `threads` threads. A method that gives no way says that it cannot do that."""

    name: str
    package: str
    cure: str
    trains = True
    bfloat16 = False
    """Whether it rounds the operands of its products to bfloat16, so that in float32 it does less than was asked."""

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
