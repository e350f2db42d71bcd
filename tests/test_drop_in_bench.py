"""The benchmarks of fastmlp.sklearn: two sides that agree, timed in turn."""

import json
import sys

import numpy as np
import pytest

pytest.importorskip("sklearn")

from sklearn import neural_network
from sklearn.utils._param_validation import InvalidParameterError

import fastmlp.sklearn
from fastmlp.bench import drop_in, never_slower

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
    with pytest.raises(ArithmeticError, match="partial_fit: the losses are"):
        drop_in._updates(np.tile(X, (2, 1)), np.arange(120) % 3)


def test_every_row_of_the_table_can_be_named():
    names = list(drop_in.sides())
    assert len(names) == len(set(names)) == 9


PROGRAM = """
import numpy as np
from sklearn.neural_network import MLPClassifier, MLPRegressor
x = np.random.default_rng(0).normal(size=(30, 2))
for seed in (1, 1, 2):
    model = MLPRegressor(hidden_layer_sizes=3, max_iter=2, random_state=seed, verbose=True).fit(x, x[:, 0])
    model.set_params(max_iter=4).fit(x, x[:, 0])
    assert type(model).__name__ == "MLPRegressor" and model.score(x, x[:, 0]) < 1
try:
    MLPClassifier(hidden_layer_sizes=-1).fit(x, x[:, 0] > 0)
except ValueError:
    pass
"""


@pytest.fixture
def histories(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    return never_slower.record_script(tmp_path / "program.py")


def test_what_a_program_does_is_recorded_call_by_call(histories, capsys):
    assert neural_network.MLPRegressor.__module__ == "sklearn.neural_network._multilayer_perceptron"
    assert [(h.kind, [call.method for call in h.calls]) for h in histories] == [
        *[("MLPRegressor", ["fit", "fit", "predict"])] * 3,
        ("MLPClassifier", ["fit"]),
    ]
    assert [call.parameters["max_iter"] for call in histories[0].calls] == [2, 4, 4]
    assert histories[3].calls[0].raised is InvalidParameterError
    assert len(never_slower.distinct(histories)) == 3
    assert not hasattr(histories[0].repeat(neural_network), "_history")
    for module in (neural_network, fastmlp.sklearn):
        capsys.readouterr()
        assert histories[2].repeat(module).n_iter_ == 4
        assert capsys.readouterr().out == "", "what is printed is not what is timed"


def test_a_repetition_that_ends_otherwise_is_no_figure(histories):
    histories[3].calls[0].raised = None
    with pytest.raises(ArithmeticError, match="raised"):
        histories[3].repeat(fastmlp.sklearn)


def test_both_sides_of_a_history_are_timed_and_a_slower_one_fails(histories, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["", "--scripts-only", "--script", str(tmp_path / "program.py"), "--budget", "0"])
    for allowed, status, word in ((1e9, 0, "0 slower"), (1e-9, 1, "3 slower")):
        monkeypatch.setattr(never_slower, "ALLOWED", allowed)
        with pytest.raises(SystemExit) as end:
            never_slower.main()
        assert end.value.code == status
        assert f"3 kinds of work: {word}" in capsys.readouterr().out


def test_ctrl_c_keeps_what_is_finished(histories, monkeypatch, capsys, tmp_path):
    first = never_slower.measure("first", histories[3], 0)

    monkeypatch.setattr(never_slower, "slower", lambda row: False)
    for module, arguments in (
        (never_slower, ["--scripts-only", "--script", str(tmp_path / "program.py")]),
        (drop_in, []),
    ):
        monkeypatch.setattr(module, "measure", lambda *a, left=[first]: left.pop() if left else interrupt())
        monkeypatch.setattr(sys, "argv", ["", *arguments, "--json", str(tmp_path / "out.json")])
        with pytest.raises(SystemExit) as end:
            module.main()
        assert end.value.code == 130
        assert "times faster" in capsys.readouterr().out
        written = json.loads((tmp_path / "out.json").read_text())
        assert len(written if isinstance(written, list) else written["rows"]) == 1


def interrupt():
    raise KeyboardInterrupt
