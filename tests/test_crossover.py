"""What was measured by width and batch: kept safely, found by the nearest cell, and asked by "auto" and the plan."""

import json

import numpy as np
import pytest

from fastmlp import MLP
from fastmlp.errors import BackendUnavailable
from fastmlp.kernels import backend, cores
from fastmlp.kernels.crossover import Cell, Contender, Crossover, width_of

CPU = Contender("cpu", "row-major", 2, True, 10.0, 0.5)
NUMPY = Contender("numpy", None, 2, True, 30.0, 0.5)
NARROW = Contender("cpu", "across the batch", 1, False, 8.0, 0.5)


def cell(width=64, batch_size=128, *contenders):
    return Cell(width, batch_size, contenders or (NARROW, CPU, NUMPY))


@pytest.fixture
def two_threads():
    with cores.num_threads(2):
        yield


@pytest.fixture
def known(monkeypatch, two_threads):
    """A machine of which nothing is known yet."""
    crossover = Crossover()
    monkeypatch.setattr(backend, "crossover", lambda: crossover)
    return crossover


def structure(*widths, dtype="float32"):
    return MLP(widths, dtype=dtype, backend="numpy").structure


def test_the_width_of_a_network_is_that_of_equal_layers_with_its_weights():
    assert width_of(structure(64, 64, 64)) == 64
    assert width_of(structure(10, 1000)) == pytest.approx(100)
    assert width_of(structure(784, 256, 128, 10)) == pytest.approx(np.sqrt((784 * 256 + 256 * 128 + 1280) / 3))


def test_cells_are_kept_from_process_to_process_and_replaced(tmp_path, two_threads):
    file = tmp_path / "crossover.json"
    first, second = Crossover(file), Crossover(file)
    first.record("float32", 2, cell())
    second.record("float32", 2, cell(256, 128, NUMPY))
    renewed = cell(64, 128, CPU)
    first.record("float32", 2, renewed)
    again = Crossover(file)
    assert again.nearest(structure(64, 64), 128) == renewed
    assert again.nearest(structure(256, 256), 128) == cell(256, 128, NUMPY)


def test_the_nearest_cell_speaks_and_none_that_is_far(known):
    for width, n in ((16, 32), (64, 32), (16, 128), (64, 128)):
        known.record("float32", 2, cell(width, n))

    def found(width, n, **settings):
        nearest = known.nearest(structure(width, width, **settings), n)
        return None if nearest is None else (nearest.width, nearest.batch_size)

    assert found(64, 128) == (64, 128)
    assert found(50, 80) == (64, 128)
    assert found(20, 60) == (16, 32)
    assert (found(6, 12), found(5, 12), found(6, 11)) == ((16, 32), None, None)
    assert (found(180, 360), found(182, 360), found(180, 363)) == ((64, 128), None, None)
    assert found(64, 128, dtype="float64") is None
    with cores.num_threads(1):
        assert found(64, 128) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff{",
        b"[]",
        b'{"schema": 0, "cells": {}}',
        b'{"schema": 1}',
        b'{"schema": 1, "cells": [1]}',
    ],
)
def test_a_damaged_file_counts_as_nothing_measured(tmp_path, content, two_threads):
    file = tmp_path / "crossover.json"
    file.write_bytes(content)
    crossover = Crossover(file)
    assert crossover.nearest(structure(64, 64), 128) is None
    crossover.record("float32", 2, cell())
    assert Crossover(file).nearest(structure(64, 64), 128) == cell()


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("float32/2/64", {}),
        ("float32/2/0/128", {}),
        ("float32/2/64/many", {}),
        ("float32/2/64/128", {"us": 0.0}),
        ("float32/2/64/128", {"us": float("nan")}),
        ("float32/2/64/128", {"us": "soon"}),
        ("float32/2/64/128", {"iqr": -1.0}),
        ("float32/2/64/128", {"threads": 0}),
        ("float32/2/64/128", {"backend": 5}),
        ("float32/2/64/128", {"kernel": 5}),
        ("float32/2/64/128", {"usual": 1}),
        ("float32/2/64/128", {"colour": "red"}),
        ("float32/2/64/128", None),
    ],
)
def test_a_damaged_cell_counts_as_not_measured(tmp_path, name, change, two_threads):
    file = tmp_path / "crossover.json"
    sound = {"backend": "cpu", "kernel": None, "threads": 2, "usual": True, "us": 1.0, "iqr": 0.0}
    entries = [] if change is None else [sound, sound | change]
    file.write_text(json.dumps({"schema": 1, "cells": {name: entries, "float32/2/256/128": [sound]}}))
    crossover = Crossover(file)
    assert crossover.nearest(structure(64, 64), 128) is None
    assert crossover.nearest(structure(256, 256), 128) is not None


def test_a_folder_that_vanished_hurts_nobody(tmp_path, two_threads):
    crossover = Crossover(tmp_path / "absent" / "crossover.json")
    crossover.record("float32", 2, cell())
    assert crossover.nearest(structure(64, 64), 128) == cell()


def test_auto_keeps_to_its_rule_where_nothing_is_known(known):
    assert backend.automatic()[0] == "cpu"
    name, reason = backend.automatic(structure(64, 64))
    assert name == "cpu"
    assert "by rule" in reason
    assert "fastmlp bench --suite crossover" in reason
    assert MLP((64, 64)).backend == "cpu"


@pytest.mark.parametrize(
    ("numpy_us", "iqr", "chosen", "words"),
    [
        (30.0, 0.5, "cpu", "measured here at width 64, batch 128: 3 times as fast as numpy"),
        (9.5, 0.0, "cpu", "0.95 times as fast as numpy"),
        (5.0, 0.5, "numpy", "measured here at width 64, batch 128: 2 times as fast as cpu"),
        (5.0, 4.0, "cpu", "0.5 times as fast as numpy"),
    ],
    ids=["slower", "hardly faster", "faster", "within the noise"],
)
def test_auto_leaves_its_rule_for_what_is_clearly_faster(known, numpy_us, iqr, chosen, words):
    numpy = Contender("numpy", None, 2, True, numpy_us, iqr)
    contenders = sorted([Contender("cpu", "row-major", 2, True, 10.0, iqr), numpy], key=lambda each: each.us)
    known.record("float32", 2, cell(64, 128, *contenders))
    net = MLP((64, 64))
    assert net.backend == chosen
    assert words in str(net.plan())
    assert MLP((1024, 1024)).backend == "cpu", "of which nothing is known"
    assert backend.resolve("auto")[0] == "cpu", "a single operation has no width"


def test_auto_compares_what_each_backend_does_by_itself(known):
    """On one thread NumPy is sooner than the CPU's usual way; a kernel that nobody takes is no reason to stay."""
    numpy = Contender("numpy", None, 2, True, 5.0, 0.0)
    known.record("float32", 2, cell(64, 128, Contender("cpu", "other", 2, False, 1.0, 0.0), numpy, CPU))
    assert MLP((64, 64)).backend == "numpy"


def test_auto_takes_no_backend_that_cannot_run_now(known, monkeypatch):
    known.record("float32", 2, cell(64, 128, Contender("cuda", None, 2, True, 1.0, 0.0), CPU, NUMPY))

    def load(name, load=backend.load):
        if name == "cuda":
            raise BackendUnavailable("forked")
        return load(name)

    monkeypatch.setattr(backend, "load", load)
    assert MLP((64, 64)).backend == "cpu"


def test_a_backend_asked_for_by_name_is_taken_whatever_was_measured(known):
    known.record("float32", 2, cell(64, 128, NUMPY, CPU))
    assert MLP((64, 64), backend="cpu").backend == "cpu"


def test_the_plan_tells_everyones_time_and_the_kernel(known):
    net = MLP((64, 64, 64), backend="cpu")
    assert net.plan().measured is None
    assert "measured here" not in str(net.plan())
    known.record("float32", 2, cell())
    text = str(net.plan())
    assert "measured here, four layers 64 wide, batch 128, us a step" in text
    assert "cpu across the batch on 1 thread 8; cpu row-major on 2 threads 10; numpy on 2 threads 30" in text
    assert "kernel across the batch, threads: " in text
    assert "kernel row-major, threads: " in str(MLP((500, 500), backend="cpu").plan())
    assert MLP((64, 64), backend="numpy").plan().kernel is None


@pytest.mark.parametrize("widths", [(8, 16, 4), (128, 128, 128)])
def test_every_kernel_of_the_cpu_trains_the_same_network(widths, dtype, rng):
    """Their rounding differs, no more; the first is the one that a workspace takes by itself."""
    module = backend.load("cpu")
    x, t = rng.standard_normal((40, widths[0])).astype(dtype), rng.standard_normal((40, widths[-1])).astype(dtype)
    left = []
    for workspace in [module.Workspace, *module.training_kernels(structure(*widths, dtype=dtype.name)).values()]:
        net, losses = MLP(widths, dtype=dtype.name, backend="cpu"), np.zeros(3)
        made = workspace(net.structure, 16, True)
        module.train(
            net.structure, net._optimizer, net.parameters, net.optimizer_state, 0, x, t, None, 0, 16, losses, made
        )
        left.append((net.parameters.copy(), made.across is None))
    usual, first, other = left
    assert np.array_equal(usual[0], first[0])
    assert (usual[1], first[1], other[1]) == (False, False, True)
    assert not np.array_equal(first[0], other[0])
    np.testing.assert_allclose(first[0], other[0], rtol=0, atol=100 * np.finfo(dtype).eps)
