"""The article's program: its class and its two functions, trained by fastmlp's kernels."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from .history import History
from .network import MLP


class NeuralNetwork:
    """y = (x @ weights["h"] + biases["h"]) @ weights["o"] + biases["o"], without any activation, as the article has it.

    Weights and biases are drawn from the standard normal distribution, as its tf.random_normal draws them: first the
    weights h and o, then the biases. `network` is the `MLP` behind it all, with the article's loss, the mean of the
    squared error over all elements.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        output_size: int,
        *,
        dtype: str = "float32",
        backend: str = "auto",
        seed: int | None = 0,
    ) -> None:
        self.network = MLP(
            (input_size, hidden_size, output_size), activation="identity", dtype=dtype, backend=backend, seed=seed
        )
        random = np.random.default_rng(seed)
        for view in (*self.weights.values(), *self.biases.values()):
            view[...] = random.standard_normal(view.shape)

    @property
    def weights(self) -> Mapping[str, np.ndarray]:
        """Live views w[in, out]: "h" of the hidden layer, "o" of the output layer."""
        return MappingProxyType(dict(zip("ho", self.network.weights, strict=True)))

    @property
    def biases(self) -> Mapping[str, np.ndarray]:
        """Live views b[out]: "h" of the hidden layer, "o" of the output layer."""
        return MappingProxyType(dict(zip("ho", self.network.biases, strict=True)))

    def forward(self, x: Any) -> np.ndarray:
        """The outputs y[n, output_size] for x[n, input_size]."""
        return self.network.predict(x)


def train(model: NeuralNetwork, x: Any, y: Any, learning_rate: float, epochs: int = 1000) -> History:
    """`epochs` steps of gradient descent on all of x[n, in] and y[n, out], integers or not; raises as `MLP.fit`."""
    model.network.learning_rate = learning_rate
    return model.network.fit(x, y, epochs=epochs, batch_size=None)


def test(model: NeuralNetwork, x: Any, y: Any) -> float:
    """Accuracy: the share of the rows of x[n, in] whose largest output is where y[n, out] is largest.

    Raises ShapeError, DTypeError or ArgumentError for arrays that do not fit.
    """
    outputs, target = model.network._outputs_and_target(x, y)
    return float((outputs.argmax(axis=1) == target.argmax(axis=1)).mean())
