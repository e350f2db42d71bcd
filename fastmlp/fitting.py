"""The epochs of a fit: the order of their samples, the calls they are cut into, and what is said of a loss."""

import time
import warnings
from typing import Any

import numpy as np

from .callbacks import ProgressBar
from .computing import Computing
from .errors import ArgumentError
from .interrupt import Pace, interrupt_held


class Fitting(Computing):
    """A network that trains epoch by epoch; `MLP.fit` says what a fit is."""

    epochs: int
    _random: np.random.Generator

    def _validation(self, validation_data: Any) -> tuple[np.ndarray, np.ndarray]:
        if not isinstance(validation_data, tuple | list) or len(validation_data) != 2:
            count = f" of {len(validation_data)}" if isinstance(validation_data, tuple | list) else ""
            raise ArgumentError(f"validation_data must be a pair (x, y); got {type(validation_data).__name__}{count}.")
        x, y = validation_data
        return self._samples(x, y, "validation_data's ")

    def _train_epochs(
        self,
        x: Any,
        y: Any,
        batch_size: int,
        shuffle: bool,
        losses: np.ndarray,
        pace: Pace,
        bar: ProgressBar,
    ) -> None:
        """Train len(losses) epochs, in calls of about SECONDS_A_CALL; writes the losses[epochs, steps].

        Cut short by an exception, it leaves `updates`, `epochs` and the random state as if it had been asked for no
        more epochs than it began.
        """
        n, steps = len(x), losses.shape[1]
        flat, done = losses.reshape(-1), 0
        before = self._random.bit_generator.state
        try:
            order = self._shuffled(n, len(losses)) if shuffle else None
            while done < len(flat):
                began = time.perf_counter()
                count = min(pace.steps, len(flat) - done)
                with interrupt_held():
                    first = done // steps * n + done % steps * batch_size
                    self._train(x, y, order, first, batch_size, flat[done : done + count])
                    done += count
                pace.measure((time.perf_counter() - began) / count)
                bar.advance(count, float(flat[done - 1]))
        except Exception as error:
            done += getattr(error, "steps", 0)
            raise
        finally:
            self.epochs += done // steps
            if shuffle and done < len(flat):
                self._random.bit_generator.state = before
                self._shuffled(n, -(-done // steps))

    def _shuffled(self, n: int, epochs: int) -> np.ndarray:
        """order[epochs * n]: a new permutation of the rows for each epoch."""
        order = np.empty((epochs, n), np.int64)
        order[...] = np.arange(n)
        for epoch in order:
            self._random.shuffle(epoch)
        return order.reshape(-1)


def announce_divergence(losses: np.ndarray, first: int) -> bool:
    """Whether one of the losses of the epochs from `first` on is not finite, with a warning that names the epoch."""
    finite = np.isfinite(losses)
    if finite.all():
        return False
    epoch = int(finite.argmin())
    warnings.warn(
        f"the loss of epoch {first + epoch} is {losses[epoch]}: training diverges. A smaller learning_rate, or inputs "
        "scaled to a spread of about 1, would do.",
        RuntimeWarning,
        stacklevel=3,
    )
    return True
