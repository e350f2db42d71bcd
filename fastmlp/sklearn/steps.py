"""Minibatch steps by scikit-learn's formulas, whole epochs in one call of the kernels."""

import time
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer

from ..interrupt import Pace
from ..kernels.contract import step_flops
from ..kernels.network import Optimizer
from .engine import Engine


class Steps(ABC):
    """What all ways of making the steps of a fit share: several epochs, or part of one, at a time.

    The optimiser object, scikit-learn's, stays the source of its settings, its learning rate and its count of updates;
    its memory becomes views of what the kernels step. Learning rates are multiplied by `factor`. L2 is alpha over the
    batch's rows, or its samples' weights, and is in the loss; or, `decoupled` in AdamW, it takes learning_rate * alpha
    * w off each weight w and is no part of the loss. Of the epochs begun `left` steps are still to be made; `last_loss`
    is that of the last one made.
    """

    def __init__(
        self, engine: Engine, optimizer: Any, alpha: float, decoupled: bool, samples: int, batch_size: int
    ) -> None:
        self._engine, self._optimizer, self._alpha, self._decoupled = engine, optimizer, alpha, decoupled
        self._samples, self._batch_size = samples, batch_size
        self._rows = np.diff(np.append(np.arange(0, samples, batch_size), samples))
        self._pace = Pace(step_flops(engine.network.widths, batch_size))
        self._is_adam = isinstance(optimizer, AdamOptimizer)
        self._updates = optimizer.t if self._is_adam else 0  # the other rules do not ask for it
        self.factor = 1.0
        self.left, self.last_loss = 0, float("nan")

    @property
    def an_epoch(self) -> int:
        """How many steps an epoch takes."""
        return len(self._rows)

    @property
    def epochs_a_call(self) -> int:
        """How many epochs one call may make, for Ctrl-C is held so long; one at least, in several calls then."""
        return max(1, self._pace.steps // self.an_epoch)

    def begin(self, orders: np.ndarray) -> None:
        """Make the next epochs in the order of orders[epochs, n]."""
        self._order = orders.reshape(-1)
        self._losses = np.empty(len(orders) * self.an_epoch)
        self.left = len(self._losses)

    def make(self) -> list[np.float64]:
        """Make some of the steps that are left; once none is, each epoch's loss before its steps, penalty included."""
        began = time.perf_counter()
        done, count = len(self._losses) - self.left, min(self._pace.steps, self.left)
        epoch, batch = divmod(done, self.an_epoch)
        losses = self._losses[done : done + count]
        self._train(epoch * self._samples + batch * self._batch_size, losses)
        self._count(count)
        self.left -= count
        self.last_loss = float(losses[-1])
        self._pace.measure((time.perf_counter() - began) / count)
        if self.left:
            return []
        return list((self._losses.reshape(-1, self.an_epoch) * self._rows).sum(axis=1) / self._samples)

    @abstractmethod
    def _train(self, start: int, losses: np.ndarray) -> None:
        """Make len(losses) steps from position `start` of the order on, and write their losses, penalty included."""

    def _count(self, steps: int) -> None:
        """Tell the optimiser object how many updates there were, and what that makes of its learning rate."""
        self._updates += steps
        if self._is_adam:
            optimizer, t = self._optimizer, self._updates
            optimizer.t = t
            corrections = np.sqrt(1 - optimizer.beta_2**t) / (1 - optimizer.beta_1**t)
            optimizer.learning_rate = self.factor * optimizer.learning_rate_init * corrections

    def _rule(self, l2: float) -> Optimizer:
        theirs = self._optimizer
        if self._is_adam:
            name, rate = "adamw" if self._decoupled else "adam", self.factor * theirs.learning_rate_init
            return Optimizer(name, rate, l2, beta1=theirs.beta_1, beta2=theirs.beta_2, epsilon=theirs.epsilon)
        rate = self.factor * theirs.learning_rate
        return Optimizer("nesterov" if theirs.nesterov else "momentum", rate, l2, theirs.momentum)


class WholeSteps(Steps):
    """Steps in compiled calls, many in each, where every sample counts alike and nothing is dropped."""

    def __init__(
        self,
        engine: Engine,
        optimizer: Any,
        alpha: float,
        decoupled: bool,
        X: np.ndarray,
        target: np.ndarray,
        batch_size: int,
    ) -> None:
        super().__init__(engine, optimizer, alpha, decoupled, len(X), batch_size)
        self._x, self._target, self._share = engine.samples(X, target)
        if self._is_adam:
            optimizer.ms, optimizer.vs = map(list, engine.remember([optimizer.ms, optimizer.vs]))
        else:
            (optimizer.velocities,) = map(list, engine.remember([optimizer.velocities]))

    def begin(self, orders: np.ndarray) -> None:
        """As Steps.begin; with room for the penalties."""
        super().begin(orders)
        self._penalties = np.zeros(len(self._losses))

    def _train(self, start: int, losses: np.ndarray) -> None:
        done = len(self._losses) - self.left
        penalties = self._penalties[done : done + len(losses)]
        self._engine.train(
            self._rule(self._alpha), self._updates, self._x, self._target, self._order, start, self._batch_size,
            losses, None if self._decoupled else penalties,
        )  # fmt: skip
        losses *= self._share
        losses += penalties
