"""Whether fastmlp.sklearn is ever slower than scikit-learn: all that its own tests and other programs do, timed again.

`python -m fastmlp.bench.never_slower [--script FILE]... [--scripts-only] [--json FILE] [--budget SECONDS]`

Records what scikit-learn's test_mlp.py, and each script, does with every MLPClassifier and MLPRegressor, call by call,
while scikit-learn's own classes run; then lets fresh estimators of either side repeat it in turn.
"""

import argparse
import copy
import json
import re
import runpy
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from sklearn import neural_network

import fastmlp.sklearn

from ..errors import ArgumentError
from . import timing
from .drop_in import Row
from .progress import Bar

BUDGET_S = 0.5
"""Seconds of timing for each history."""

ALLOWED = 1.05
"""How many times scikit-learn's time is not yet slower, which is the least that such short timings can tell."""

METHODS = ("fit", "partial_fit", "predict", "predict_proba", "predict_log_proba")

OWN_TESTS = "sklearn.neural_network.tests.test_mlp"


@dataclass
class Call:
    """A call of an estimator's method: the parameters that the estimator had, the arguments, and how it ended."""

    method: str
    parameters: dict[str, Any]
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    raised: type[BaseException] | None = None


@dataclass
class History:
    """What a program did with one estimator of the class of this name."""

    kind: str
    source: str
    calls: list[Call] = field(default_factory=list)

    def __str__(self) -> str:
        """The class, its settings and the calls; equal for histories that do the same kind of work."""
        estimator = getattr(neural_network, self.kind)(**self.calls[0].parameters)
        calls = [f"{call.method}{_described(call.arguments)}" for call in self.calls]
        repeated = len(calls) - len(set(calls))
        text = re.sub(r" at 0x\w+", "", " ".join(repr(estimator).split()))
        return f"{text}: {', '.join(dict.fromkeys(calls))}{f', repeated {repeated} times' if repeated else ''}"

    def repeat(self, module: Any) -> Any:
        """Make the calls on a new estimator of this module's class, which is returned.

        Raises ArithmeticError where a call does not end as it did.
        """
        estimator = getattr(module, self.kind)(**self.calls[0].parameters)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for call in self.calls:
                estimator.set_params(**copy.deepcopy(call.parameters) | {"verbose": False})
                raised = None
                try:
                    getattr(estimator, call.method)(*call.arguments, **call.keywords)
                except Exception as error:
                    raised = type(error)
                if raised is not call.raised:
                    raise ArithmeticError(f"{self}: {call.method} raised {raised} here, and {call.raised} before")
        return estimator


def _described(arguments: tuple[Any, ...]) -> str:
    """The shape and dtype of a call's samples."""
    x: Any = arguments[0] if arguments else None
    return f"({x.dtype}{list(x.shape)})" if hasattr(x, "dtype") else f"({type(x).__name__})"


@contextmanager
def recording(source: str) -> Iterator[list[History]]:
    """Within the block scikit-learn's two classes, imported from now on, note what is done with their estimators."""
    histories: list[History] = []
    theirs = neural_network.MLPClassifier, neural_network.MLPRegressor

    def noting(kind: Any) -> type:
        def look_up(self: Any, name: str) -> Any:
            value = kind.__getattribute__(self, name)
            if name not in METHODS:
                return value

            def call(*arguments: Any, **keywords: Any) -> Any:
                mine = self.__dict__.get("_history")
                if mine is None:
                    mine = self.__dict__["_history"] = History(kind.__name__, source)
                    histories.append(mine)
                noted = Call(name, copy.deepcopy(self.get_params()), arguments, keywords)
                mine.calls.append(noted)
                try:
                    return value(*arguments, **keywords)
                except Exception as error:
                    noted.raised = type(error)
                    raise

            return call

        def state(self: Any) -> dict[str, Any]:
            return {name: value for name, value in kind.__getstate__(self).items() if name != "_history"}

        names = {"__getattribute__": look_up, "__getstate__": state, "__module__": neural_network.__name__}
        return type(kind.__name__, (kind,), names)

    for kind in theirs:
        setattr(neural_network, kind.__name__, noting(kind))
    try:
        yield histories
    finally:
        for kind in theirs:
            setattr(neural_network, kind.__name__, kind)


def record_own_tests() -> list[History]:
    """The histories of the test file that comes with scikit-learn. Raises ArgumentError if its tests fail."""
    import pytest

    with recording("test_mlp.py") as histories:
        sys.modules.pop(OWN_TESTS, None)
        status = pytest.main(["--pyargs", OWN_TESTS, "-q", "-p", "no:cacheprovider", "--no-header", "-o", "addopts="])
    if status != 0:
        raise ArgumentError(f"scikit-learn's own tests fail here by themselves: {status!r}")
    return histories


def record_script(path: Path) -> list[History]:
    """The histories of a program, run as `__main__`."""
    with recording(path.name) as histories:
        runpy.run_path(str(path), run_name="__main__")
    return histories


def distinct(histories: list[History]) -> dict[str, History]:
    """One history of each kind of work, by its text."""
    found: dict[str, History] = {}
    for history in histories:
        found.setdefault(str(history), history)
    return found


def measure(name: str, history: History, budget_s: float) -> Row:
    """Time both sides in turn, what compiling takes left out."""
    sides: list[Callable[[], Any]] = [partial(history.repeat, module) for module in (neural_network, fastmlp.sklearn)]
    theirs, ours = timing.interleave(sides, budget_s, least=5)
    spread = timing.Spread.of
    return Row(
        f"{history.source}: {name}", spread(theirs.wall), spread(ours.wall), timing.ratio(theirs.wall, ours.wall)
    )


def slower(row: Row) -> bool:
    """Whether our time is more than ALLOWED times theirs."""
    return row.times_faster.median < 1 / ALLOWED


def main() -> None:
    """Record, measure, print each history that is slower and a summary; status 1 if there is one.

    A history that seems slower is measured once more, with four times the budget, and that counts. After Ctrl-C, status
    130, what is finished is printed and written.
    """
    parser = argparse.ArgumentParser(prog="python -m fastmlp.bench.never_slower", description=__doc__)
    parser.add_argument("--script", type=Path, action="append", default=[], metavar="FILE", help="a program to record")
    parser.add_argument("--scripts-only", action="store_true", help="leave out scikit-learn's own tests")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--budget", type=float, default=BUDGET_S, metavar="SECONDS", help="of timing for each history")
    options = parser.parse_args()
    histories = [] if options.scripts_only else record_own_tests()
    for script in options.script:
        histories += record_script(script)
    rows: list[Row] = []
    is_whole, work = True, distinct(histories)
    with Bar(len(work)) as bar:
        try:
            for name, history in work.items():
                bar.tell(history.source)
                row = measure(name, history, options.budget)
                if slower(row):
                    row = measure(name, history, 4 * options.budget)
                rows.append(row)
                bar.advance()
                mark = " SLOWER" if slower(row) else ""
                times = " ".join(f"{1e3 * side.median:9.2f} ms" for side in (row.scikit_learn_s, row.fastmlp_s))
                ratio = f"{row.times_faster.median:6.2f} times faster{' ~' if row.times_faster.noisy else ''}{mark}"
                print(f"{times} {ratio}  {row.name}", flush=True)
        except KeyboardInterrupt:
            is_whole = False
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    if not rows:
        sys.exit(130)
    worse = [row for row in rows if slower(row)]
    ratios = np.sort([row.times_faster.median for row in rows])
    print(
        f"{len(rows)} kinds of work: {len(worse)} slower than {ALLOWED} times scikit-learn's time; times faster: least "
        f"{ratios[0]:.2f}, median {np.median(ratios):.2f}, most {ratios[-1]:.2f}"
    )
    sys.exit(130 if not is_whole else 1 if worse else 0)


if __name__ == "__main__":
    main()
