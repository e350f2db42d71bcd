"""The main job: is the backend right, then how fast is it, on each workload, through the same `fit` a user calls."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from ..kernels.contract import step_flops
from ..network import MLP
from .energy import Meter, Reading
from .timing import Spread, Timing, interleave, ratio, seconds
from .workloads import Data, Workload

REFERENCE = "numpy"

AGREEMENT_STEPS = 8
"""Steps over which the backend must stay with float64: enough to use every optimiser slot and two shuffles, few enough
that rounding has not yet grown into two different trajectories."""

ENERGY_WINDOW_S = 0.5
"""Work this long is counted at once: some 500 ticks of the counter."""


def rows(
    workloads: Iterable[Workload],
    backend: str,
    budget_s: float,
    tell: Callable[[str], None] = lambda stage: None,
) -> Iterator[dict[str, Any]]:
    """One row of the report (bench/README.md) for each workload, timed for about `budget_s` seconds each.

    `tell` is called with a few words whenever something new begins.
    """
    meter = Meter()
    for workload in workloads:
        yield _row(workload, backend, budget_s, meter, tell)


def _row(
    workload: Workload, backend: str, budget_s: float, meter: Meter, tell: Callable[[str], None]
) -> dict[str, Any]:
    tell(f"{workload.name}: do the numbers agree?")
    data = workload.make(workload)
    agreement, first_call_s = agree(workload, data, backend)
    row: dict[str, Any] = {
        "workload": workload.name,
        "network": workload.network,
        "widths": list(workload.widths),
        "activation": workload.activation,
        "loss": workload.loss,
        "optimizer": workload.optimizer,
        "dtype": "float32",
        "batch_size": workload.batch_size,
        "steps_per_call": workload.steps,
        "agreement": agreement,
        "result": None,
        "first_call_s": first_call_s,
        "reference": None,
        "backend": None,
        "ratio": None,
    }
    if not agreement["agree"]:
        return row
    if workload.study:
        tell(f"{workload.name}: what is learnt?")
        row["result"] = _study(workload, data, backend)
    tell(f"{workload.name}: timing")
    calls = [_timed_call(workload, data, name) for name in (REFERENCE, backend)]
    timings = interleave(calls, budget_s)
    row["reference"], row["backend"] = (
        _figures(workload, timing, _energy(call, timing, meter)) for call, timing in zip(calls, timings, strict=True)
    )
    row["ratio"] = asdict(ratio(*timings))
    return row


def new_network(workload: Workload, backend: str, dtype: str = "float32") -> MLP:
    """The workload's network, untrained: the same seed and so the same weights on every backend."""
    return MLP(
        workload.widths,
        activation=workload.activation,
        loss=workload.loss,
        optimizer=workload.optimizer,
        learning_rate=workload.learning_rate,
        dtype=dtype,
        backend=backend,
        seed=0,
    )


def agree(workload: Workload, data: Data, backend: str) -> tuple[dict[str, Any], float]:
    """Train a few steps on the reference, the backend and, as arbiter, the reference in float64, from equal weights.

    The backend agrees if, for each weight matrix, all biases and the losses (Euclidean norms), its distance from
    float64 is at most twice the reference's own plus 4 eps of the arbiter's size. The biases are taken together, since
    one alone may happen to be exact in the reference. Epochs end in a short batch where the data allow.
    Returns the verdict and the seconds of the backend's very first call, compilation included.
    """
    samples = min(workload.samples, 3 * workload.batch_size + workload.batch_size // 2)
    batches = len(workload.batches(samples))
    epochs = -(-AGREEMENT_STEPS // batches)
    x, t = data.x[:samples], data.t[:samples]

    def train(net: MLP, x: np.ndarray, t: np.ndarray) -> list[np.ndarray]:
        history = net.fit(x, t, epochs=epochs, batch_size=workload.batch_size, shuffle=workload.shuffle, progress=False)
        return [*net.weights, np.concatenate(net.biases), np.asarray(history.loss)]

    reference, candidate = (new_network(workload, name) for name in (REFERENCE, backend))
    arbiter = new_network(workload, REFERENCE, "float64")
    for exact, rounded in zip(
        [*arbiter.weights, *arbiter.biases], [*reference.weights, *reference.biases], strict=True
    ):
        exact[...] = rounded
    truth = train(arbiter, x.astype(np.float64), t if t.dtype.kind == "i" else t.astype(np.float64))
    expected = train(reference, x, t)
    received: list[np.ndarray] = []
    first_call_s = seconds(lambda: received.extend(train(candidate, x, t)))

    worst = 0.0
    for exact, usual, new in zip(truth, expected, received, strict=True):
        allowed = 2 * np.linalg.norm(usual - exact) + 4 * np.finfo(np.float32).eps * np.linalg.norm(exact)
        error = np.linalg.norm(new - exact)
        worst = max(worst, float(error / allowed) if np.isfinite(error) else np.inf)
    verdict = {
        "agree": worst <= 1,
        "error_over_allowed": worst if np.isfinite(worst) else None,
        "steps": epochs * batches,
    }
    return verdict, first_call_s


def _study(workload: Workload, data: Data, backend: str) -> dict[str, Any]:
    """What a fresh network is worth on the test set after `study` epochs, on the reference and on the backend."""

    def worth(name: str) -> float:
        net = new_network(workload, name)
        net.fit(
            data.x,
            data.t,
            epochs=workload.study,
            batch_size=workload.batch_size,
            shuffle=workload.shuffle,
            progress=False,
        )
        if workload.loss == "cross_entropy":
            return float(np.mean(net.predict(data.x_test).argmax(axis=1) == data.t_test))
        return float(net.loss(data.x_test, data.t_test))

    measure = "test accuracy" if workload.loss == "cross_entropy" else f"test {workload.loss}"
    return {"measure": measure, "epochs": workload.study, "reference": worth(REFERENCE), "backend": worth(backend)}


def _timed_call(workload: Workload, data: Data, backend: str) -> Callable[[], object]:
    net = new_network(workload, backend)
    return lambda: net.fit(
        data.x,
        data.t,
        epochs=workload.epochs,
        batch_size=workload.batch_size,
        shuffle=workload.shuffle,
        progress=False,
    )


def _energy(call: Callable[[], object], timing: Timing, meter: Meter) -> tuple[Reading, int]:
    """A reading over enough calls in a row to fill the window, and how many calls that was."""
    if meter.reason is not None:
        return Reading(detail=meter.reason), 0
    count = max(1, round(ENERGY_WINDOW_S / median(timing.wall)))
    with meter.measure() as reading:
        for _ in range(count):
            call()
    return reading, count


def _figures(workload: Workload, timing: Timing, energy: tuple[Reading, int]) -> dict[str, Any]:
    """One side of a row, in the units of the report."""
    reading, count = energy
    trained = workload.epochs * workload.samples
    flops = workload.epochs * sum(step_flops(workload.widths, n) for n in workload.batches(workload.samples))
    wall = Spread.of(timing.wall)
    return {
        "us_per_step": asdict(wall.scaled(1e6 / workload.steps)),
        "samples_per_s": trained / wall.median,
        "gflops": flops / wall.median * 1e-9,
        "core_us_per_sample": asdict(Spread.of(timing.cores).scaled(1e6 / trained)),
        "energy": {
            "source": reading.source,
            "uj_per_sample": None if reading.joules is None else 1e6 * reading.joules / (count * trained),
            "window_s": reading.window_s,
            "detail": reading.detail,
        },
    }
