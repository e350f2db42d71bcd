"""The suites `train` and `sizes`: whole training steps, through the same `fit` and `gradients` a user calls."""

import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from statistics import median
from typing import Any

import numpy as np

from ..kernels.contract import array_dtype, step_flops
from ..network import MLP
from .contest import REFERENCE, ROUNDING, Setting, Side, contest, enter_ways, judge, judge_peer, usual
from .timing import Spread, Timing, repeated, seconds
from .workloads import Data, Workload, rounded_up, sized

AGREEMENT_STEPS = 8
"""Steps over which the backend must stay with float64: enough to use every optimiser slot and two shuffles, few enough
that rounding has not yet grown into two different trajectories."""


def new_network(workload: Workload, backend: str, dtype: str = "float32") -> MLP:
    """The workload's network, untrained: the same float32 weights on every backend and in every dtype.

    Here and in all of bench a dtype may also be "high": float32 of that precision.
    """
    settings = {
        "activation": workload.activation,
        "loss": workload.loss,
        "optimizer": workload.optimizer,
        "learning_rate": workload.learning_rate,
        "seed": 0,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "dtype 'b?float16' is emulated", RuntimeWarning)
        arithmetic = {"dtype": array_dtype(dtype), "precision": "high"} if dtype == "high" else {"dtype": dtype}
        net = MLP(workload.widths, backend=backend, **settings, **arithmetic)  # type: ignore[arg-type]
    for w in net.weights:
        w[...] = w.astype(np.float32)
    return net


@dataclass(frozen=True)
class Trial:
    """A few steps from equal weights, by which a side shows that it trains as the reference does.

    Epochs end in a short batch where the data allow.
    """

    workload: Workload
    data: Data
    dtype: str = "float32"

    @property
    def samples(self) -> int:
        """Rows of the trial's epochs."""
        return min(self.workload.samples, 3 * self.workload.batch_size + self.workload.batch_size // 2)

    @property
    def epochs(self) -> int:
        """Epochs of the trial."""
        return -(-AGREEMENT_STEPS // len(self.workload.batches(self.samples)))

    @property
    def steps(self) -> int:
        """Optimiser steps of the trial."""
        return self.epochs * len(self.workload.batches(self.samples))

    def cut(self, dtype: str) -> Data:
        """The trial's data."""
        return Data(self.data.x[: self.samples], self.data.t[: self.samples]).cast(dtype)

    def train(self, net: MLP) -> list[np.ndarray]:
        """What it leaves: each weight matrix, all biases as one (one alone may happen to be exact), the losses."""
        data = self.cut(net.dtype.name)
        history = net.fit(
            data.x,
            data.t,
            epochs=self.epochs,
            batch_size=self.workload.batch_size,
            shuffle=self.workload.shuffle,
            progress=False,
        )
        return [*net.weights, np.concatenate(net.biases), np.asarray(history.loss)]

    @cached_property
    def single(self) -> list[np.ndarray]:
        """The reference's outcome in float32, or in the trial's dtype where that is less."""
        return self.train(new_network(self.workload, REFERENCE, "float32" if self.dtype == "float64" else self.dtype))

    @cached_property
    def double(self) -> list[np.ndarray]:
        """The reference's outcome in float64."""
        return self.train(new_network(self.workload, REFERENCE, "float64"))


def agree(trial: Trial, backend: str) -> tuple[dict[str, Any], float]:
    """The verdict on the backend, and the seconds of its very first call, compilation included."""
    candidate, received = new_network(trial.workload, backend, trial.dtype), list[np.ndarray]()
    first_call_s = seconds(lambda: received.extend(trial.train(candidate)))
    return judge(trial.dtype, trial.single, trial.double, received) | {"steps": trial.steps}, first_call_s


def train_row(workload: Workload, setting: Setting) -> dict[str, Any]:
    """One row of the suite `train`."""
    return (_gradient_row if workload.call == "gradients" else _fit_row)(workload, setting)


def new_row(workload: Workload, setting: Setting, suite: str) -> dict[str, Any]:
    """What a row of whole steps says of its workload."""
    setting.tell(f"{workload.name}: do the numbers agree?")
    return {
        "suite": suite,
        "workload": workload.name,
        "case": workload.case,
        "unit": "µs/step",
        "dtype": workload.dtype or setting.dtype,
        "widths": list(workload.widths),
        "activation": workload.activation,
        "loss": workload.loss,
        "optimizer": None if workload.call == "gradients" else workload.optimizer,
        "batch_size": workload.batch_size,
        "result": None,
    }


def fit_sides(workload: Workload, setting: Setting, dtype: str) -> list[Side]:
    """Everyone who trains the workload, judged: the reference, peers, the backend, and it on one thread."""
    data = workload.make(workload).cast(dtype)
    trial = Trial(workload, data, dtype)
    agreement, first_call_s = agree(trial, setting.backend)
    sides = [
        Side(REFERENCE, "reference", _fit_call(workload, data, REFERENCE, usual(dtype)), setting.threads),
        *peer_sides(trial, setting),
        Side(
            setting.backend,
            "backend",
            _fit_call(workload, data, setting.backend, dtype),
            setting.threads,
            agreement=agreement,
            first_call_s=first_call_s,
        ),
    ]
    if dtype in ROUNDING:
        single = _fit_call(workload, data, setting.backend, "float32")
        sides.append(Side(f"{setting.backend}, float32", "variant", single, setting.threads, arithmetic="float32"))
    if setting.alone:
        alone = setting.on_one_thread(_fit_call(workload, data, setting.backend, dtype))
        sides.append(Side(f"{setting.backend}, 1 thread", "variant", alone, 1))
    for side in sides:
        side.count = workload.steps
    return sides


def _fit_row(workload: Workload, setting: Setting) -> dict[str, Any]:
    row = new_row(workload, setting, "train")
    sides = fit_sides(workload, setting, row["dtype"])
    (backend,) = (side for side in sides if side.role == "backend")
    if workload.study and backend.agreement is not None and backend.agreement["agree"]:
        setting.tell(f"{workload.name}: what is it worth on test data?")
        row["result"] = _study(workload, setting.backend, row["dtype"])
    setting.tell(f"{workload.name}: how fast is it?")

    def finish(side: Side, timing: Timing) -> dict[str, Any]:
        return {
            "samples_per_s": workload.trained / median(timing.wall),
            "core_us_per_sample": asdict(Spread.of(timing.cores).scaled(1e6 / workload.trained)),
        }

    return contest(row, sides, setting, workload.flops / workload.steps, finish)


def peer_sides(trial: Trial, setting: Setting) -> list[Side]:
    """Every peer that can train, its ways tried on the trial first; peers train without shuffling."""
    if not setting.peers:
        return []
    workload = replace(trial.workload, shuffle=False)
    unshuffled = trial if workload == trial.workload else replace(trial, workload=workload)
    layers = len(workload.widths) - 1
    net = new_network(workload, REFERENCE, trial.dtype)
    start = [*net.weights, np.concatenate(net.biases)]
    found = []
    for peer in setting.peers:
        setting.tell(f"{workload.name}: does {peer.name} do the same?")
        rounded = replace(unshuffled, dtype="bfloat16").single[:-1] if peer.bfloat16 else None
        agreements = {}
        for way, build in peer.trainers(workload, net.weights, net.biases, unshuffled.cut(trial.dtype)).items():
            trainer = build()
            trainer.fit(trial.epochs)
            parameters = trainer.parameters()
            outcome = [*parameters[:layers], np.concatenate(parameters[layers:])]
            agreements[way] = judge_peer(start, unshuffled.double[:-1], outcome, rounded) | {"steps": trial.steps}
        ways = {
            way: partial(build().fit, workload.epochs)
            for way, build in peer.trainers(workload, net.weights, net.biases, trial.data).items()
        }
        side = enter_ways(peer, setting.threads, ways, agreements)
        if side is not None:
            found.append(side)
    return found


def _fit_call(workload: Workload, data: Data, backend: str, dtype: str) -> Callable[[], object]:
    net = new_network(workload, backend, dtype)
    return lambda: _fit(net, workload, data, workload.epochs)


def _fit(net: MLP, workload: Workload, data: Data, epochs: int) -> None:
    net.fit(
        data.x,
        data.t,
        epochs=epochs,
        batch_size=workload.batch_size,
        shuffle=workload.shuffle,
        progress=False,
    )


def _study(workload: Workload, backend: str, dtype: str) -> dict[str, Any]:
    """What a fresh network is worth on the test set after `study` epochs, on the reference and on the backend."""
    data = workload.make(workload).cast(dtype)

    def worth(name: str) -> float:
        net = new_network(workload, name, dtype)
        _fit(net, workload, data, workload.study)
        if workload.loss == "cross_entropy":
            return float(np.mean(net.predict(data.x_test).argmax(axis=1) == data.t_test))
        return float(net.loss(data.x_test, data.t_test))

    measure = "test accuracy" if workload.loss == "cross_entropy" else f"test {workload.loss}"
    return {"measure": measure, "epochs": workload.study, "reference": worth(REFERENCE), "backend": worth(backend)}


def _gradient_row(workload: Workload, setting: Setting) -> dict[str, Any]:
    """The gradient alone, one batch a call: `net.gradients`, checks and fresh arrays included; and without them."""
    row = new_row(workload, setting, "train")
    dtype = row["dtype"]
    data = workload.make(workload)

    def call(backend: str, dtype: str) -> Callable[[], list[np.ndarray]]:
        net, cast = new_network(workload, backend, dtype), data.cast(dtype)

        def gradients() -> list[np.ndarray]:
            _, dw, db = net.gradients(cast.x, cast.t)
            return [*dw, *db]

        return gradients

    single, double = call(REFERENCE, "float32")(), call(REFERENCE, "float64")()
    ours, received = call(setting.backend, dtype), list[np.ndarray]()
    first_call_s = seconds(lambda: received.extend(ours()))
    agreement = judge(dtype, single, double, received)
    net = new_network(workload, REFERENCE, dtype)
    sides = [Side(REFERENCE, "reference", call(REFERENCE, dtype), setting.threads)]
    for peer in setting.peers:
        ways = peer.gradients(workload, net.weights, net.biases, data.cast(dtype))
        agreements = {
            way: judge_peer(None, double, [peer.as_numpy(g) for g in gradients()]) for way, gradients in ways.items()
        }
        side = enter_ways(peer, setting.threads, ways, agreements)
        if side is not None:
            sides.append(side)
    sides.append(
        Side(setting.backend, "backend", ours, setting.threads, agreement=agreement, first_call_s=first_call_s)
    )
    sides.append(
        Side(f"{setting.backend}, bare call", "variant", _bare_gradients(workload, data, setting), setting.threads)
    )
    setting.tell(f"{workload.name}: how fast is it?")
    for side in sides:
        side.call, side.count = repeated(side.call)
    return contest(row, sides, setting, step_flops(workload.widths, workload.batch_size))


def _bare_gradients(workload: Workload, data: Data, setting: Setting) -> Callable[[], object]:
    """The backend's own call, without checks and into one buffer, as libraries that compile a user's program do it."""
    dtype = workload.dtype or setting.dtype
    net, cast, module = new_network(workload, setting.backend, dtype), data.cast(dtype), setting.module
    gradient, workspace = np.zeros_like(net.parameters), module.Workspace(net.structure, workload.batch_size, True)
    return lambda: module.gradients(net.structure, net.parameters, cast.x, cast.t, gradient, workspace)


def size_row(workload: Workload, setting: Setting) -> dict[str, Any]:
    """One row of the suite `sizes`: a step of an odd width and batch, against the next rounder of each."""
    row = new_row(workload, setting, "sizes")
    dtype, width, batch_size = row["dtype"], workload.widths[0], workload.batch_size
    agreement, first_call_s = agree(Trial(workload, workload.make(workload).cast(dtype), dtype), setting.backend)

    def side(name: str, role: str, workload: Workload) -> Side:
        data = workload.make(workload).cast(dtype)
        return Side(
            name, role, _fit_call(workload, data, setting.backend, dtype), setting.threads, count=workload.steps
        )

    sides = [
        side(setting.backend, "backend", workload),
        side("width rounded up", "variant", sized(rounded_up(width), batch_size)),
        side("batch rounded up", "variant", sized(width, rounded_up(batch_size))),
    ]
    sides[0].agreement, sides[0].first_call_s = agreement, first_call_s
    setting.tell(f"{workload.name}: how fast is it?")
    return contest(row, sides, setting)
