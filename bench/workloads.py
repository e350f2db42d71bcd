"""What is timed, suite by suite: networks and products, and how their data are made. Nothing is run here."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import NamedTuple

import numpy as np

from ..kernels.contract import array_dtype, step_flops

QUICK, STANDARD, LARGE = "quick", "standard", "large"
"""Tiers of a workload: run even with --quick; run unless --quick is given; run only with --all or by name."""


class Data(NamedTuple):
    """x[n, inputs] float32; t[n, outputs] float32 or int64 labels [n]; the same for a test set, where there is one."""

    x: np.ndarray
    t: np.ndarray
    x_test: np.ndarray | None = None
    t_test: np.ndarray | None = None

    def cast(self, dtype: str) -> "Data":
        """The same as a network of another dtype takes it; labels stay integers."""
        return Data(*map(partial(_cast, dtype), self))  # type: ignore[arg-type]


def _cast(dtype: str, array: np.ndarray | None) -> np.ndarray | None:
    return array if array is None or array.dtype.kind == "i" else array.astype(array_dtype(dtype), copy=False)


def gaussian(workload: "Workload") -> Data:
    """Inputs and targets from a standard normal distribution, always the same ones."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((workload.samples, workload.widths[0]), dtype=np.float32)
    return Data(x, rng.standard_normal((workload.samples, workload.widths[-1]), dtype=np.float32))


@dataclass(frozen=True)
class Workload:
    """A network and how it is used: trained by `fit` over `epochs` whole epochs of all `samples` in one timed call.

    `call` is "fit"; or "gradients" or "predict", which are called with one batch of `batch_size` rows.
    `dtype` is the one it always runs in, None for the run's. `study` is how many epochs a fresh network is trained
    before its result on the test set is reported, 0 for none.
    """

    name: str
    widths: tuple[int, ...]
    activation: str = "relu"
    loss: str = "mse"
    optimizer: str = "sgd"
    learning_rate: float = 1e-2
    batch_size: int = 128
    samples: int = 128
    epochs: int = 1
    shuffle: bool = False
    make: Callable[["Workload"], Data] = gaussian
    study: int = 0
    tier: str = STANDARD
    call: str = "fit"
    dtype: str | None = None

    def batches(self, samples: int) -> list[int]:
        """Rows of each batch of an epoch over `samples` rows; the last batch may be short."""
        whole, rest = divmod(samples, self.batch_size)
        return [self.batch_size] * whole + [rest] * bool(rest)

    @property
    def steps(self) -> int:
        """Optimiser steps in one timed call."""
        return self.epochs * len(self.batches(self.samples))

    @property
    def trained(self) -> int:
        """Samples that go through the network in one timed call."""
        return self.epochs * self.samples

    @property
    def flops(self) -> int:
        """FLOPs of one timed call of `fit`, as the contract counts them."""
        return self.epochs * sum(step_flops(self.widths, n) for n in self.batches(self.samples))

    @property
    def case(self) -> str:
        """The widths, equal neighbours counted, and the batch: 64x4-1 b128 is 64-64-64-64-1 on 128 rows."""
        runs = ((width, len(list(run))) for width, run in groupby(self.widths))
        return (
            "-".join(f"{width}x{count}" if count > 1 else f"{width}" for width, count in runs) + f" b{self.batch_size}"
        )


@dataclass(frozen=True)
class Product:
    """A matrix product out[n, m] of two operands, `a` stored (k, n) and `b` stored (m, k) where they are transposed."""

    name: str
    n: int
    k: int
    m: int
    transpose_a: bool = False
    transpose_b: bool = False
    tier: str = STANDARD

    @property
    def case(self) -> str:
        """The formula."""
        return f"a{'.T' if self.transpose_a else ''} @ b{'.T' if self.transpose_b else ''}, {self.n}x{self.k}x{self.m}"


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
        tier=QUICK if width in (64, 512) else STANDARD,
    )


TRAINING = (
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
        tier=QUICK,
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
        tier=QUICK,
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
        tier=QUICK,
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
        tier=QUICK,
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
        tier=QUICK,
    ),
    Workload(
        "full-batch",
        (4, 32, 16, 4),
        activation="tanh",
        optimizer="adam",
        learning_rate=1e-3,
        batch_size=10_000,
        samples=10_000,
        epochs=20,
    ),
    Workload("gradient", (24, 8, 2), activation="tanh", batch_size=200, samples=200, call="gradients", dtype="float64"),
    Workload("classic-512", (784, 512, 512, 10), batch_size=256, samples=2560, shuffle=True),
    _sweep(16, 25600),
    _sweep(32, 25600),
    _sweep(64, 12800),
    _sweep(128, 12800),
    _sweep(256, 5120),
    _sweep(512, 1280),
    _sweep(1024, 512),
    Workload("large-1024", (1024,) * 5, batch_size=1024, samples=1024, tier=LARGE),
    Workload("large-4096", (4096,) * 3, batch_size=512, samples=512, tier=LARGE),
    # tanh: of so many samples a few have a unit at zero within rounding, which relu would turn on one side alone.
    Workload("large-batch", (784, 256, 128, 10), activation="tanh", batch_size=20_000, samples=20_000, tier=LARGE),
)
"""In the order of the report; without the large ones, the default run."""


def _inference(name: str, widths: tuple[int, ...], *batches: int) -> list[Workload]:
    return [
        Workload(f"{name}-b{n}", widths, batch_size=n, samples=n, call="predict", tier=QUICK if n == 1 else STANDARD)
        for n in batches
    ]


INFERENCE = (
    *_inference("article", (10, 5, 2), 1),
    *_inference("deep", (64, 64, 64, 64, 1), 1),
    *_inference("classic", (784, 256, 128, 10), 1, 64, 4096),
    *_inference("wide", (1024,) * 4, 64, 4096),
)


def _layer(n: int, k: int, m: int) -> list[Product]:
    """The three products of a layer x[n, k] @ w[k, m]: forward, and the gradients of its input and of its weights."""
    name = f"{n}x{k}x{m}"
    return [
        Product(name, n, k, m),
        Product(f"{name} dx", n, m, k, transpose_b=True),
        Product(f"{name} dw", k, n, m, transpose_a=True),
    ]


PRODUCTS = (
    *(Product(f"square-{n}", n, n, n, tier=QUICK if n in (64, 512) else STANDARD) for n in (64, 128, 256, 512)),
    *(Product(f"square-{n}", n, n, n) for n in (1024, 2048)),
    *_layer(128, 784, 256),
    *_layer(256, 512, 512),
    *_layer(1024, 1024, 1024),
    *_layer(512, 4096, 4096),
)

SIZE_STEP = 16
"""Odd sizes are held against the next multiple of this, the widest register in float32."""

SIZE_FLOPS = 2e8
"""Of one timed call of a size: some milliseconds, so that waking the threads is no part of the figure."""


def sized(width: int, batch_size: int) -> Workload:
    """Three equal layers of `width`, trained on so many batches that a call does SIZE_FLOPS or a little more."""
    widths = (width,) * 4
    steps = -(-int(SIZE_FLOPS) // step_flops(widths, batch_size))
    samples = min(steps, 4) * batch_size
    return Workload(
        f"w{width}-b{batch_size}",
        widths,
        batch_size=batch_size,
        samples=samples,
        epochs=-(-steps // 4),
        tier=QUICK if (width, batch_size) == (45, 33) else STANDARD,
    )


def rounded_up(size: int) -> int:
    """The next multiple of SIZE_STEP."""
    return -(-size // SIZE_STEP) * SIZE_STEP


SIZES = tuple(sized(width, n) for width in (45, 46, 100, 257, 1000) for n in (1, 7, 33, 1000))

WIDTHS, BATCHES = (8, 16, 32, 64, 128, 256, 512, 1024), (1, 8, 32, 128, 512, 2048)
"""The grid of the crossover map, in steps of eight at most, for a cell speaks as far as kernels.crossover.FARTHEST."""

CROSSOVER = tuple(
    Workload(
        f"w{width}-b{n}",
        (width,) * 4,
        batch_size=n,
        samples=4 * n,
        shuffle=True,
        tier=QUICK if width in (16, 64, 256) and n in (1, 32, 512) else STANDARD,
    )
    for width in WIDTHS
    for n in BATCHES
)

_BY_NAME = {workload.name: workload for workload in TRAINING}

COLD_START = (replace(_BY_NAME["classic"], name="first-step", tier=STANDARD),)
ENERGY = tuple(
    replace(_BY_NAME[name], name=f"{name}-joules") for name in ("digits", "classic", "width-512", "large-1024")
)
MEMORY = (replace(_BY_NAME["large-4096"], name="peak", tier=STANDARD),)
