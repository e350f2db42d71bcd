"""scikit-learn's own MLPs, which have no threads but those of NumPy's BLAS."""

import warnings
from functools import partial
from typing import Any

import numpy as np

from ..workloads import Data, Workload
from .base import Calls, Peer, Trainers


class ScikitLearn(Peer):
    """MLPClassifier and MLPRegressor: whole epochs in one call of `fit`, warm started and without shuffling."""

    name = "sklearn"
    package = cure = "scikit-learn"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        from sklearn.neural_network import MLPClassifier, MLPRegressor

        self.classes = {"mse": MLPRegressor, "cross_entropy": MLPClassifier}

    def trainers(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Trainers:
        """Its loss of m outputs is m/2 times the mean of the squares, which the learning rate of SGD makes up for."""
        return {"fit": partial(_Trainer, self, workload, weights, biases, data)}

    def predictions(
        self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], x: np.ndarray
    ) -> Calls:
        """`predict` of a regressor, its checks included: there is no other way in."""
        outputs = np.zeros((len(x), weights[-1].shape[1]), x.dtype)
        estimator = self.estimator(workload, weights, biases, Data(x, outputs))
        shape = outputs.shape
        return {"predict": lambda: estimator.predict(x).reshape(shape)}

    def estimator(self, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data) -> Any:
        """A fitted estimator with these parameters."""
        outputs = workload.widths[-1]
        rate = workload.learning_rate
        if workload.optimizer == "sgd" and workload.loss == "mse":
            rate *= 2 / outputs
        made = self.classes[workload.loss](
            hidden_layer_sizes=workload.widths[1:-1],
            activation=workload.activation,
            solver=workload.optimizer,
            alpha=0.0,
            batch_size=min(workload.batch_size, len(data.x)),
            learning_rate_init=rate,
            momentum=0.0,
            nesterovs_momentum=False,
            shuffle=False,
            tol=0.0,
            max_iter=1,
            warm_start=True,
        )
        self.fit(made, data, 1)  # which gives it everything that a fitted one has
        for mine, given in zip([*made.coefs_, *made.intercepts_], [*weights, *biases], strict=True):
            mine[...] = given
        return made

    def fit(self, estimator: Any, data: Data, epochs: int) -> None:
        """Just so many epochs: it neither stops before, by what it counted in earlier fits, nor speaks of it."""
        estimator.set_params(max_iter=epochs, n_iter_no_change=np.inf)
        t = data.t[:, 0] if data.t.ndim == 2 and data.t.shape[1] == 1 else data.t
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it has not converged
            estimator.fit(data.x, t)


class _Trainer:
    def __init__(
        self, peer: ScikitLearn, workload: Workload, weights: list[np.ndarray], biases: list[np.ndarray], data: Data
    ) -> None:
        self.peer, self.data = peer, data
        self.estimator = peer.estimator(workload, weights, biases, data)

    def fit(self, epochs: int) -> None:
        self.peer.fit(self.estimator, self.data, epochs)

    def parameters(self) -> list[np.ndarray]:
        return [*self.estimator.coefs_, *self.estimator.intercepts_]
