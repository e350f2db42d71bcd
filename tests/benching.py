"""What the tests of the benchmark share: small settings, a peer, known times, a row and a document."""

import functools
from copy import deepcopy
from dataclasses import replace
from io import StringIO

import pytest
from rich.console import Console

from fastmlp.bench import contest, report, run, training
from fastmlp.bench.contest import Setting
from fastmlp.bench.document import finish, new_document
from fastmlp.bench.noise import Noise
from fastmlp.bench.peers import Peer
from fastmlp.bench.run import SUITES
from fastmlp.bench.timing import Timing

BY_NAME = {workload.name: workload for suite in SUITES.values() for workload in suite.workloads}
ARTICLE, DIGITS, DEEP, GRADIENT = (BY_NAME[name] for name in ("article", "digits", "deep", "gradient"))


def quickly(backend="numpy", threads=1, **settings):
    return Setting(backend, threads, budget_s=0, **settings)


def rows(*names, **settings):
    chosen = run.choose(list(SUITES), names, ())
    return list(run.rows(chosen, quickly(**settings)))


def finished(setting, suite, *rows):
    made = new_document(setting, [suite])
    made["rows"] += rows
    finish(made, setting, Noise())
    return made


def side_of(row, role):
    (found,) = (side for side in row["sides"] if side["role"] == role)
    return found


def known_timings(calls, budget_s):
    """Every side takes about one second a call and two cores, but the last half a second and one core."""
    slow = Timing([1.0, 0.7, 1.3], [2.0, 2.0, 2.0])
    return [*[slow] * (len(calls) - 1), Timing([0.5, 0.5, 0.5], [0.5, 0.5, 0.5])]


class Plain(Peer):
    """A peer that is this package's reference, or is off by a factor."""

    name, package, cure = "plain", "numpy", "plain"

    def __init__(self, threads=1, factor=1.0):
        super().__init__(threads)
        self.factor = factor

    def trainers(self, workload, weights, biases, data):
        return {"right": lambda: PlainTrainer(workload, weights, biases, data, self.factor)}

    def gradients(self, workload, weights, biases, data):
        net = filled(workload, weights, biases)

        def gradients():
            _, dw, db = net.gradients(data.x, data.t)
            return [self.factor * g for g in (*dw, *db)]

        return {"right": gradients}

    def predictions(self, workload, weights, biases, x):
        net = filled(workload, weights, biases)
        return {"right": lambda: net.predict(x), "off": lambda: self.factor * net.predict(x)}

    def products(self, a, b, transpose_a, transpose_b):
        return {"right": lambda: self.factor * (a.T if transpose_a else a) @ (b.T if transpose_b else b)}


def filled(workload, weights, biases, factor=1.0):
    net = replace(workload, learning_rate=factor * workload.learning_rate)
    net = training.new_network(net, "numpy", weights[0].dtype.name)
    for mine, given in zip([*net.weights, *net.biases], [*weights, *biases], strict=True):
        mine[...] = given
    return net


class PlainTrainer:
    def __init__(self, workload, weights, biases, data, factor):
        self.workload, self.data, self.net = workload, data, filled(workload, weights, biases, factor)

    def fit(self, epochs):
        n = self.workload.batch_size
        self.net.fit(self.data.x, self.data.t, epochs=epochs, batch_size=n, shuffle=False, progress=False)

    def parameters(self):
        return [*self.net.weights, *self.net.biases]


@functools.cache
def _digits_row():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contest, "interleave", known_timings)
        (made,) = rows("digits", peers=(Plain(),))
    return made


def digits_row():
    """A row of the suite train with a peer; known times."""
    return deepcopy(_digits_row())


def documented():
    """A document of three rows, held against no peak."""
    setting = quickly("cpu", threads=2, peers=(Plain(),))
    made = new_document(setting, ["train"])
    wide = digits_row() | {"workload": "width-1024", "case": "784-256-128-10 b128"}
    side_of(wide, "backend")["first_call_s"] = 12.34
    made["rows"] += [digits_row(), wide, digits_row() | {"result": None}]
    made["complete"] = True
    made["ceilings"]["rates"] = [
        {"kind": "peak", "of": "float32", "by": "registers", "threads": 2, "rate": 500e9},
        {"kind": "peak", "of": "float32", "by": "narrow registers", "threads": 2, "rate": 250e9},
        {"kind": "bandwidth", "of": "L1", "by": "triad", "threads": 2, "rate": 900e9},
    ]
    return made


def show(document, width):
    console = Console(file=StringIO(), width=width)
    console.print(report.table(document, width))
    return console.file.getvalue()
