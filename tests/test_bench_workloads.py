"""What is timed: data, names, and the rows that the project promises."""

from dataclasses import replace

import numpy as np
import pytest
from benching import ARTICLE, BY_NAME, DEEP, DIGITS, GRADIENT

from fastmlp.bench import run, workloads
from fastmlp.bench.run import SUITES
from fastmlp.bench.workloads import LARGE, PRODUCTS, SIZES, STANDARD, TRAINING, Workload

NETWORKS = [workload for workload in BY_NAME.values() if isinstance(workload, Workload)]


@pytest.mark.parametrize(
    "workload", [workload for workload in NETWORKS if workload.samples <= 25600], ids=lambda workload: workload.name
)
def test_data_fit_their_workload_and_are_no_zeros(workload):
    data = workload.make(workload)
    assert data.x.shape == (workload.samples, workload.widths[0])
    assert data.x.dtype == np.float32
    assert len(data.t) == workload.samples
    assert data.t.ndim == 1 or data.t.shape[1] == workload.widths[-1]
    for array in (data.x, data.t):
        assert np.isfinite(array).all()
        assert np.count_nonzero(array) > array.size / 3
        assert array.std() > 0.1 or array.size == 1
    assert (data.x_test is not None) == bool(workload.study)
    again = workload.make(workload)
    assert all(np.array_equal(a, b) for a, b in zip(data, again, strict=True) if a is not None)


def test_data_in_another_dtype_keep_their_labels():
    data = DIGITS.make(DIGITS).cast("float64")
    assert {array.dtype.name for array in data} == {"float64", "int64"}


def test_the_default_run_holds_what_the_project_promises():
    assert len(BY_NAME) == sum(len(suite.workloads) for suite in SUITES.values())
    assert (ARTICLE.widths, ARTICLE.batch_size, ARTICLE.epochs, ARTICLE.steps) == ((10, 5, 2), 100, 1000, 1000)
    assert (DIGITS.widths, DIGITS.optimizer, DIGITS.loss) == ((64, 128, 10), "adam", "cross_entropy")
    assert (DEEP.widths, DEEP.optimizer, DEEP.batch_size) == ((64, 64, 64, 64, 1), "sgd", 128)
    default = {workload.name for _, workload in run.choose(["train"], (), (workloads.QUICK, STANDARD))}
    assert {f"width-{width}" for width in (16, 32, 64, 128, 256, 512, 1024)} <= default
    assert {"article", "digits", "regression", "deep"} <= {w.name for w in TRAINING if w.tier == workloads.QUICK}
    assert {workload.name for workload in TRAINING if workload.tier == LARGE} == {
        "large-1024",
        "large-4096",
        "large-batch",
    }


def test_the_suites_hold_every_row_of_the_goals():
    networks = {(w.widths, w.batch_size) for w in TRAINING}
    assert networks >= {
        ((4, 32, 16, 4), 10_000),
        ((24, 8, 2), 200),
        ((784, 512, 512, 10), 256),
        ((1024,) * 5, 1024),
        ((4096,) * 3, 512),
    }
    assert (GRADIENT.call, GRADIENT.dtype, GRADIENT.activation) == ("gradients", "float64", "tanh")
    assert {p.n for p in PRODUCTS if p.n == p.k == p.m} == {64, 128, 256, 512, 1024, 2048}
    assert {(w.widths[0], w.batch_size) for w in SIZES} == {
        (width, n) for width in (45, 46, 100, 257, 1000) for n in (1, 7, 33, 1000)
    }
    assert {w.batch_size for w in SUITES["infer"].workloads} == {1, 64, 4096}


def test_the_products_of_a_layer_do_the_same_work():
    forward, dx, dw = (BY_NAME[f"512x4096x4096{form}"] for form in ("", " dx", " dw"))
    assert {p.n * p.k * p.m for p in (forward, dx, dw)} == {512 * 4096 * 4096}
    assert (dw.case, dx.case) == ("a.T @ b, 4096x512x4096", "a @ b.T, 512x4096x4096")
    assert [workloads.rounded_up(size) for size in (1, 16, 45, 1000)] == [16, 16, 48, 1008]


def test_batches_and_names():
    assert DIGITS.batches(300) == [128, 128, 44]
    assert DIGITS.batches(256) == [128, 128]
    assert DEEP.case == "64x4-1 b128"
    assert replace(DEEP, widths=(10, 5, 2)).case == "10-5-2 b128"
