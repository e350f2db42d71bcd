"""Callbacks of `MLP.fit`: any callable that takes an `Epoch` after each epoch and returns True to stop the fit.

A `Callback` is told besides when a fit begins and when it ends.
"""

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ArgumentError, require_name
from .history import Epoch
from .kernels.arrays import as_integer, as_real

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["Callback", "Checkpoint", "EarlyStopping", "Epoch", "ProgressBar"]


class Callback:
    """What may be told of more than epochs: derive from it, and override what is needed."""

    def begin(self, validated: bool) -> None:
        """Called before a fit's first epoch; `validated`: each will have a validation loss. May raise."""

    def __call__(self, epoch: Any) -> object:
        """Called after every epoch; True ends the fit."""
        return None

    def finish(self, epoch: Any) -> None:
        """Called with the fit's last epoch once all callbacks have seen it, whoever ended it; not after an error."""


def begin(callbacks: Sequence[Callable[[Any], object]], validated: bool) -> None:
    """Tell callbacks that a fit begins."""
    for callback in callbacks:
        if isinstance(callback, Callback):
            callback.begin(validated)


def tell(callbacks: Sequence[Callable[[Any], object]], epoch: Any, over: bool = False) -> bool:
    """Tell all callbacks of an epoch, and of the fit's end if that was it or it is `over`; whether one ends it."""
    answers = [callback(epoch) for callback in callbacks]
    stops = any(isinstance(answer, bool | np.bool_) and bool(answer) for answer in answers)
    if stops or over or epoch.is_last:
        finish(callbacks, epoch)
    return stops


def finish(callbacks: Sequence[Callable[[Any], object]], epoch: Any) -> None:
    """Tell callbacks that a fit ended with this epoch."""
    for callback in callbacks:
        if isinstance(callback, Callback):
            callback.finish(epoch)


class EarlyStopping(Callback):
    """Stops a fit once the monitored loss has not fallen by more than `min_delta` for `patience` epochs.

    `monitor` is "validation_loss" or "loss"; None means the validation loss where there is one. A loss that is NaN is
    no improvement. With `restore_best`, the parameters of the best epoch are put back when the fit ends, whoever stops
    it or not; the optimiser's state stays that of the last epoch. `best` and `best_epoch` (from 0) tell what was found.
    One object serves one fit after another, each anew.
    """

    def __init__(
        self, patience: int = 10, min_delta: float = 0.0, monitor: str | None = None, restore_best: bool = True
    ) -> None:
        self.patience = as_integer("patience", patience)
        self.min_delta = as_real("min_delta", min_delta)
        self.monitor = None if monitor is None else require_name("monitor", monitor, ("validation_loss", "loss"))
        self.restore_best = restore_best
        self.best, self.best_epoch = math.inf, -1
        self._parameters: np.ndarray | None = None

    def begin(self, validated: bool) -> None:
        """Raises ArgumentError where there is no validation loss to monitor."""
        if self.monitor == "validation_loss" and not validated:
            raise ArgumentError("EarlyStopping monitors the validation loss; got a fit without validation data.")

    def __call__(self, epoch: Epoch) -> bool:
        """Note the epoch's loss; True when the fit should stop."""
        if epoch.index == 0:
            self.best, self.best_epoch, self._parameters = math.inf, -1, None
        if self._monitored(epoch) < self.best - self.min_delta:
            self.best, self.best_epoch = self._monitored(epoch), epoch.index
            if self.restore_best:
                self._parameters = epoch.network.parameters.copy()
        return epoch.index - self.best_epoch >= self.patience

    def finish(self, epoch: Epoch) -> None:
        """Put back the best epoch's parameters."""
        if self._parameters is not None:
            epoch.network.parameters[...] = self._parameters
            self._parameters = None

    def _monitored(self, epoch: Epoch) -> float:
        self.begin(epoch.validation_loss is not None)
        return epoch.loss if epoch.validation_loss is None or self.monitor == "loss" else epoch.validation_loss


class Checkpoint(Callback):
    """Saves the network to `path` after every `every` epochs and when the fit ends; see `MLP.save`.

    After an `EarlyStopping` in the list of callbacks it saves at the end what that has put back.
    """

    def __init__(self, path: str | os.PathLike[str], every: int = 1) -> None:
        self.path, self.every = path, as_integer("every", every)

    def __call__(self, epoch: Epoch) -> None:
        """Save if it is this epoch's turn."""
        if (epoch.index + 1) % self.every == 0:
            epoch.network.save(self.path)

    def finish(self, epoch: Epoch) -> None:
        """Save the network as the fit leaves it."""
        epoch.network.save(self.path)


class ProgressBar:
    """Epochs, share of the steps done, time left and loss on stderr, redrawn at most ten times a second.

    `show` None means: only on a terminal, and only once the fit has lasted two seconds.
    """

    def __init__(self, epochs: int, steps: int, show: bool | None) -> None:
        self._epochs, self._steps = epochs, steps  # steps of one epoch
        terminal = sys.stderr is not None and sys.stderr.isatty()
        self._wait = 0.0 if show else 2.0
        self._enabled = show or (show is None and terminal)
        self._started = self._drawn = time.perf_counter()
        self._done = 0
        self._bar: Progress | None = None

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, steps: int, loss: float) -> None:
        """So many more steps are done; `loss` is that of the last one."""
        self._done += steps
        now = time.perf_counter()
        finished = self._done == self._epochs * self._steps
        if not self._enabled or now - self._started < self._wait or (now - self._drawn < 0.1 and not finished):
            return
        self._drawn = now
        if self._bar is None:
            self._bar = self._open()
        epoch = f"epoch {min(self._done // self._steps + 1, self._epochs)}/{self._epochs}"
        self._bar.update(self._bar.task_ids[0], completed=self._done, description=epoch, loss=f"{loss:.4g}")
        self._bar.refresh()

    def _open(self) -> "Progress":
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("loss {task.fields[loss]}"),
        )
        bar = Progress(*columns, console=Console(stderr=True), auto_refresh=False)
        bar.add_task("", total=self._epochs * self._steps, loss="")
        bar.start()
        return bar
