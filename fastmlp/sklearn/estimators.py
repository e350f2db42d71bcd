"""MLPClassifier and MLPRegressor: scikit-learn's classes, whose minibatch training and predictions run on our kernels.

Everything a user sees (parameters, checks, messages, stopping rules) is scikit-learn's, and some is added (extras.py);
what is replaced is the arithmetic of a minibatch step and of the forward pass.
"""

import contextlib
import functools
import logging
import math
import time
from typing import Any

import numpy as np
from sklearn import neural_network
from sklearn.neural_network._base import ACTIVATIONS as OUTPUT_ACTIVATIONS
from sklearn.neural_network._multilayer_perceptron import _STOCHASTIC_SOLVERS
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import validate_data

from ..kernels import backend as backends
from ..kernels.contract import array_dtype
from . import checks, extras
from .controls import backend_name, dtype_name, threads
from .engine import LOSSES, Engine
from .lbfgs import Objective, one_threaded_blas
from .minibatches import Minibatches
from .sparse import dense, why_left_sparse

log = logging.getLogger("fastmlp.sklearn")

# What scikit-learn's code asks for to train by minibatches; its own classes refuse the name before they come to that.
if "adamw" not in _STOCHASTIC_SOLVERS:
    _STOCHASTIC_SOLVERS.append("adamw")


class _Accelerated(Minibatches):
    """What both estimators share; stands before scikit-learn's class in the order of inheritance."""

    _dtype_asked: str | None = None
    """The dtype that the fit was asked for, by the parameter or by FASTMLP_DTYPE; None for that of X."""

    _has_begun = False
    """Whether a fit has come so far that parameters change; one that is refused before leaves all as it was."""

    _objective: Objective | None = None
    """What L-BFGS minimises during a fit on our kernels."""

    @classmethod
    @functools.cache
    def _get_param_names(cls) -> list[str]:
        """As scikit-learn finds them, but once for each class: it asks several times in each fit."""
        return super()._get_param_names()

    def fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Any:
        """Fit to X[n, k] and y as scikit-learn's estimator does.

        With X_val[n_val, k] and y_val, the loss on them, L2's part left out, is taken after every epoch and kept in
        `validation_loss_curve_`, and early_stopping goes by the score on them instead of on a part of X;
        sample_weight_val weighs both. Raises ValueError where they do not fit X and y.
        """
        if (X_val is None) != (y_val is None):
            raise ValueError(f"X_val and y_val go together; got no {'X_val' if X_val is None else 'y_val'}.")
        if X_val is None:
            return super().fit(X, y, sample_weight)
        self._given = X_val, y_val, sample_weight_val
        try:
            return super().fit(X, y, sample_weight)
        finally:
            del self._given

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Any:
        before = dict(self.__dict__)
        if not hasattr(self, "coefs_") or not (incremental or self.warm_start):
            self._dtype_asked = dtype_name() if self.dtype is None else self.dtype
        try:
            super()._fit(X, y, sample_weight=sample_weight, incremental=incremental)
            self._adopt()
        except Exception:
            if not self._has_begun:
                self.__dict__.clear()
                self.__dict__.update(before)
            raise
        finally:
            self.__dict__.pop("_has_begun", None)
        return self

    def _require_alike(self, X: Any, y: np.ndarray) -> None:
        """Raises ValueError unless the network that there is takes such samples: it may be of a fit before."""
        inputs, outputs = self.coefs_[0].shape[0], len(self.intercepts_[-1])
        if (X.shape[1], y.shape[1]) != (inputs, outputs):
            raise ValueError(
                f"X has {X.shape[1]} features and y {y.shape[1]} outputs, and the network that is trained on takes "
                f"{inputs} and has {outputs}; a new estimator, or warm_start=False, would do."
            )

    def _validate_input(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, Any]:
        target = self._plain_target(y, len(X), incremental) if self._is_plain(X, reset) else None
        if target is None:
            X, target = super()._validate_input(X, y, incremental, reset)
        elif reset:
            self.n_features_in_ = X.shape[1]
        if self._dtype_asked is not None:
            X = checks.narrowed(X, np.dtype(array_dtype(self._dtype_asked)))
        return X, target

    def _is_plain(self, X: Any, reset: bool) -> bool:
        """Whether scikit-learn's validation, slow for a few rows, would pass X as it is; `reset` as it is there."""
        return (
            checks.is_plain_matrix(X)
            and not hasattr(self, "feature_names_in_")
            and (reset or X.shape[1] == self.n_features_in_)
        )

    def _plain_target(self, y: Any, n: int, incremental: bool) -> np.ndarray | None:
        """What scikit-learn's `_validate_input` makes of y[n], where y is plain, as checks.py has it; else None."""
        raise NotImplementedError

    def _initialize(self, y: np.ndarray, layer_units: list[int], dtype: np.dtype) -> None:
        super()._initialize(y, layer_units, dtype)
        self.__dict__.pop("validation_loss_curve_", None)
        names = extras.activations(self.activation, len(layer_units) - 2)
        if not isinstance(self.activation, str):
            # scikit-learn draws from a narrower range for "logistic", the output layer too: a third of the variance.
            for i, name in enumerate((*names, *names[-1:])):
                if name == "logistic":
                    self.coefs_[i] *= math.sqrt(1 / 3)
                    self.intercepts_[i] *= math.sqrt(1 / 3)
            self._best_coefs = [c.copy() for c in self.coefs_]
            self._best_intercepts = [b.copy() for b in self.intercepts_]

    def _fit_lbfgs(self, X: Any, y: np.ndarray, sample_weight: Any, *others: Any) -> None:
        """Train by L-BFGS: its loss and gradient on our kernels, or where `_not_covered` says why not, as it is."""
        sample_weight = self._weighed(y, sample_weight)
        reason = self._not_covered(X)
        if reason is not None:
            self._leave_to_scikit_learn(reason)
            self._has_begun = True
            super()._fit_lbfgs(X, y, sample_weight, *others)
            return
        if asked := extras.of_minibatches(self) + ["X_val"] * (self._given is not None):
            raise ValueError(
                f"{', '.join(asked)}: training by minibatches alone offers that, and solver='lbfgs' is none."
            )
        self._require_alike(X, y)
        started = time.perf_counter()
        names = extras.activations(self.activation, len(self.coefs_) - 1)
        self._objective = Objective(names, self.out_activation_, self.loss, self.alpha, dense(X), y, sample_weight)
        try:
            with threads(), one_threaded_blas():
                self._has_begun = True
                super()._fit_lbfgs(X, y, sample_weight, *others)
        finally:
            del self._objective
        self._say_accelerated("iterations", started)

    def _loss_grad_lbfgs(self, packed_coef_inter: np.ndarray, *others: Any) -> tuple[float, np.ndarray]:
        """As scikit-learn's: J of all samples at these parameters, which `coefs_` becomes, and its gradient."""
        if self._objective is None:
            return super()._loss_grad_lbfgs(packed_coef_inter, *others)
        self._unpack(packed_coef_inter)
        return self._objective(self.coefs_, self.intercepts_)

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
        reason = self._not_covered(X)
        if reason is not None:
            self._leave_to_scikit_learn(reason)
            self._has_begun = True
            super()._fit_stochastic(
                X, y, self._weighed(y, sample_weight), activations, deltas, coef_grads, intercept_grads, layer_units,
                incremental,
            )  # fmt: skip
            return
        self._require_alike(X, y)
        started = time.perf_counter()
        with threads():
            self._fit_minibatches(dense(X), y, sample_weight, incremental)
        self._say_accelerated("epochs", started)

    def _say_accelerated(self, unit: str, started: float) -> None:
        seconds = time.perf_counter() - started
        log.info("%s.fit was accelerated: %d %s in %.3f s", type(self).__name__, self.n_iter_, unit, seconds)

    def _not_covered(self, X: Any) -> str | None:
        """Why our kernels cannot train on this; None if they can."""
        if (reason := why_left_sparse(X)) is not None:
            return reason
        if self.out_activation_ not in LOSSES:
            return f"loss={self.loss!r} is not covered"
        dtype = self.coefs_[0].dtype
        if dtype != np.result_type(X.dtype, dtype):
            return f"X is {X.dtype}, and the coefficients are {dtype}"
        if backend_name() == "auto" and backends.resolve("auto")[0] == "numpy" and not self._beyond():
            return f"there are no compiled kernels ({backends.status()['cpu']})"
        return None

    def _beyond(self) -> list[str]:
        """What is asked of this fit that scikit-learn's code does not offer."""
        return extras.beyond(self) + ["X_val"] * (self._given is not None)

    def _leave_to_scikit_learn(self, reason: str) -> None:
        """Say why scikit-learn's code trains; raises ValueError where that code does not offer what is asked for."""
        beyond = self._beyond()
        if self.early_stopping and getattr(self, "class_weight", None) is not None and self.solver != "lbfgs":
            beyond.append("class_weight with early_stopping")  # it would weigh the validation score too
        if beyond:
            raise ValueError(f"{', '.join(beyond)}: fastmlp's kernels alone offer that, and here {reason}.")
        log.info("%s.fit runs scikit-learn's code: %s", type(self).__name__, reason)

    def _adopt(self) -> None:
        """Let an engine hold the parameters, where there is one for their kind: `coefs_` become views of its buffer."""
        engine, bfloat16 = self.__dict__.get("_engine"), self._dtype_asked == "bfloat16"
        names = extras.activations(self.activation, len(self.coefs_) - 1)
        if engine is not None and engine.runs(names, bfloat16) and engine.owns(self.coefs_, self.intercepts_):
            return
        self.__dict__.pop("_engine", None)
        arrays = [*self.coefs_, *self.intercepts_]
        if self.out_activation_ not in LOSSES or any(each.dtype not in (np.float32, np.float64) for each in arrays):
            return
        if len(self.coefs_[0]) != self.n_features_in_:
            raise ValueError(
                f"coefs_[0] must have {self.n_features_in_} rows, one a feature; got {len(self.coefs_[0])}."
            )
        dtype = np.dtype(np.float32) if bfloat16 else np.result_type(*arrays)
        coefs, intercepts = (
            [each.astype(dtype, copy=False) for each in kind] for kind in (self.coefs_, self.intercepts_)
        )
        self._engine = Engine(names, self.out_activation_, coefs, intercepts, bfloat16)
        self.coefs_, self.intercepts_ = list(self._engine.coefs), list(self._engine.intercepts)

    def _adopted(self) -> Engine:
        """The engine that holds the parameters. Raises ValueError where none can."""
        self._adopt()
        if "_engine" not in vars(self):
            raise ValueError("coefs_ and intercepts_ must be arrays of float32 or float64.")
        return self._engine

    def _heed(self) -> None:
        """Take over `coefs_` and `intercepts_` that a callback has assigned, in the middle of a fit.

        Raises ValueError for such as have not the network's shapes.
        """
        if not self._engine.owns(self.coefs_, self.intercepts_):
            self._engine.assign(self.coefs_, self.intercepts_)
            self.coefs_, self.intercepts_ = list(self._engine.coefs), list(self._engine.intercepts)

    def __getstate__(self) -> dict[str, Any]:
        """The state without its engine, whose buffers are another process's own."""
        return {name: value for name, value in super().__getstate__().items() if name != "_engine"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if hasattr(self, "coefs_"):
            with contextlib.suppress(ValueError):  # which says so when they are used
                self._adopt()

    def _forward_pass_fast(self, X: Any, check_input: bool = True) -> np.ndarray:
        """The last layer's outputs[n, m], as scikit-learn's: by our kernels where they hold the parameters."""
        if check_input and not self._is_plain(X, reset=False):
            X = validate_data(self, X, accept_sparse=["csr", "csc"], reset=False)
        engine = self.__dict__.get("_engine")
        if self._dtype_asked == "bfloat16" or not extras.is_scikit_learns(self.activation):
            engine = self._adopted()
        elif (
            engine is None
            or why_left_sparse(X) is not None
            or (self._dtype_asked is None and np.result_type(X.dtype, engine.network.dtype) != engine.network.dtype)
            or not engine.owns(self.coefs_, self.intercepts_)
            or not engine.runs((self.activation,) * (len(self.coefs_) - 1), False)
        ):
            return super()._forward_pass_fast(X, check_input=False)
        out = engine.forward(np.ascontiguousarray(checks.narrowed(dense(X), engine.network.dtype)))
        OUTPUT_ACTIVATIONS[self.out_activation_](out)
        return out


class MLPClassifier(_Accelerated, neural_network.MLPClassifier):
    """scikit-learn's MLPClassifier, trained and asked for predictions on fastmlp's kernels.

    Every parameter, attribute, method and error is scikit-learn's, and so, within rounding, is every number: see
    `sklearn.neural_network.MLPClassifier`. Beyond it there are, by keyword, and for our class alone:

    activation: also "leaky_relu", "gelu", "silu", "softplus", "sine"; or a list of names, one a hidden layer.
    solver: also "adamw", which takes learning_rate_init * alpha * w off each weight w in each step, apart from the
        gradient; the loss then has no penalty.
    dropout: the probability of a hidden unit to be left out of a step, in multiples of 2^-16; the others are scaled up.
    class_weight: a dict {class: weight}, or "balanced", as in other classifiers; multiplied into sample_weight.
        Multilabel: a list of such dicts. It does not count in validation.
    learning_rate_schedule: "cosine" or "linear", down to 0 over max_iter epochs, or a function of the epoch, from 0 on,
        that gives the factor of learning_rate_init.
    dtype: "float32", "float64" or "bfloat16" (float32 whose products round their operands, see `fastmlp.MLP`),
        whatever X is; predictions have it too. None: that of X, or what FASTMLP_DTYPE says.
    callbacks: a list of functions, each called with an `fastmlp.sklearn.Epoch` after every epoch; True ends the fit.
    progress: a bar on stderr; None shows it on a terminal, for a fit of more than two seconds.

    `fit` also takes X_val, y_val and sample_weight_val, and then leaves `validation_loss_curve_`.

    Raises BackendUnavailable where FASTMLP_BACKEND names one that cannot run.
    """

    classes_: np.ndarray
    _label_binarizer: Any

    _EXTRAS = extras.DEFAULTS | {"class_weight": None}
    _parameter_constraints = extras.constraints(neural_network.MLPClassifier, _EXTRAS)
    __init__ = extras.extended(neural_network.MLPClassifier, _EXTRAS)

    def _plain_target(self, y: Any, n: int, incremental: bool) -> np.ndarray | None:
        if hasattr(self, "classes_") and (self.warm_start or incremental):
            if self._label_binarizer.y_type_ not in ("binary", "multiclass"):
                return None
            codes = checks.codes_among(self.classes_, y, n)
            if codes is None or (self.warm_start and len(np.unique(codes)) < len(self.classes_)):
                return None
        else:
            fitted = checks.fit_labels(y) if checks.are_plain_labels(y, n) else None
            if fitted is None:
                return None
            self._label_binarizer, codes = fitted
            self.classes_ = self._label_binarizer.classes_
        return checks.indicators(codes, len(self.classes_))

    @available_if(lambda estimator: estimator._check_solver())
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, classes: Any = None) -> Any:
        """One epoch on X[n, k] and y[n], as scikit-learn's; `classes`, all that there will be, go with the first call.

        Raises ValueError for classes other than those of the first call.
        """
        if type(classes) is np.ndarray and hasattr(self, "classes_") and np.array_equal(classes, self.classes_):
            classes = None  # which spares scikit-learn's comparison
        return super().partial_fit(X, y, sample_weight, classes)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The accuracy of `predict(X)` with respect to y, as scikit-learn's."""
        predicted = self.predict(X)
        return checks.accuracy(self.classes_, y, predicted, sample_weight)

    def _score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        accuracy = functools.partial(checks.accuracy, self.classes_)
        return self._score_with_function(X, y, sample_weight=sample_weight, score_function=accuracy)

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
    `sklearn.neural_network.MLPRegressor`. Beyond it are the parameters that our MLPClassifier lists, but for
    class_weight. Raises BackendUnavailable where FASTMLP_BACKEND names one that cannot run.
    """

    _parameter_constraints = extras.constraints(neural_network.MLPRegressor, extras.DEFAULTS)
    __init__ = extras.extended(neural_network.MLPRegressor, extras.DEFAULTS)

    def _plain_target(self, y: Any, n: int, incremental: bool) -> np.ndarray | None:
        return y if checks.is_plain_target(y, n) else None

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The coefficient of determination of `predict(X)` with respect to y, as scikit-learn's."""
        return checks.r_squared(y, self.predict(X), sample_weight)

    def _score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        return self._score_with_function(X, y, sample_weight=sample_weight, score_function=checks.r_squared)
