"""Callbacks: what they are told, how they stop a fit, early stopping, checkpoints, the progress bar."""

import numpy as np
import pytest

from fastmlp import MLP, ArgumentError, callbacks
from fastmlp.callbacks import Checkpoint, EarlyStopping, ProgressBar, tell
from fastmlp.history import Epoch, History


def data(rng):
    return rng.standard_normal((40, 5)), rng.standard_normal((40, 2))


def test_a_callback_is_told_of_every_epoch(backend_name, rng):
    x, y = data(rng)
    seen = []
    net = MLP((5, 2), backend=backend_name)
    history = net.fit(x, y, 3, 16, validation_data=(x, y), callbacks=[seen.append])
    assert [epoch.index for epoch in seen] == [0, 1, 2]
    assert [epoch.loss for epoch in seen] == history.loss
    assert [epoch.validation_loss for epoch in seen] == history.validation_loss
    assert [epoch.is_last for epoch in seen] == [False, False, True]
    assert all(epoch.network is net and epoch.history is history and epoch.epochs == 3 for epoch in seen)
    net.fit(x, y, 1, callbacks=[seen.append])
    assert seen[-1].validation_loss is None


def test_one_that_returns_true_ends_the_fit_after_all_were_called(backend_name, rng):
    calls = []
    stop = [lambda epoch: epoch.index == 1, lambda epoch: calls.append(epoch.index)]
    history = MLP((5, 2), backend=backend_name).fit(*data(rng), 9, callbacks=stop)
    assert history.epochs == 2
    assert calls == [0, 1]


def test_an_error_in_a_callback_comes_through_with_the_network_whole(backend_name, rng):
    x, y = data(rng)
    one, other = (MLP((5, 2), backend=backend_name) for _ in range(2))
    with pytest.raises(ZeroDivisionError):
        one.fit(x, y, 9, 16, callbacks=[lambda epoch: epoch.index == 1 and 1 / 0])
    other.fit(x, y, 2, 16)
    assert one.parameters.tobytes() == other.parameters.tobytes()
    assert (one.updates, one.epochs, one.random_state) == (other.updates, other.epochs, other.random_state)


def run(stopping, losses, validation=None):
    """Where a callback stops on these losses, and the one weight it leaves, which was the index of each epoch."""
    net = MLP((1, 1), backend="numpy")
    for index, loss in enumerate(losses):
        net.weights[0] = index
        given = None if validation is None else validation[index]
        if tell([stopping], Epoch(net, index, len(losses), loss, given, History())):
            break
    return index, int(net.weights[0].item())


@pytest.mark.parametrize(
    ("settings", "losses", "expected"),
    [
        ({"patience": 2}, [5, 4, 3, 4, 4, 1], (4, 2)),
        ({"patience": 2, "restore_best": False}, [5, 4, 3, 4, 4, 1], (4, 4)),
        ({"patience": 3}, [5, 4, 3, 4, 4, 1], (5, 5)),
        ({"patience": 9}, [5, 4, 3, 4, 4, 4], (5, 2)),
        ({"patience": 2, "min_delta": 0.5}, [5, 4.6, 4.4, 4.3, 4.2], (4, 2)),
        ({"patience": 2}, [5, np.nan, np.nan, 1], (2, 0)),
        ({"patience": 2}, [np.nan, np.nan, 1], (1, 1)),
        ({"patience": 1}, [3, 3], (1, 0)),
    ],
)
def test_early_stopping(settings, losses, expected):
    stopping = EarlyStopping(**settings)
    run(stopping, [-9, -10])  # an earlier fit, of which nothing is left
    assert run(stopping, losses) == expected


def test_early_stopping_watches_the_validation_loss_where_there_is_one():
    down, up = [3, 2, 1, 0], [1, 2, 3, 4]
    assert run(EarlyStopping(2), down, up)[0] == 2
    assert run(EarlyStopping(2, monitor="loss"), down, up)[0] == 3
    with pytest.raises(ArgumentError, match="validation data"):
        run(EarlyStopping(2, monitor="validation_loss"), down)


def test_early_stopping_without_its_loss_is_refused_before_anything_is_written(backend_name, rng):
    net = MLP((5, 2), backend=backend_name)
    before = net.parameters.tobytes()
    with pytest.raises(ArgumentError, match="without validation data"):
        net.fit(*data(rng), 3, callbacks=[EarlyStopping(2, monitor="validation_loss")])
    assert (net.parameters.tobytes(), net.updates) == (before, 0)


def test_what_a_fit_that_another_callback_ends_leaves(backend_name, tmp_path, rng):
    """The best epoch's parameters, and a checkpoint of them; True alone ends a fit."""
    net = MLP((5, 2), backend=backend_name)
    kept, path = [], tmp_path / "net"

    def worsen(epoch):
        kept.append(net.parameters.copy())
        net.learning_rate = 10.0 if epoch.index >= 2 else 0.01
        return epoch.loss

    stopping = EarlyStopping(patience=20)
    callbacks = [worsen, lambda epoch: np.bool_(epoch.index == 6), stopping, Checkpoint(path, every=4)]
    assert net.fit(*data(rng), 20, callbacks=callbacks).epochs == 7
    assert stopping.best_epoch < 6
    assert net.parameters.tobytes() == kept[stopping.best_epoch].tobytes()
    assert MLP.load(path, backend=backend_name).parameters.tobytes() == net.parameters.tobytes()


def test_early_stopping_in_a_fit_keeps_the_best(backend_name, rng):
    x, y = data(rng)
    net = MLP((5, 64, 2), "tanh", optimizer="adam", learning_rate=0.02, backend=backend_name)
    stopping = EarlyStopping(patience=5)
    history = net.fit(x[:20], y[:20], 500, 5, validation_data=(x[20:], y[20:]), callbacks=[stopping])
    assert history.epochs < 500
    assert stopping.best_epoch == int(np.argmin(history.validation_loss)) == history.epochs - 6
    assert net.loss(x[20:], y[20:]) == stopping.best == min(history.validation_loss)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"patience": 0}, "patience must be"),
        ({"patience": 1.5}, "patience must be"),
        ({"patience": True}, "patience must be"),
        ({"min_delta": -1}, "min_delta must be"),
        ({"min_delta": float("nan")}, "min_delta must be"),
        ({"monitor": "los"}, "Did you mean 'loss'"),
    ],
)
def test_early_stopping_judges_its_settings(settings, words):
    with pytest.raises(ArgumentError, match=words):
        EarlyStopping(**settings)


def test_checkpoints_are_saved_on_time(backend_name, tmp_path, rng):
    x, y = data(rng)
    seen = []
    net = MLP((5, 2), backend=backend_name)

    def look(epoch):
        seen.append(MLP.load(tmp_path / "net", backend=backend_name).epochs if (tmp_path / "net").exists() else 0)

    net.fit(x, y, 5, callbacks=[Checkpoint(tmp_path / "net", every=2), look])
    assert seen == [0, 2, 2, 4, 4]
    assert MLP.load(tmp_path / "net", backend=backend_name).epochs == 5
    with pytest.raises(ArgumentError, match="every must be"):
        Checkpoint(tmp_path / "net", every=0)


class Terminal:
    """Stands in for stderr."""

    encoding = "utf-8"

    def __init__(self, terminal):
        self.text, self._terminal = "", terminal

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return self._terminal


@pytest.mark.parametrize(
    ("show", "terminal", "seconds", "shown"),
    [
        (True, True, 0.0, True),
        (True, False, 0.0, True),
        (False, True, 9.0, False),
        (None, True, 1.0, False),
        (None, True, 9.0, True),
        (None, False, 9.0, False),
    ],
)
def test_the_bar_is_shown_when_asked_for_or_on_a_terminal_after_two_seconds(
    show, terminal, seconds, shown, monkeypatch
):
    stderr, now = Terminal(terminal), [100.0]
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    with ProgressBar(epochs=4, steps=10, show=show) as bar:
        for _ in range(40):
            now[0] += seconds / 40
            bar.advance(1, 0.5)
    assert ("epoch 4/4" in stderr.text) == shown
    assert ("loss 0.5" in stderr.text) == shown


def test_the_bar_moves_within_a_long_epoch(monkeypatch):
    stderr, now = Terminal(True), [100.0]
    monkeypatch.setattr("sys.stderr", stderr)
    monkeypatch.setattr(callbacks.time, "perf_counter", lambda: now[0])
    with ProgressBar(epochs=1, steps=3, show=None) as bar:
        lengths = []
        for _ in range(3):
            now[0] += 5
            bar.advance(1, 0.5)
            lengths.append(len(stderr.text))
    assert lengths[0] > 0
    assert lengths == sorted(set(lengths))


def test_a_fit_shows_its_bar_and_closes_it_when_it_fails(backend_name, capsys, rng):
    x, y = data(rng)
    net = MLP((5, 2), backend=backend_name)
    net.fit(x, y, 3, progress=True)
    assert "epoch 3/3" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):
        net.fit(x, y, 3, progress=True, callbacks=[lambda epoch: 1 / 0])
    net.fit(x, y, 3, progress=True)
    net.fit(x, y, 3)
    assert "epoch 3/3" in capsys.readouterr().err


def test_without_a_stderr_there_is_no_bar(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    with ProgressBar(1, 1, None) as bar:
        bar.advance(1, 0.0)
