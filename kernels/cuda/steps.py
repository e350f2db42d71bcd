"""Many steps in one call: what changes from one to the next lies in device memory, so that one CUDA graph does for all.

A call brings the optimiser's numbers of all its steps to the device at once. Each step begins by a launch that takes
its own of them and the rows of its batch to fixed places, and keeps its loss and moves on before its first update.
"""

from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import numpy as np
from numba import cuda

from ..network import Optimizer
from .elementary import SIMULATED
from .graphs import Graphs
from .launch import THREADS, blocks_for, launch
from .memory import address, empty, update
from .optimizers import settings

STEPS = 3 if SIMULATED else 1024
"""Steps whose numbers are brought to the device at a time."""

NUMBERS = 9
"""Of optimizers.settings."""


@cuda.jit
def _begin(order, shuffled, samples, cursor, table, rows, numbers):
    start, step = cursor[0], cursor[1]
    for i in range(cuda.grid(1), rows.size, cuda.gridsize(1)):
        rows[i] = order[start + i] if shuffled else (start + i) % samples
    for i in range(cuda.grid(1), numbers.size, cuda.gridsize(1)):
        numbers[i] = table[step, i]


@cuda.jit
def _end(n, results, kept, cursor):
    step = cursor[1]
    for i in range(results.size):
        kept[i, step] = results[i]
    cursor[0] += n
    cursor[1] = step + 1


class Steps:
    """The place of a step's own values, for batches of up to `rows` rows of a network of this dtype."""

    def __init__(self, rows: int, dtype: np.dtype):
        self.numbers = empty(NUMBERS, dtype)
        """The optimiser's, as optimizers.settings gives them."""
        self.results = empty(2, np.dtype(float))
        """J, and the L2 penalty where that is asked for, before they are kept."""
        self.graphs = Graphs()
        self._dtype = dtype
        self._rows = empty(rows, np.dtype(np.int64))
        self._cursor = empty(2, np.dtype(np.int64))  # the position that the step starts at, and its number
        self._table = empty((STEPS, NUMBERS), dtype)
        self._kept = empty((2, STEPS), np.dtype(float))
        self._sources: list[np.ndarray] = []  # what the device may not have read yet
        arrays = self.numbers, self.results, self._rows, self._cursor, self._table, self._kept
        self.nbytes = sum(array.nbytes for array in arrays)

    def begin(self, samples: int, order: Any, n: int) -> Any:
        """Launch what a step of n rows begins with; the rows' numbers, or None where they are all rows as they lie."""
        rows = self._rows[:n]
        given = rows if order is None else order
        launch(
            _begin, blocks_for(n), THREADS, given, int(order is not None), samples, self._cursor, self._table, rows,
            self.numbers,
        )  # fmt: skip
        return None if order is None and n == samples else rows

    def end(self, n: int) -> None:
        """Keep the results, and move on to the next step; before the first update, so that it cannot fail after one."""
        launch(_end, 1, 1, n, self.results, self._kept, self._cursor)

    def make(
        self,
        launches: Callable[[int, Optimizer], None],
        given: Hashable,
        optimizer: Optimizer,
        updates: int,
        samples: int,
        start: int,
        batch_size: int,
        losses: Any,
        penalties: Any,
        ready: Callable[[int], object] = lambda n: None,
    ) -> None:
        """len(losses) steps from position `start` on, each by launches(n, the rule for a batch of n rows).

        given: what the launches' arguments depend on besides n and the rule.
        ready: called before a step of n rows is launched, for what may fail in that; as Graphs.run takes it.

        An error has the attribute `steps`: how many whole steps were made before it.
        """
        made = 0
        self._sources.clear()
        try:
            while made < len(losses):
                batches: list[int] = []
                position = start
                while len(batches) < min(STEPS, len(losses) - made):
                    batches.append(min(batch_size, samples - position % samples))
                    position += batches[-1]
                rules = [optimizer if penalties is None else optimizer.shared(n) for n in batches]
                numbers = [settings(rule, updates + made + s + 1) for s, rule in enumerate(rules)]
                sources = np.array(numbers, self._dtype), np.array([start, 0], np.int64)
                self._sources += sources
                for place, source in zip((self._table[: len(batches)], self._cursor), sources, strict=True):
                    update(place, source)
                first = made
                for n, rule in zip(batches, rules, strict=True):
                    key = given, n, rule.name, rule.l2, penalties is None
                    self.graphs.run(key, partial(launches, n, rule), partial(ready, n))
                    made += 1
                losses[first:made] = self._kept[0, : made - first]
                if penalties is not None:
                    penalties[first:made] = self._kept[1, : made - first]
                start = position
        except Exception as error:
            error.steps = made  # type: ignore[attr-defined]
            raise


def places(*arrays: Any) -> Hashable:
    """Where device arrays lie and what they are, as part of what launches depend on; None stands for one not given."""
    return tuple(None if array is None else (address(array), array.shape, array.dtype.char) for array in arrays)
