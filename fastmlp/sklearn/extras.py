"""What our estimators offer beyond scikit-learn's: their parameters, schedules of the learning rate, callbacks."""

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.utils._param_validation import Interval, StrOptions

from ..kernels.contract import NETWORK_DTYPES
from .engine import ACTIVATIONS, Engine

SCIKIT_LEARNS = BaseMultilayerPerceptron._parameter_constraints["activation"][0].options
"""The activations that scikit-learn has."""

SCHEDULES: dict[str, Callable[[int, int], float]] = {
    "linear": lambda epoch, epochs: 1 - epoch / epochs,
    "cosine": lambda epoch, epochs: (1 + math.cos(math.pi * epoch / epochs)) / 2,
}
"""Factors of the learning rate in an epoch, counted from 0, of at most `epochs`."""

DEFAULTS: dict[str, Any] = {
    "dropout": 0.0,
    "learning_rate_schedule": None,
    "dtype": None,
    "callbacks": None,
    "progress": False,
}
"""The parameters that both estimators have beyond scikit-learn's. With these values nothing differs from it."""

CONSTRAINTS: dict[str, list[Any]] = {
    "activation": [StrOptions(set(ACTIVATIONS)), list, tuple],
    "solver": [StrOptions({"lbfgs", "sgd", "adam", "adamw"})],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "learning_rate_schedule": [StrOptions(set(SCHEDULES)), callable, None],
    "dtype": [StrOptions(set(NETWORK_DTYPES)), None],
    "callbacks": [list, tuple, None],
    "progress": ["boolean", None],
    "class_weight": [dict, list, StrOptions({"balanced"}), None],
}
"""What each may be, as scikit-learn's `_parameter_constraints` says it."""


def extended(kind: Any, extras: dict[str, Any]) -> Callable[..., None]:
    """An `__init__` that takes the parameters of scikit-learn's class, of whatever version, and `extras` by keyword."""
    own = inspect.signature(kind.__init__)

    def __init__(self: Any, *args: Any, **parameters: Any) -> None:  # noqa: N807
        values = {name: parameters.pop(name, default) for name, default in extras.items()}
        kind.__init__(self, *args, **parameters)
        for name, value in values.items():
            setattr(self, name, value)

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default) for name, default in extras.items()
    ]
    __init__.__signature__ = own.replace(parameters=[*own.parameters.values(), *added])  # type: ignore[attr-defined]
    return __init__


def constraints(kind: Any, extras: dict[str, Any]) -> dict[str, Any]:
    """The constraints of scikit-learn's class and of `extras`."""
    names = ["activation", "solver", *extras]
    return {**kind._parameter_constraints, **{name: CONSTRAINTS[name] for name in names}}


def activations(activation: str | Sequence[str], hidden: int) -> tuple[str, ...]:
    """One name a hidden layer. Raises ValueError unless there are as many names, each of them known."""
    if isinstance(activation, str):
        return (activation,) * hidden
    for name in activation:
        if name not in ACTIVATIONS:
            raise ValueError(f"activation must hold names out of {sorted(ACTIVATIONS)}; got {name!r}.")
    if len(activation) != hidden:
        raise ValueError(
            f"activation must be one name, or {hidden}, one a hidden layer; got {len(activation)}: {activation!r}."
        )
    return tuple(activation)


def is_scikit_learns(activation: str | Sequence[str]) -> bool:
    """Whether scikit-learn's code knows this activation."""
    return isinstance(activation, str) and activation in SCIKIT_LEARNS


def of_minibatches(estimator: Any) -> list[str]:
    """The parameters beyond scikit-learn's, as a user writes them, that only training by minibatches would heed."""
    used = [name for name in ("dropout", "learning_rate_schedule", "callbacks", "progress") if getattr(estimator, name)]
    said = [f"{name}={getattr(estimator, name)!r}" for name in used]
    return said + (["dtype='bfloat16'"] if estimator._dtype_asked == "bfloat16" else [])


def beyond(estimator: Any) -> list[str]:
    """The parameters, as a user writes them, that scikit-learn's code knows nothing of, or would not heed."""
    used = [] if is_scikit_learns(estimator.activation) else [f"activation={estimator.activation!r}"]
    return of_minibatches(estimator) + used + (["solver='adamw'"] if estimator.solver == "adamw" else [])


def rate_factor(schedule: str | Callable[[int], float] | None, epoch: int, epochs: int) -> float:
    """What the learning rate is multiplied by in this epoch, from 0 on. Raises ValueError for a negative factor."""
    if schedule is None:
        return 1.0
    factor: Any = SCHEDULES[schedule](epoch, epochs) if isinstance(schedule, str) else schedule(epoch)
    if not isinstance(factor, Real) or not 0 <= float(factor) < math.inf:
        raise ValueError(
            "learning_rate_schedule must give a finite factor of learning_rate_init, 0 or more; for epoch "
            f"{epoch} it gave {factor!r}."
        )
    return float(factor)


@dataclass(frozen=True)
class Epoch:
    """What a callback is given after an epoch; it returns True to end the fit.

    `estimator` is the one being fitted, its `coefs_` as they stand. `index` counts from 0 within this fit, of which
    `epochs` may be made. `loss` is the epoch's; `validation_loss` is None without X_val, `validation_score` without
    early_stopping. `network` holds all parameters in one array and can be saved for fastmlp.MLP: the callbacks of
    `fastmlp.callbacks` run on it.
    """

    estimator: Any
    network: Engine
    index: int
    epochs: int
    loss: float
    validation_loss: float | None
    validation_score: float | None

    @property
    def is_last(self) -> bool:
        """Whether the fit ends with this epoch even if no callback stops it."""
        return self.index + 1 == self.epochs
