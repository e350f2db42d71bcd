"""The benchmark of fastmlp.sklearn: two sides that agree, timed in turn."""

import numpy as np
import pytest

pytest.importorskip("sklearn")

from fastmlp.bench import drop_in

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X = np.random.default_rng(0).normal(size=(60, 3))


def test_a_row_times_both_sides_of_a_fit():
    row = drop_in.measure("fit", lambda: drop_in._fits("MLPRegressor", X, X[:, 0], max_iter=3, random_state=0), 0)
    assert row.scikit_learn_s.n == row.fastmlp_s.n == row.times_faster.n == 5
    assert min(row.scikit_learn_s.median, row.fastmlp_s.median, row.times_faster.median) > 0


def test_sides_that_do_not_agree_are_not_timed(monkeypatch):
    monkeypatch.setattr(drop_in, "AGREEMENT", {"float64": -1.0})
    with pytest.raises(ArithmeticError, match="the losses are"):
        drop_in._fits("MLPRegressor", X, X[:, 0], max_iter=3, random_state=0)


def test_every_row_of_the_table_can_be_named():
    names = list(drop_in.sides())
    assert len(names) == len(set(names)) == 7
