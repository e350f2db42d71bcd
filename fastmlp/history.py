"""What a fit reports: the History it returns and the Epoch record its callbacks are given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .network import MLP


@dataclass
class History:
    """The course of one `fit`.

    `loss[e]` is the mean over the samples of epoch e of the loss that each had before the update of its batch,
    `validation_loss[e]` the loss on the validation data after epoch e (empty without validation data),
    `seconds` the wall time of the fit.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def epochs(self) -> int:
        """How many epochs were trained: fewer than asked for where a callback stopped the fit."""
        return len(self.loss)

    def __repr__(self) -> str:
        course = f", loss {self.loss[0]:.6g} -> {self.loss[-1]:.6g}" if self.loss else ""
        validation = f", validation loss {self.validation_loss[-1]:.6g}" if self.validation_loss else ""
        return f"History({self.epochs} epochs in {self.seconds:.3g} s{course}{validation})"


@dataclass(frozen=True)
class Epoch:
    """What a callback is given after an epoch: the network as it stands and the losses of that epoch.

    `index` counts from 0 within this fit, of which `epochs` were asked for; `validation_loss` is None without
    validation data; `history` already holds this epoch.
    """

    network: MLP
    index: int
    epochs: int
    loss: float
    validation_loss: float | None
    history: History

    @property
    def is_last(self) -> bool:
        """Whether the fit ends with this epoch even if no callback stops it."""
        return self.index + 1 == self.epochs
