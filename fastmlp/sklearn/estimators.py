"""MLPClassifier and MLPRegressor: scikit-learn's classes, whose minibatch training and predictions run on our kernels.

Everything a user sees (parameters, checks, messages, stopping rules) is scikit-learn's; what is replaced is the
arithmetic of a minibatch step and of the forward pass.
"""

import logging
import time
import warnings
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.base import is_classifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.neural_network._base import ACTIVATIONS as OUTPUT_ACTIVATIONS
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.utils import gen_batches
from sklearn.utils.validation import validate_data

from ..interrupt import interrupt_held
from ..kernels import backend as backends
from ..kernels.contract import step_flops
from ..kernels.network import Optimizer
from .engine import LOSSES, Engine, backend_name, threads

SECONDS_HELD = 0.025
"""How long Ctrl-C may have to wait for the end of a few steps, at two GFLOP/s, the least that kernels do."""

log = logging.getLogger("fastmlp.sklearn")


class _Accelerated(BaseMultilayerPerceptron):
    """What both estimators share; stands before scikit-learn's class in the order of inheritance."""

    _engine: Engine
    _no_improvement_count: int

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Any:
        if self.solver not in ("sgd", "adam"):
            log.info("%s.fit runs scikit-learn's code: solver=%r is not covered", type(self).__name__, self.solver)
        super()._fit(X, y, sample_weight=sample_weight, incremental=incremental)
        self._adopt()
        return self

    def _fit_stochastic(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        activations: Any,
        deltas: Any,
        coef_grads: Any,
        intercept_grads: Any,
        layer_units: Any,
        incremental: bool,
    ) -> None:
        """Train by minibatches: on our kernels, or where `_not_covered` says why not, by scikit-learn's code."""
        reason = self._not_covered(X, sample_weight)
        started = time.perf_counter()
        if reason is None:
            with threads():
                self._fit_minibatches(X, y, incremental)
            seconds = time.perf_counter() - started
            log.info("%s.fit was accelerated: %d epochs in %.3f s", type(self).__name__, self.n_iter_, seconds)
            return
        log.info("%s.fit runs scikit-learn's code: %s", type(self).__name__, reason)
        super()._fit_stochastic(
            X, y, sample_weight, activations, deltas, coef_grads, intercept_grads, layer_units, incremental
        )

    def _not_covered(self, X: Any, sample_weight: Any) -> str | None:
        """Why our kernels cannot train on this; None if they can."""
        if not isinstance(X, np.ndarray):
            return "X is sparse"
        if sample_weight is not None:
            return "sample_weight is given"
        if self.out_activation_ not in LOSSES:
            return f"loss={self.loss!r} is not covered"
        dtype = self.coefs_[0].dtype
        if dtype != np.result_type(X.dtype, dtype):
            return f"X is {X.dtype}, and the coefficients are {dtype}"
        if backends.resolve(backend_name())[0] == "numpy" and backend_name() == "auto":
            return f"there are no compiled kernels ({backends.status()['cpu']})"
        return None

    def _fit_minibatches(self, X: np.ndarray, y: np.ndarray, incremental: bool) -> None:
        """scikit-learn's `_fit_stochastic`: the same draws, the same steps, the same decisions, by our kernels."""
        self._adopt()
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = self._new_optimizer()
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        X_val = y_val = None
        if self.early_stopping:
            X, X_val, y, y_val = self._split(X, y)
        n_samples = len(X)
        if self.batch_size == "auto":
            batch_size = min(200, n_samples)
        else:
            if self.batch_size > n_samples:
                warnings.warn(
                    "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
                )
            batch_size = int(np.clip(self.batch_size, 1, n_samples))
        steps = _Steps(self._engine, self._optimizer, self.alpha, X, y, batch_size)
        order = np.arange(n_samples, dtype=np.int64)
        try:
            self.n_iter_ = 0
            for _ in range(self.max_iter):
                if self.shuffle:
                    # The draws of sklearn.utils.shuffle, whose checks take longer than a small network's epoch.
                    drawn = np.arange(n_samples)
                    self._random_state.shuffle(drawn)
                    order = order[drawn]
                self.loss_ = steps.epoch(order)
                if self._epoch_ends(n_samples, X_val, y_val) or incremental:
                    break
                if self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization "
                        "hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=2,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=2)
        if self.early_stopping:
            self.coefs_, self.intercepts_ = self._best_coefs, self._best_intercepts

    def _new_optimizer(self) -> Any:
        parameters, rate = self.coefs_ + self.intercepts_, self.learning_rate_init
        if self.solver == "adam":
            return AdamOptimizer(parameters, rate, self.beta_1, self.beta_2, self.epsilon)
        return SGDOptimizer(
            parameters,
            self.learning_rate_init,
            self.learning_rate,
            self.momentum,
            self.nesterovs_momentum,
            self.power_t,
        )

    def _split(self, X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """X, X_val, y, y_val for early stopping, y_val as `_score` takes it."""
        stratify = y if is_classifier(self) and self.n_outputs_ == 1 else None
        X, X_val, y, y_val = train_test_split(
            X, y, random_state=self._random_state, test_size=self.validation_fraction, stratify=stratify
        )
        if len(X_val) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
            )
        if is_classifier(self):
            y_val = self._label_binarizer.inverse_transform(y_val)
        return X, X_val, y, y_val

    def _epoch_ends(self, n_samples: int, X_val: Any, y_val: Any) -> bool:
        """Count and report the epoch whose loss is `loss_`; whether it was the last one by the stopping rule."""
        self.n_iter_ += 1
        self.t_ += n_samples
        self.loss_curve_.append(self.loss_)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        self._update_no_improvement_count(self.early_stopping, X_val, y_val, None)
        self._optimizer.iteration_ends(self.t_)
        if self._no_improvement_count <= self.n_iter_no_change:
            return False
        judged = "Validation score" if self.early_stopping else "Training loss"
        message = f"{judged} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
        if self._optimizer.trigger_stopping(message, self.verbose):
            return True
        self._no_improvement_count = 0
        return False

    def _adopt(self) -> None:
        """Let an engine hold the parameters, where there is one for their kind: `coefs_` become views of its buffer."""
        engine = self.__dict__.get("_engine")
        if engine is not None and engine.owns(self.coefs_, self.intercepts_):
            return
        self.__dict__.pop("_engine", None)
        arrays = [*self.coefs_, *self.intercepts_]
        dtype = arrays[0].dtype
        if (
            self.out_activation_ in LOSSES
            and dtype in (np.float32, np.float64)
            and all(a.dtype == dtype for a in arrays)
        ):
            self._engine = Engine(self.activation, self.out_activation_, self.coefs_, self.intercepts_)
            self.coefs_, self.intercepts_ = list(self._engine.coefs), list(self._engine.intercepts)

    def __getstate__(self) -> dict[str, Any]:
        """The state without its engine, whose buffers are another process's own."""
        return {name: value for name, value in super().__getstate__().items() if name != "_engine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "coefs_"):
            self._adopt()

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> np.ndarray:
        """The last layer's outputs[n, m], as scikit-learn's: by our kernels where they hold the parameters."""
        engine = self.__dict__.get("_engine")
        if check_input and not self._plainly_valid(X):
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        if (
            engine is None
            or not isinstance(X, np.ndarray)
            or np.result_type(X.dtype, engine.network.dtype) != engine.network.dtype
            or not engine.owns(self.coefs_, self.intercepts_)
        ):
            return super()._forward_pass_fast(X, check_input=False)
        out = engine.forward(np.ascontiguousarray(X, engine.network.dtype))
        OUTPUT_ACTIVATIONS[self.out_activation_](out)
        return out

    def _plainly_valid(self, X: Any) -> bool:
        """Whether X is an array that scikit-learn's validation, slow for a single row, would pass as is."""
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype.char in "fd"
            and len(X) > 0
            and X.shape[1] == self.n_features_in_
            and not hasattr(self, "feature_names_in_")
            and bool(np.isfinite(X).all())
        )


class _Steps:
    """An epoch's minibatch steps, by scikit-learn's formulas: L2 is alpha over the batch's rows, and is in the loss.

    The optimiser object stays the source of its settings, its learning rate and its count of updates; its memory
    becomes views of the engine's.
    """

    def __init__(self, engine: Engine, optimizer: Any, alpha: float, X: np.ndarray, y: np.ndarray, batch_size: int):
        self._engine, self._optimizer, self._alpha = engine, optimizer, alpha
        network = engine.network
        self._x = np.ascontiguousarray(X, network.dtype)
        self._target = y.argmax(axis=1) if network.loss == "log_loss" else np.ascontiguousarray(y, network.dtype)
        # scikit-learn's squared error is the mean over the outputs too, its gradient is not.
        self._share = 1 / network.widths[-1] if network.loss == "half_mse" else 1.0
        self._together = max(1, int(SECONDS_HELD / (0.5e-9 * step_flops(network.widths, batch_size))))
        self._flat_coefs = [w.reshape(-1) for w in engine.coefs]
        self._batches = [(batch.start, batch.stop - batch.start) for batch in gen_batches(len(X), batch_size)]
        if isinstance(optimizer, AdamOptimizer):
            self._updates = optimizer.t
            optimizer.ms, optimizer.vs = map(list, engine.remember([optimizer.ms, optimizer.vs]))
        else:
            self._updates = 0  # these rules do not ask for it
            (optimizer.velocities,) = map(list, engine.remember([optimizer.velocities]))

    def epoch(self, order: np.ndarray) -> np.float64:
        """Step once for each batch of `order`; the mean of the losses before their step, penalty included.

        Ctrl-C is held until some steps, for about SECONDS_HELD, are whole.
        """
        rules = {n: self._rule(n) for _, n in self._batches}
        total = 0.0
        for start in range(0, len(self._batches), self._together):
            with interrupt_held():
                for first, n in self._batches[start : start + self._together]:
                    total += self._step(rules[n], order, first, n)
                self._count()
        return np.float64(total / len(self._x))

    def _step(self, rule: Optimizer, order: np.ndarray, first: int, n: int) -> float:
        """One step from rows order[first : first + n]; n times the loss before it."""
        penalty = 0.0
        if self._alpha != 0:
            for w in self._flat_coefs:
                penalty += float(np.dot(w, w))
        loss = self._engine.train_step(rule, self._updates, self._x, self._target, order, first, n)
        self._updates += 1
        return self._share * n * loss + 0.5 * self._alpha * penalty

    def _count(self) -> None:
        """Tell the optimiser object how many updates there were, and what that makes of its learning rate."""
        optimizer, t = self._optimizer, self._updates
        if isinstance(optimizer, AdamOptimizer):
            optimizer.t = t
            corrections = np.sqrt(1 - optimizer.beta_2**t) / (1 - optimizer.beta_1**t)
            optimizer.learning_rate = optimizer.learning_rate_init * corrections

    def _rule(self, n: int) -> Optimizer:
        """The update after a batch of n rows."""
        theirs, l2 = self._optimizer, self._alpha / n
        if isinstance(theirs, AdamOptimizer):
            rate, beta1, beta2 = theirs.learning_rate_init, theirs.beta_1, theirs.beta_2
            return Optimizer("adam", rate, l2, beta1=beta1, beta2=beta2, epsilon=theirs.epsilon)
        return Optimizer("nesterov" if theirs.nesterov else "momentum", theirs.learning_rate, l2, theirs.momentum)


class MLPClassifier(_Accelerated, neural_network.MLPClassifier):
    """scikit-learn's MLPClassifier, trained and asked for predictions on fastmlp's kernels.

    Every parameter, attribute, method and error is scikit-learn's, and so, within rounding, is every number: see
    `sklearn.neural_network.MLPClassifier`. Raises BackendUnavailable where FASTMLP_BACKEND names one that cannot run.
    """

    def _predict(self, X: Any, check_input: bool = True) -> np.ndarray:
        """The classes of the rows of X, as scikit-learn's label binarizer, which takes its time, finds them."""
        classes, kind = self._label_binarizer.classes_, self._label_binarizer.y_type_
        if kind not in ("binary", "multiclass") or len(classes) < 2:
            return super()._predict(X, check_input=check_input)
        y = self._forward_pass_fast(X, check_input=check_input)
        return classes[y.argmax(axis=1) if kind == "multiclass" else (y[:, 0] > 0.5).astype(np.intp)]


class MLPRegressor(_Accelerated, neural_network.MLPRegressor):
    """scikit-learn's MLPRegressor, trained and asked for predictions on fastmlp's kernels.

    Every parameter, attribute, method and error is scikit-learn's, and so, within rounding, is every number: see
    `sklearn.neural_network.MLPRegressor`. Raises BackendUnavailable where FASTMLP_BACKEND names one that cannot run.
    """
