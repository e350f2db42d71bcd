"""What fastmlp.sklearn's estimators offer beyond scikit-learn's."""

import multiprocessing
import os
import pickle

import numpy as np
import pytest
import scipy.sparse

sklearn = pytest.importorskip("sklearn")

from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_diabetes, load_digits, make_multilabel_classification  # noqa: E402
from sklearn.metrics import accuracy_score, log_loss  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.neural_network import MLPClassifier as ScikitLearns  # noqa: E402
from sklearn.utils._param_validation import InvalidParameterError  # noqa: E402
from sklearn.utils.class_weight import compute_sample_weight  # noqa: E402

import fastmlp  # noqa: E402
from fastmlp.callbacks import Checkpoint, EarlyStopping  # noqa: E402
from fastmlp.errors import ArgumentError  # noqa: E402
from fastmlp.kernels.contract import ACTIVATIONS  # noqa: E402
from fastmlp.sklearn import Epoch, MLPClassifier, MLPRegressor, settings  # noqa: E402
from fastmlp.sklearn.engine import Engine  # noqa: E402
from fastmlp.sklearn.layerwise import Layers, LayerSteps  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:dtype 'bfloat16' is emulated:RuntimeWarning"),
    # What scikit-learn 1.7 asks of a newer SciPy.
    pytest.mark.filterwarnings("ignore:.*options of the L-BFGS-B solver are deprecated:DeprecationWarning"),
]

DIGITS, CLASSES = load_digits(return_X_y=True)
DIGITS = DIGITS / 16
X, Y, X_VAL, Y_VAL = DIGITS[:600], CLASSES[:600], DIGITS[600:900], CLASSES[600:900]
DIABETES, PROGRESS = load_diabetes(return_X_y=True)
DIABETES, PROGRESS = DIABETES / DIABETES.std(axis=0), (PROGRESS - PROGRESS.mean()) / PROGRESS.std()


def stopped(epoch):
    """A schedule that leaves every parameter where it began."""
    return 0.0


def parameters(estimator):
    return np.concatenate([a.ravel() for a in estimator.coefs_ + estimator.intercepts_])


def as_mlp(estimator, **optimizer):
    """A network of fastmlp's own with the parameters that the estimator begins with."""
    begun = clone(estimator).set_params(max_iter=1, learning_rate_schedule=stopped, solver="adam").fit(X, Y)
    net = fastmlp.MLP(
        (64, *begun.hidden_layer_sizes, 10),
        activation=begun._engine.network.activations,
        loss="log_loss",
        learning_rate=estimator.learning_rate_init,
        dtype="float64",
        **optimizer,
    )
    for view, value in zip(net.weights + net.biases, begun.coefs_ + begun.intercepts_, strict=True):
        view[...] = value
    return net


@pytest.mark.parametrize(
    ("activation", "ours"),
    [
        *[(name, (name, name)) for name in ("gelu", "silu", "leaky_relu", "softplus", "sine")],
        (["gelu", "logistic"], ("gelu", "sigmoid")),
        (("relu", "tanh"), ("relu", "tanh")),
    ],
    ids=str,
)
def test_networks_with_our_activations_train_as_fastmlps_own(activation, ours):
    model = MLPClassifier((20, 12), activation, alpha=0, shuffle=False, max_iter=3, random_state=0)
    net = as_mlp(model, optimizer="adam")
    assert net.structure.activations == (*ours, "identity")
    model.fit(X, Y)
    history = net.fit(X, Y, epochs=3, batch_size=200, shuffle=False, progress=False)
    np.testing.assert_allclose(model.loss_curve_, history.loss, rtol=1e-14)
    for a, b in zip(model.coefs_ + model.intercepts_, net.weights + net.biases, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(model.predict_proba(X_VAL), net.predict_proba(X_VAL), rtol=1e-12)
    np.testing.assert_array_equal(model.predict(scipy.sparse.csr_array(X_VAL)), model.predict(X_VAL))
    model.coefs_ = [w.copy() for w in model.coefs_]
    np.testing.assert_array_equal(model.predict_proba(X_VAL), pickle.loads(pickle.dumps(model)).predict_proba(X_VAL))


def test_every_activation_of_the_kernels_can_be_named():
    for name in ACTIVATIONS:
        model = MLPRegressor(hidden_layer_sizes=4, activation=name, max_iter=1, random_state=0).fit(DIABETES, PROGRESS)
        assert model._engine.network.activations == (name, "identity")


def test_logistic_layers_of_a_list_begin_in_scikit_learns_range():
    start = {"max_iter": 1, "learning_rate_schedule": stopped, "random_state": 0}
    one = MLPClassifier((20, 12), "relu", **start).fit(X, Y)
    mixed = MLPClassifier((20, 12), ["relu", "logistic"], **start).fit(X, Y)
    np.testing.assert_array_equal(mixed.coefs_[0], one.coefs_[0])
    np.testing.assert_allclose(mixed.coefs_[1], one.coefs_[1] / np.sqrt(3), rtol=1e-15)
    np.testing.assert_allclose(mixed.coefs_[2], one.coefs_[2] / np.sqrt(3), rtol=1e-15)
    named, listed = (MLPClassifier((20, 12), each, **start).fit(X, Y) for each in ("logistic", ["logistic"] * 2))
    for a, b in zip((*named.coefs_, *named.intercepts_), (*listed.coefs_, *listed.intercepts_), strict=True):
        # Draws from -bound to bound are off by roundings of the bound's size.
        np.testing.assert_allclose(a, b, rtol=0, atol=2 * np.finfo(float).eps * np.abs(b).max())


@pytest.mark.parametrize(
    ("activation", "message"), [(["relu"], "2, one a hidden layer; got 1"), (["x", "relu"], "'x'")]
)
def test_a_list_of_activations_that_cannot_be_used_is_refused(activation, message):
    with pytest.raises(ValueError, match=message):
        MLPClassifier((5, 5), activation).fit(X, Y)


def test_adamw_takes_the_decay_off_the_weights():
    model = MLPClassifier((20,), solver="adamw", alpha=0.3, shuffle=False, max_iter=3, random_state=0)
    net = as_mlp(model, optimizer="adamw", l2=0.3)
    model.fit(X, Y)
    history = net.fit(X, Y, epochs=3, batch_size=200, shuffle=False, progress=False)
    np.testing.assert_array_equal(model.coefs_[0], net.weights[0])
    np.testing.assert_allclose(model.loss_curve_, history.loss, rtol=1e-14)
    plain = clone(model).set_params(solver="adam", alpha=0).fit(X, Y)
    np.testing.assert_array_equal(parameters(plain), parameters(clone(model).set_params(alpha=0).fit(X, Y)))
    weighted = clone(model).fit(X, Y, sample_weight=np.full(len(X), 2.0))
    np.testing.assert_allclose(parameters(weighted), parameters(model), rtol=0, atol=1e-12)
    model.partial_fit(X, Y)


def test_scikit_learns_own_class_still_refuses_adamw():
    with pytest.raises(InvalidParameterError, match="solver"):
        ScikitLearns(solver="adamw").fit(X, Y)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_schedules_scale_the_learning_rate_of_each_epoch(solver, monkeypatch):
    rates, train = [], Engine.train

    def spy(self, optimizer, *arguments):
        rates.append(optimizer.learning_rate)
        train(self, optimizer, *arguments)

    monkeypatch.setattr(Engine, "train", spy)
    epochs = np.arange(4)
    for schedule, factors in {
        "linear": 1 - epochs / 4,
        "cosine": (1 + np.cos(np.pi * epochs / 4)) / 2,
        lambda epoch: 2.0**-epoch: 2.0**-epochs,
    }.items():
        rates.clear()
        model = MLPClassifier((5,), solver=solver, learning_rate_schedule=schedule, max_iter=4, learning_rate_init=0.01)
        model.fit(X, Y)
        assert rates == pytest.approx(0.01 * factors, rel=1e-15)
    with pytest.raises(ValueError, match="for epoch 0 it gave -1"):
        clone(model).set_params(learning_rate_schedule=lambda epoch: -1).fit(X, Y)
    with pytest.raises(ValueError, match="partial_fit does not support learning_rate_schedule"):
        model.partial_fit(X, Y)
    with pytest.raises(ValueError, match="needs learning_rate='constant'"):
        clone(model).set_params(solver="sgd", learning_rate="adaptive").fit(X, Y)


class _Seen(Exception):
    """Raised to look at the steps of a fit."""


def dropout_steps(monkeypatch, dropout, activation="relu", **settings):
    """The steps that a fit would make, before the first, and its estimator."""
    steps = []

    def look(self, orders):
        steps.append(self)
        raise _Seen

    with monkeypatch.context() as patched:
        patched.setattr(LayerSteps, "begin", look)
        model = MLPRegressor(
            hidden_layer_sizes=(200, 40), activation=activation, solver="sgd", momentum=0.0, alpha=0.1,
            dropout=dropout, batch_size=64, random_state=1, **settings,
        )  # fmt: skip
        with pytest.raises(_Seen):
            model.fit(DIABETES, PROGRESS)
    return steps[0], model


@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu"])
def test_a_step_with_dropout_goes_along_the_gradient_of_what_is_left(activation, monkeypatch):
    """Against central differences of the loss under the very masks that the step drew."""
    rate = 1e-3
    steps, model = dropout_steps(monkeypatch, 0.3, activation, learning_rate_init=rate)
    before = [a.copy() for a in model.coefs_ + model.intercepts_]
    rows = np.arange(50)
    loss = steps._step(rows, 1)
    masks = [layer.mask[:50] for layer in steps._layers.buffers[:-1]]
    functions = {
        "relu": lambda z: np.maximum(z, 0),
        "tanh": np.tanh,
        "gelu": lambda z: z * scipy.special.ndtr(z),
    }

    def loss_of(arrays):
        h, half = DIABETES[rows], len(arrays) // 2
        for i, (w, b) in enumerate(zip(arrays[:half], arrays[half:], strict=True)):
            h = h @ w + b
            if i < half - 1:
                h = functions[activation](h) * masks[i]
        penalty = 0.1 / (2 * 50) * sum((w * w).sum() for w in arrays[:half])
        return ((h[:, 0] - PROGRESS[rows]) ** 2).mean() / 2 + penalty

    assert loss == pytest.approx(loss_of(before), rel=1e-12)
    random = np.random.default_rng(0)
    for place, (old, new) in enumerate(zip(before, model.coefs_ + model.intercepts_, strict=True)):
        direction = random.normal(size=old.shape)
        moved = []
        for sign in (1, -1):
            arrays = list(before)
            arrays[place] = old + sign * 1e-6 * direction
            moved.append(loss_of(arrays))
        slope = (moved[0] - moved[1]) / 2e-6
        assert ((old - new) / rate * direction).sum() == pytest.approx(slope, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("dropout", [0.1, 0.5, 0.9])
def test_dropout_leaves_out_its_share_and_scales_up_the_rest(dropout, monkeypatch):
    steps, _ = dropout_steps(monkeypatch, dropout)
    masks = []
    for step in range(20):
        steps._step(np.arange(64), step + 1)
        masks.append(steps._layers.buffers[0].mask.copy())
    masks = np.array(masks)
    dropped = round(dropout * 2**16) / 2**16
    assert set(np.unique(masks)) == {0.0, 1 / (1 - dropped)}
    # 256,000 draws: 5 standard deviations.
    assert abs((masks == 0).mean() - dropped) < 5 * np.sqrt(dropped * (1 - dropped) / masks.size)
    # Steps, rows and units are dropped apart from one another: no correlation beyond 5 standard deviations.
    centred = (masks == 0) - dropped
    for shifted in (np.roll(centred, 1, 0), np.roll(centred, 1, 1), np.roll(centred, 1, 2)):
        assert abs((centred * shifted).mean()) < 5 * dropped * (1 - dropped) / np.sqrt(masks.size)
    assert steps._layers.buffers[-1].mask is None


def test_dropout_follows_random_state_and_is_for_training_alone():
    model = MLPClassifier((30,), dropout=0.5, max_iter=3, random_state=0).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X_VAL), model.predict_proba(X_VAL))
    np.testing.assert_array_equal(parameters(model), parameters(clone(model).fit(X, Y)))
    assert (parameters(model) != parameters(clone(model).set_params(random_state=1).fit(X, Y))).any()
    plain = clone(model).set_params(dropout=0.0).fit(X, Y)
    assert (parameters(model) != parameters(plain)).any()
    masks = []
    for _ in range(2):
        model.partial_fit(X[:50], Y[:50])
        masks.append(model.loss_)
    assert masks[0] != masks[1]


def test_masks_differ_from_one_partial_fit_to_the_next(monkeypatch):
    drawn, draw = [], Layers._draw

    def spy(self, mask):
        draw(self, mask)
        drawn.append(mask.copy())

    monkeypatch.setattr(Layers, "_draw", spy)
    model = MLPClassifier((30,), dropout=0.5, random_state=0)
    for _ in range(3):
        model.partial_fit(X[:50], Y[:50], classes=range(10))
    assert len(drawn) == 3
    assert (drawn[1] != drawn[2]).any()


@pytest.mark.parametrize("class_weight", ["balanced", {0: 5.0, 3: 0.1}, {c: c + 1.0 for c in range(10)}], ids=str)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_class_weights_are_sample_weights(class_weight, solver):
    given = np.linspace(1, 2, len(X))
    model = MLPClassifier((10,), solver=solver, class_weight=class_weight, max_iter=4, random_state=0)
    weights = compute_sample_weight(class_weight, Y)
    for own in (None, given):
        expected = clone(model).set_params(class_weight=None)
        expected.fit(X, Y, sample_weight=weights if own is None else weights * own)
        model.fit(X, Y, sample_weight=own)
        np.testing.assert_array_equal(parameters(model), parameters(expected))


def test_class_weights_of_labels_and_of_names():
    topics, labels = make_multilabel_classification(200, 20, n_classes=3, random_state=1)
    for y, class_weight in (
        (labels, [{0: 1.0, 1: 3.0}] * 3),
        (np.where(Y[:200] > 4, "large", "small"), {"large": 3.0, "small": 1.0}),
    ):
        model = MLPClassifier((10,), class_weight=class_weight, max_iter=4, random_state=0)
        expected = clone(model).set_params(class_weight=None)
        expected.fit(topics, y, sample_weight=compute_sample_weight(class_weight, y))
        np.testing.assert_array_equal(parameters(model.fit(topics, y)), parameters(expected))


def test_class_weights_do_not_count_in_validation():
    model = MLPClassifier((10,), class_weight={0: 100.0}, early_stopping=True, max_iter=3, random_state=0).fit(X, Y)
    assert all((60 * score) == pytest.approx(round(60 * score), abs=1e-9) for score in model.validation_scores_)


def test_partial_fit_takes_class_weights_but_cannot_balance():
    model = MLPClassifier((10,), class_weight={0: 5.0}, random_state=0).partial_fit(X, Y, classes=range(10))
    expected = MLPClassifier((10,), random_state=0)
    expected.partial_fit(X, Y, compute_sample_weight({0: 5.0}, Y), range(10))
    np.testing.assert_array_equal(parameters(model), parameters(expected))
    with pytest.raises(ValueError, match="partial_fit does not support class_weight='balanced'"):
        MLPClassifier(class_weight="balanced").partial_fit(X, Y, classes=range(10))


def test_a_users_validation_set_gives_a_curve_of_losses():
    plain = MLPClassifier((20,), max_iter=6, random_state=0).fit(X, Y)
    model = clone(plain).fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    np.testing.assert_array_equal(parameters(model), parameters(plain))
    assert len(model.validation_loss_curve_) == model.n_iter_ == 6
    assert model.validation_loss_curve_[-1] == pytest.approx(log_loss(Y_VAL, model.predict_proba(X_VAL)), rel=1e-12)
    assert not hasattr(plain, "validation_loss_curve_")
    weights = np.linspace(0, 1, len(X_VAL))
    model.fit(X, Y, X_val=X_VAL.tolist(), y_val=Y_VAL.tolist(), sample_weight_val=weights)
    expected = log_loss(Y_VAL, model.predict_proba(X_VAL), sample_weight=weights)
    assert model.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-12)
    model.set_params(warm_start=True).fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    assert len(model.validation_loss_curve_) == len(model.loss_curve_) == 12
    model.set_params(warm_start=False).fit(X, Y)
    assert not hasattr(model, "validation_loss_curve_")


@pytest.mark.parametrize("outputs", [1, 2])
def test_a_regressors_validation_loss_is_half_the_squared_error(outputs):
    y = PROGRESS if outputs == 1 else np.stack([PROGRESS, DIABETES[:, 0]], axis=1)
    model = MLPRegressor(hidden_layer_sizes=20, max_iter=3, random_state=0).fit(
        DIABETES, y, X_val=DIABETES[:99], y_val=y[:99]
    )
    expected = ((model.predict(DIABETES[:99]) - y[:99]) ** 2).mean() / 2
    assert model.validation_loss_curve_[-1] == pytest.approx(expected, rel=1e-12)


def test_early_stopping_goes_by_a_users_validation_set():
    model = MLPClassifier((20,), early_stopping=True, n_iter_no_change=3, learning_rate_init=0.02, random_state=0)
    model.fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    assert model.t_ == len(X) * model.n_iter_, "no sample of X is held out"
    assert len(model.validation_scores_) == model.n_iter_ < 200
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert accuracy_score(Y_VAL, model.predict(X_VAL)) == model.best_validation_score_


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"X_val": X_VAL}, "X_val and y_val go together; got no y_val"),
        ({"y_val": Y_VAL}, "got no X_val"),
        ({"X_val": X_VAL[:, :3], "y_val": Y_VAL}, "X has 3 features"),
        ({"X_val": X_VAL, "y_val": Y_VAL[:-1]}, "inconsistent numbers of samples"),
        ({"X_val": X_VAL, "y_val": Y_VAL + 1}, r"y_val holds classes that y does not: \[10\]"),
        ({"X_val": X_VAL, "y_val": np.eye(4)[Y_VAL % 4]}, "outputs"),
    ],
)
def test_a_validation_set_that_does_not_fit_is_refused(arguments, message):
    model = MLPClassifier((5,), max_iter=1)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y, **arguments)
    model.fit(X, Y)
    assert not hasattr(model, "validation_loss_curve_")


def test_callbacks_see_every_epoch_and_may_end_the_fit(tmp_path):
    seen = []

    def watch(epoch):
        assert isinstance(epoch, Epoch)
        assert epoch.estimator.coefs_[0].base is not None
        seen.append((epoch.index, epoch.epochs, epoch.loss, epoch.validation_loss, epoch.validation_score))
        return epoch.index == 3

    saves = Checkpoint(tmp_path / "net.safetensors")
    model = MLPClassifier((20,), max_iter=9, random_state=0, early_stopping=True, callbacks=[watch, saves])
    model.fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    assert model.n_iter_ == 4
    assert [epoch[:2] for epoch in seen] == [(i, 9) for i in range(4)]
    assert [epoch[2] for epoch in seen] == model.loss_curve_
    assert [epoch[3] for epoch in seen] == model.validation_loss_curve_
    assert [epoch[4] for epoch in seen] == model.validation_scores_
    net = fastmlp.MLP.load(tmp_path / "net.safetensors")
    assert net.layers == (64, 20, 10)
    assert (net.predict(X_VAL).argmax(axis=1) == Y_VAL).mean() == model.validation_scores_[-1]


def test_fastmlps_early_stopping_puts_the_best_parameters_back():
    stop = EarlyStopping(patience=2)
    model = MLPClassifier((20,), max_iter=200, learning_rate_init=0.05, random_state=0, callbacks=[stop])
    model.fit(X, Y, X_val=X_VAL, y_val=Y_VAL)
    assert model.n_iter_ < 200
    assert stop.best == min(model.validation_loss_curve_)
    assert log_loss(Y_VAL, model.predict_proba(X_VAL)) == pytest.approx(stop.best, rel=1e-12)


def test_an_error_of_a_callback_is_the_users():
    def fail(epoch):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        MLPClassifier((5,), callbacks=[fail]).fit(X, Y)
    with pytest.raises(TypeError, match="callable"):
        MLPClassifier((5,), callbacks=[3]).fit(X, Y)


def test_a_progress_bar_is_drawn_where_it_is_asked_for(capsys):
    MLPClassifier((5,), max_iter=3, progress=True).fit(X, Y)
    assert "epoch 3/3" in capsys.readouterr().err
    MLPClassifier((5,), max_iter=3).fit(X, Y)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_is_that_of_the_network_whatever_the_samples_are(dtype):
    model = MLPClassifier((20,), dtype=dtype, max_iter=3, random_state=0)
    expected = MLPClassifier((20,), max_iter=3, random_state=0).fit(X.astype(dtype), Y)
    for x in (X.astype("float32"), X):
        model.fit(x.astype(dtype).astype(x.dtype), Y)
        assert {a.dtype.name for a in model.coefs_ + model.intercepts_} == {dtype}
        assert model.predict_proba(x).dtype == dtype
    np.testing.assert_array_equal(parameters(model), parameters(expected))
    np.testing.assert_array_equal(model.predict_proba(X), expected.predict_proba(X.astype(dtype)))


def test_bfloat16_trains_as_fastmlps_own_does():
    model = MLPClassifier((20,), dtype="bfloat16", alpha=0, shuffle=False, max_iter=3, random_state=0)
    begun = clone(model).set_params(max_iter=1, learning_rate_schedule=stopped).fit(X, Y)
    net = fastmlp.MLP((64, 20, 10), loss="log_loss", optimizer="adam", learning_rate=1e-3, dtype="bfloat16")
    for view, value in zip(net.weights + net.biases, begun.coefs_ + begun.intercepts_, strict=True):
        view[...] = value
    net.fit(X, Y, epochs=3, batch_size=200, shuffle=False, progress=False)
    model.fit(X, Y)
    np.testing.assert_array_equal(model.coefs_[0], net.weights[0])
    np.testing.assert_array_equal(model._forward_pass_fast(X[:5]).argmax(1), net.predict(X[:5]).argmax(1))
    float32 = clone(model).set_params(dtype="float32").fit(X, Y)
    assert 0 < abs(parameters(float32) - parameters(model)).max() < 0.01
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
    for asked in ({"dropout": 0.1}, {"class_weight": "balanced"}):
        with pytest.raises(ValueError, match="bfloat16"):
            clone(model).set_params(**asked).fit(X, Y)


@pytest.mark.parametrize(
    "asked", [{"activation": "gelu"}, {"dropout": 0.1}, {"dtype": "bfloat16"}, {"callbacks": [print]}], ids=str
)
def test_what_scikit_learns_code_does_not_offer_is_refused_where_that_would_run(asked):
    with pytest.raises(ValueError, match="fastmlp's kernels alone offer that, and here X is sparse"):
        MLPClassifier((5,), **asked).fit(scipy.sparse.hstack([X, scipy.sparse.csr_array((len(X), 3000))], "csr"), Y)


@pytest.mark.parametrize(
    "asked",
    [{"dropout": 0.1}, {"dtype": "bfloat16"}, {"callbacks": [print]}, {"learning_rate_schedule": "cosine"}],
    ids=str,
)
def test_what_minibatches_alone_offer_is_refused_for_lbfgs(asked):
    with pytest.raises(ValueError, match=f"{next(iter(asked))}=.*: training by minibatches alone offers that"):
        MLPClassifier((5,), solver="lbfgs", **asked).fit(X, Y)
    with pytest.raises(ValueError, match="X_val: training by minibatches alone"):
        MLPClassifier((5,), solver="lbfgs").fit(X, Y, X_val=X_VAL, y_val=Y_VAL)


@pytest.mark.parametrize("weighted", [False, True])
def test_lbfgs_trains_with_our_activations(weighted):
    """Its loss is that of fastmlp.MLP, which knows them, and falls, as it would not along a wrong gradient."""
    weights = np.full(len(X), 2.0) if weighted else None
    model = MLPClassifier((9, 7), ["gelu", "sine"], solver="lbfgs", alpha=0.0, tol=1e-9, random_state=0)
    net = fastmlp.MLP((64, 9, 7, 10), ["gelu", "sine"], loss="log_loss", dtype="float64")
    losses = []
    for iterations in (1, 30):
        model.set_params(max_iter=iterations).fit(X, Y, sample_weight=weights)
        for view, value in zip(net.weights + net.biases, model.coefs_ + model.intercepts_, strict=True):
            view[...] = value
        assert model.loss_ == pytest.approx(net.loss(X, Y), rel=1e-12)
        losses.append(model.loss_)
    assert losses[1] < losses[0] / 4


@pytest.mark.parametrize(
    "asked",
    [{"dropout": 1.0}, {"dtype": "float16"}, {"learning_rate_schedule": "steps"}, {"class_weight": "equal"}, {"x": 1}],
    ids=str,
)
def test_parameters_that_cannot_be_used_are_refused(asked):
    with pytest.raises((InvalidParameterError, TypeError), match=next(iter(asked))):
        MLPClassifier(**asked).fit(X, Y)


def test_our_parameters_are_parameters_of_estimators():
    model = MLPClassifier((5,), dropout=0.25, class_weight={0: 2.0}, activation=["gelu"])
    assert clone(model).get_params() == model.get_params()
    asked = "MLPClassifier(activation=['gelu'], class_weight={0: 2.0}, dropout=0.25, hidden_layer_sizes=(5,))"
    assert " ".join(repr(model).split()) == asked
    assert set(model.get_params()) - set(MLPRegressor().get_params()) == {"class_weight"}
    search = GridSearchCV(
        MLPClassifier((10,), max_iter=3, random_state=0), {"activation": ["relu", "silu"], "dropout": [0.0, 0.2]}, cv=3
    )
    assert search.fit(X, Y).best_params_["activation"] in ("relu", "silu")
    assert "dropout" in MLPClassifier(dropout=0.1)._repr_html_()


def test_settings_hold_for_a_block(monkeypatch):
    model = MLPClassifier((5,), max_iter=1, random_state=0)
    with settings(backend="numpy", dtype="float32", threads=1):
        assert fastmlp.get_num_threads() == 1
        assert (os.environ["FASTMLP_BACKEND"], os.environ["FASTMLP_NUM_THREADS"]) == ("numpy", "1")
        model.fit(X, Y)
        assert clone(model).set_params(dtype="float64").fit(X, Y).coefs_[0].dtype == np.float64
    assert model._engine.backend.__name__ == "fastmlp.kernels.reference"
    assert model.coefs_[0].dtype == model.predict_proba(X).dtype == np.float32
    assert not {"FASTMLP_BACKEND", "FASTMLP_NUM_THREADS", "FASTMLP_DTYPE"} & set(os.environ)
    assert model.fit(X, Y).coefs_[0].dtype == np.float64
    for wrong in ({"backend": "gpu"}, {"dtype": "float16"}, {"threads": 0}):
        with pytest.raises(ArgumentError), settings(**wrong):
            pass
    monkeypatch.setenv("FASTMLP_DTYPE", "half")
    with pytest.raises(ArgumentError, match="FASTMLP_DTYPE"):
        model.fit(X, Y)


def _dtype_in_child():
    return MLPClassifier((5,), max_iter=1).fit(X, Y).coefs_[0].dtype.name


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_settings_hold_in_processes_that_are_started_within():
    with settings(dtype="float32"), multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(_dtype_in_child).get(timeout=60) == "float32"
