"""The epochs of a fit: scikit-learn's draws, decisions and warnings around steps that our kernels make."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network._base import LOSS_FUNCTIONS
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.utils.class_weight import compute_sample_weight

from ..callbacks import ProgressBar, begin, finish, tell
from ..interrupt import interrupt_held
from ..settings import as_callbacks
from . import extras
from .engine import Engine
from .held_out import HeldOut, of_user, split
from .layerwise import LayerSteps, loss_name
from .steps import Steps, WholeSteps


class Minibatches(BaseMultilayerPerceptron):
    """An estimator's minibatch training; `_adopted` sees to it that `_engine` holds its parameters."""

    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]
    _engine: Engine
    _no_improvement_count: int
    _given: tuple[Any, Any, Any] | None = None
    """X_val, y_val and sample_weight_val during a fit that was given them."""

    def _fit_minibatches(self, X: np.ndarray, y: np.ndarray, sample_weight: Any, incremental: bool) -> None:
        """scikit-learn's `_fit_stochastic`: the same draws, the same steps, the same decisions, by our kernels."""
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        callbacks = self._checked_extras(incremental)
        begin(callbacks, self._given is not None)
        held_out = None
        if self._given is not None:
            held_out = of_user(self, *self._given)
            self.validation_loss_curve_ = getattr(self, "validation_loss_curve_", [])
        elif self.early_stopping:
            X, y, sample_weight, held_out = split(self, X, y, sample_weight)
        sample_weight = self._weighed(y, sample_weight)
        n_samples = len(X)
        if self.batch_size == "auto":
            batch_size = min(200, n_samples)
        else:
            if self.batch_size > n_samples:
                warnings.warn(
                    "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=3
                )
            batch_size = int(np.clip(self.batch_size, 1, n_samples))
        self._adopted()
        if not incremental or not hasattr(self, "_optimizer"):
            self._optimizer = self._new_optimizer()
        steps = self._steps(X, y, sample_weight, batch_size)
        order = np.arange(n_samples, dtype=np.int64)
        most = 1 if incremental else self.max_iter
        watched = held_out is not None or bool(callbacks) or self.learning_rate_schedule is not None
        self._has_begun = True
        try:
            with ProgressBar(most, steps.an_epoch, self.progress) as bar:
                self.n_iter_ = 0
                over = False
                while not over and self.n_iter_ < most:
                    epochs = min(1 if watched else self._certain_epochs(), steps.epochs_a_call, most)
                    orders = np.empty((epochs, n_samples), np.int64)
                    for each in orders:
                        order = self._reordered(order, each)
                    steps.factor = extras.rate_factor(self.learning_rate_schedule, self.n_iter_, most)
                    steps.begin(orders)
                    while steps.left:
                        with interrupt_held():
                            left = steps.left
                            for self.loss_ in steps.make():
                                over = self._epoch_ends(n_samples, held_out) or incremental
                        bar.advance(left - steps.left, steps.last_loss)
                    if callbacks:
                        over = tell(callbacks, self._epoch(most), over) or over
                        self._heed()
            if not over:
                warnings.warn(
                    f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the optimization "
                    "hasn't converged yet.",
                    ConvergenceWarning,
                    stacklevel=3,
                )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=3)
            if self.n_iter_ > 0:
                finish(callbacks, self._epoch(most))
        if self.early_stopping:
            self.coefs_, self.intercepts_ = self._best_coefs, self._best_intercepts

    def _checked_extras(self, incremental: bool) -> tuple[Callable[[Any], object], ...]:
        """The callbacks; raises ValueError for settings that do not go together."""
        if self.learning_rate_schedule is not None:
            if incremental:
                raise ValueError("partial_fit does not support learning_rate_schedule: it does not know its epoch")
            if self.solver == "sgd" and self.learning_rate != "constant":
                raise ValueError(
                    f"learning_rate_schedule needs learning_rate='constant'; got learning_rate={self.learning_rate!r}."
                )
        if incremental and getattr(self, "class_weight", None) == "balanced":
            raise ValueError(
                "partial_fit does not support class_weight='balanced', for it does not know all samples; give a dict "
                "of weights, as sklearn.utils.compute_class_weight finds them."
            )
        return as_callbacks(self.callbacks or ())

    def _new_optimizer(self) -> Any:
        parameters, rate = self.coefs_ + self.intercepts_, self.learning_rate_init
        if self.solver != "sgd":
            return AdamOptimizer(parameters, rate, self.beta_1, self.beta_2, self.epsilon)
        return SGDOptimizer(
            parameters,
            self.learning_rate_init,
            self.learning_rate,
            self.momentum,
            self.nesterovs_momentum,
            self.power_t,
        )

    def _steps(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None, batch_size: int) -> Steps:
        """What makes this fit's steps; raises ValueError where bfloat16 is asked for and it cannot be trained in it."""
        common = self._engine, self._optimizer, self.alpha, self.solver == "adamw", X, y, batch_size
        if sample_weight is None and self.dropout == 0 and self.out_activation_ != "exp":
            return WholeSteps(*common)
        if self._engine.network.bfloat16:
            raise ValueError(
                "dtype='bfloat16' trains with neither sample_weight, class_weight, dropout nor loss='poisson'; "
                "dtype='float32' does."
            )
        seed = [self._random_state.randint(2**31 - 1), self.t_] if self.dropout > 0 else [0]
        loss = loss_name(self.loss, self.out_activation_)
        return LayerSteps(*common, sample_weight, loss, self.out_activation_, self.dropout, seed)

    def _weighed(self, y: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray | None:
        """The weights of the samples, those of their classes multiplied in; None where all are 1."""
        class_weight = getattr(self, "class_weight", None)
        if class_weight is not None:
            labels = self._label_binarizer.inverse_transform(y)
            if isinstance(class_weight, dict) and labels.ndim == 1:
                if unknown := [each for each in class_weight if each not in self.classes_]:
                    raise ValueError(f"class_weight must name classes out of {list(self.classes_)}; got {unknown}.")
                of_classes = np.ones(len(labels))  # those that it does not name; a batch may lack one that it does
                for each, weight in class_weight.items():
                    of_classes[labels == each] = weight
            else:
                of_classes = compute_sample_weight(class_weight, labels)
            of_classes = of_classes.astype(self.coefs_[0].dtype)
            sample_weight = of_classes if sample_weight is None else of_classes * sample_weight
        return None if sample_weight is None or (sample_weight == 1).all() else sample_weight

    def _certain_epochs(self) -> int:
        """How many epochs at least the stopping rule will let pass from here on, with nothing to do between them."""
        if self.verbose or (self.solver == "sgd" and self.learning_rate == "invscaling"):
            return 1
        patience = self.n_iter_no_change + 1 - self._no_improvement_count
        return int(max(1, min(patience, self.max_iter - self.n_iter_)))

    def _reordered(self, order: np.ndarray, out: np.ndarray) -> np.ndarray:
        """Write the next epoch's order to `out`, by the draws of sklearn.utils.shuffle without its checks."""
        if not self.shuffle:
            out[...] = order
            return out
        drawn = np.arange(len(order))
        self._random_state.shuffle(drawn)
        return np.take(order, drawn, out=out, mode="clip")

    def _epoch_ends(self, n_samples: int, held_out: HeldOut | None) -> bool:
        """Count and report the epoch whose loss is `loss_`; whether it was the last one by the stopping rule."""
        self.n_iter_ += 1
        self.t_ += n_samples
        self.loss_curve_.append(self.loss_)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {self.loss_:.8f}")
        X_val, target, y_val, weights = held_out or (None, None, None, None)
        if self._given is not None:
            output = self._forward_pass_fast(X_val, check_input=False)
            loss = LOSS_FUNCTIONS[loss_name(self.loss, self.out_activation_)](target, output, weights)
            self.validation_loss_curve_.append(float(loss))
        self._update_no_improvement_count(self.early_stopping, X_val, y_val, weights)
        self._optimizer.iteration_ends(self.t_)
        if self._no_improvement_count <= self.n_iter_no_change:
            return False
        judged = "Validation score" if self.early_stopping else "Training loss"
        message = f"{judged} did not improve more than tol={self.tol:f} for {self.n_iter_no_change} consecutive epochs."
        if self._optimizer.trigger_stopping(message, self.verbose):
            return True
        self._no_improvement_count = 0
        return False

    def _epoch(self, epochs: int) -> extras.Epoch:
        """The last epoch, as callbacks see it."""
        return extras.Epoch(
            self, self._engine, self.n_iter_ - 1, epochs, float(self.loss_),
            self.validation_loss_curve_[-1] if self._given is not None else None,
            self.validation_scores_[-1] if self.early_stopping else None,
        )  # fmt: skip
