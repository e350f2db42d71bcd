"""What is timed: networks, their training settings, and how their data are made. Data only; nothing is run here."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np


class Data(NamedTuple):
    """x[n, inputs] float32; t[n, outputs] float32 or int64 labels [n]; the same for a test set, where there is one."""

    x: np.ndarray
    t: np.ndarray
    x_test: np.ndarray | None = None
    t_test: np.ndarray | None = None


@dataclass(frozen=True)
class Workload:
    """One row of the report. One timed call is `fit` over `epochs` whole epochs of all `samples`.

    `study` is how many epochs a fresh network is trained before its result on the test set is reported, 0 for none.
    `quick` says that `--quick` runs it too.
    """

    name: str
    widths: tuple[int, ...]
    activation: str
    loss: str
    optimizer: str
    learning_rate: float
    batch_size: int
    samples: int
    epochs: int
    shuffle: bool
    make: Callable[["Workload"], Data]
    study: int = 0
    quick: bool = False

    def batches(self, samples: int) -> list[int]:
        """Rows of each batch of an epoch over `samples` rows; the last batch may be short."""
        whole, rest = divmod(samples, self.batch_size)
        return [self.batch_size] * whole + [rest] * bool(rest)

    @property
    def steps(self) -> int:
        """Optimiser steps in one timed call."""
        return self.epochs * len(self.batches(self.samples))

    @property
    def network(self) -> str:
        """The widths, equal neighbours counted: 64x4-1 is 64-64-64-64-1."""
        runs = ((width, len(list(run))) for width, run in groupby(self.widths))
        return "-".join(f"{width}x{count}" if count > 1 else f"{width}" for width, count in runs)


def gaussian(workload: Workload) -> Data:
    """Inputs and targets from a standard normal distribution, always the same ones."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((workload.samples, workload.widths[0]), dtype=np.float32)
    return Data(x, rng.standard_normal((workload.samples, workload.widths[-1]), dtype=np.float32))


def one_hot(workload: Workload) -> Data:
    """The article's data: gaussian inputs, and as target one of the outputs is 1, the others 0, drawn at random."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((workload.samples, workload.widths[0]), dtype=np.float32)
    outputs = workload.widths[-1]
    return Data(x, np.eye(outputs, dtype=np.float32)[rng.integers(0, outputs, workload.samples)])


def digits(_: Workload) -> Data:
    """1797 images of handwritten digits, 8x8 grey values in [0, 1], and the package's fixed split of them."""
    from ..data import load_digits

    return Data(*load_digits())


def friedman(workload: Workload) -> Data:
    """Friedman's first regression problem (Annals of Statistics 19, 1991, p. 1), standardised; as many to test with.

    t = 10 sin(pi x0 x1) + 20 (x2 - 1/2)^2 + 10 x3 + 5 x4 + noise, x uniform in [0, 1]; x5 to x9 mean nothing.
    """
    rng = np.random.default_rng(0)
    x = rng.random((2 * workload.samples, 10))
    t = 10 * np.sin(np.pi * x[:, 0] * x[:, 1]) + 20 * (x[:, 2] - 0.5) ** 2 + 10 * x[:, 3] + 5 * x[:, 4]
    t += rng.standard_normal(len(t))
    inputs = ((x - 0.5) * np.sqrt(12)).astype(np.float32)
    targets = ((t - 14.4) / 5).astype(np.float32)[:, None]
    n = workload.samples
    return Data(inputs[:n], targets[:n], inputs[n:], targets[n:])


def _sweep(width: int, samples: int) -> Workload:
    return Workload(
        f"width-{width}",
        (width,) * 4,
        activation="relu",
        loss="mse",
        optimizer="sgd",
        learning_rate=1e-2,
        batch_size=128,
        samples=samples,
        epochs=1,
        shuffle=True,
        make=gaussian,
        quick=width in (64, 512),
    )


WORKLOADS = (
    Workload(
        "article",
        (10, 5, 2),
        activation="identity",
        loss="mse",
        optimizer="sgd",
        learning_rate=0.1,
        batch_size=100,
        samples=100,
        epochs=1000,
        shuffle=False,
        make=one_hot,
        quick=True,
    ),
    Workload(
        "digits",
        (64, 128, 10),
        activation="relu",
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=1e-3,
        batch_size=128,
        samples=1442,
        epochs=8,
        shuffle=True,
        make=digits,
        study=80,
        quick=True,
    ),
    Workload(
        "regression",
        (10, 64, 64, 1),
        activation="relu",
        loss="mse",
        optimizer="adam",
        learning_rate=1e-3,
        batch_size=128,
        samples=2000,
        epochs=6,
        shuffle=True,
        make=friedman,
        study=60,
        quick=True,
    ),
    Workload(
        "deep",
        (64, 64, 64, 64, 1),
        activation="relu",
        loss="mse",
        optimizer="sgd",
        learning_rate=1e-2,
        batch_size=128,
        samples=12800,
        epochs=1,
        shuffle=True,
        make=gaussian,
        quick=True,
    ),
    Workload(
        "classic",
        (784, 256, 128, 10),
        activation="relu",
        loss="mse",
        optimizer="sgd",
        learning_rate=1e-2,
        batch_size=128,
        samples=2560,
        epochs=1,
        shuffle=True,
        make=gaussian,
        quick=True,
    ),
    _sweep(16, 25600),
    _sweep(32, 25600),
    _sweep(64, 12800),
    _sweep(128, 12800),
    _sweep(256, 5120),
    _sweep(512, 1280),
    _sweep(1024, 512),
)
"""The default run, in the order of the report."""
