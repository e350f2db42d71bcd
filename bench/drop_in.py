"""fastmlp.sklearn against scikit-learn, as users write it: fits, predictions and updates by one row, a grid search.

`python -m fastmlp.bench.drop_in [--json FILE] [--budget SECONDS]`
"""

import argparse
import datetime
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import datasets, neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

import fastmlp.sklearn

from .. import info
from . import timing
from .progress import Bar

BUDGET_S = 6.0
"""Seconds of timing for each row."""

AGREEMENT = {"float64": 1e-9, "float32": 1e-3}
"""How far the last losses of the two sides may be apart, relatively, for their times to be worth comparing."""


@dataclass(frozen=True)
class Row:
    """One comparison: medians in seconds of one call of each side, and their ratio round by round."""

    name: str
    scikit_learn_s: timing.Spread
    fastmlp_s: timing.Spread
    times_faster: timing.Spread


Sides = tuple[Callable[[], Any], Callable[[], Any]]


def _fits(kind: str, x: np.ndarray, y: np.ndarray, **settings: Any) -> Sides:
    """A fit of scikit-learn's class and one of ours; raises ArithmeticError if they do not agree."""
    theirs, ours = getattr(neural_network, kind)(**settings), getattr(fastmlp.sklearn, kind)(**settings)
    losses = [estimator.fit(x, y).loss_ for estimator in (theirs, ours)]
    if abs(losses[1] / losses[0] - 1) > AGREEMENT[x.dtype.name]:
        raise ArithmeticError(f"{kind} with {settings}: the losses are {losses}")
    return partial(theirs.fit, x, y), partial(ours.fit, x, y)


def _predictions(x: np.ndarray, y: np.ndarray) -> Sides:
    """A thousand predictions of a single row each."""
    theirs, ours = (
        module.MLPClassifier(max_iter=3, random_state=0).fit(x, y) for module in (neural_network, fastmlp.sklearn)
    )
    if (theirs.predict(x) != ours.predict(x)).any():
        raise ArithmeticError("the predictions differ")

    def predict(estimator: Any) -> None:
        for _ in range(1000):
            estimator.predict(x[:1])

    return partial(predict, theirs), partial(predict, ours)


def _updates(x: np.ndarray, y: np.ndarray) -> Sides:
    """A hundred calls of partial_fit, each with a single row."""
    classes = np.unique(y)
    losses, calls = [], []

    def learn(estimator: Any) -> None:
        for i in range(100):
            estimator.partial_fit(x[i : i + 1], y[i : i + 1], classes=classes)

    for module in (neural_network, fastmlp.sklearn):
        estimator = module.MLPClassifier(random_state=0)
        learn(estimator)
        losses.append(estimator.loss_)
        calls.append(partial(learn, estimator))
    if abs(losses[1] / losses[0] - 1) > AGREEMENT[x.dtype.name]:
        raise ArithmeticError(f"partial_fit: the losses are {losses}")
    return calls[0], calls[1]


def _searches(x: np.ndarray, y: np.ndarray) -> Sides:
    """A grid search over 12 settings and 3 folds in two processes."""
    grid = {"hidden_layer_sizes": [(50,), (100,), (64, 64)], "alpha": [1e-4, 1e-2], "learning_rate_init": [1e-3, 1e-2]}
    theirs, ours = (
        GridSearchCV(module.MLPClassifier(max_iter=30, random_state=0), grid, cv=3, n_jobs=2)
        for module in (neural_network, fastmlp.sklearn)
    )
    return partial(theirs.fit, x, y), partial(ours.fit, x, y)


def sides() -> dict[str, Callable[[], Sides]]:
    """Every row's name, and what makes its two sides."""
    digits, labels = datasets.load_digits(return_X_y=True)
    digits = digits / 16
    diabetes, progress = datasets.load_diabetes(return_X_y=True)
    classify = partial(_fits, "MLPClassifier", digits, labels, max_iter=30, random_state=0)
    narrow = partial(
        _fits, "MLPClassifier", digits.astype(np.float32), labels, hidden_layer_sizes=(512, 512), max_iter=10,
        random_state=0,
    )  # fmt: skip
    return {
        "MLPClassifier((100,)), digits, 30 epochs": classify,
        "MLPClassifier((64, 64)), digits, 30 epochs": partial(classify, hidden_layer_sizes=(64, 64)),
        "MLPClassifier((512, 512)), digits, 10 epochs": partial(classify, hidden_layer_sizes=(512, 512), max_iter=10),
        "MLPClassifier((512, 512)), digits, 10 epochs, float32": narrow,
        "MLPClassifier((100,), solver='lbfgs'), digits, 20 iterations": partial(classify, solver="lbfgs", max_iter=20),
        "MLPRegressor((100,)), diabetes, 200 epochs": partial(
            _fits, "MLPRegressor", diabetes, progress, max_iter=200, random_state=0
        ),
        "1000 x predict of one row": partial(_predictions, digits, labels),
        "100 x partial_fit of one row": partial(_updates, digits, labels),
        "GridSearchCV, 12 settings x 3 folds, n_jobs=2": partial(_searches, digits, labels),
    }


def measure(name: str, make: Callable[[], Sides], budget_s: float) -> Row:
    """Time the two sides of a row in turn, at least five times each."""
    calls = make()
    theirs, ours = timing.interleave(calls, budget_s, least=5)
    spread = timing.Spread.of
    return Row(name, spread(theirs.wall), spread(ours.wall), timing.ratio(theirs.wall, ours.wall))


def main() -> None:
    """Measure every row, print it, and write the document if asked; after Ctrl-C too, of what is finished."""
    parser = argparse.ArgumentParser(prog="python -m fastmlp.bench.drop_in", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--budget", type=float, default=BUDGET_S, metavar="SECONDS", help="of timing for each row")
    options = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)
    rows, chosen, status = [], sides(), 0
    with Bar(len(chosen)) as bar:
        try:
            for name, make in chosen.items():
                bar.tell(name)
                row = measure(name, make, options.budget)
                rows.append(asdict(row))
                bar.advance()
                noisy = " ~" if row.times_faster.noisy else ""
                print(
                    f"{name}: {row.scikit_learn_s.median * 1e3:.1f} ms, {row.fastmlp_s.median * 1e3:.1f} ms, "
                    f"{row.times_faster.median:.2f} times faster{noisy}",
                    flush=True,
                )
        except KeyboardInterrupt:
            status = 130
    if options.json:
        import sklearn

        today = datetime.date.today().isoformat()
        document = {"date": today, "scikit-learn": sklearn.__version__, **info.collect(), "rows": rows}
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
