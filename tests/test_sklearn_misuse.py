"""fastmlp.sklearn's estimators used as they are not meant to be: refused whole or heeded, and no array overrun."""

import copy
import pickle
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn.exceptions import NotFittedError  # noqa: E402

from fastmlp.callbacks import Callback  # noqa: E402
from fastmlp.sklearn import MLPClassifier, MLPRegressor  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:dtype 'bfloat16' is emulated:RuntimeWarning"),
]

X = np.random.default_rng(0).standard_normal((300, 4))
Y = (X[:, 0] > 0).astype(int)


def bits(estimator):
    return [array.tobytes() for array in (*estimator.coefs_, *estimator.intercepts_)]


@pytest.mark.parametrize(("before", "after"), [(50, 1), (3, 2), (2, 3), (1, 3)])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_another_number_of_outputs_is_refused_and_the_model_stays(before, after, solver, rng):
    first, second = (rng.standard_normal((300, m) if m > 1 else 300) for m in (before, after))
    model = MLPRegressor(hidden_layer_sizes=(5,), max_iter=2, solver=solver, warm_start=True).fit(X, first)
    old = bits(model)
    calls = [model.fit] if solver == "lbfgs" else [model.fit, model.partial_fit]
    for call in calls:
        with pytest.raises(ValueError, match=f"y {after} outputs.*has {before}"):
            call(X, second)
    with pytest.raises(ValueError, match="X has 3 features"):
        model.fit(X[:, :3], first)
    assert bits(model) == old
    assert model.predict(X).shape == ((300,) if before == 1 else (300, before))


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("rows", [1, 3, 4000])
def test_coefficients_of_another_shape_are_refused(activation, rows):
    model = MLPClassifier((4,), activation=activation, max_iter=2, warm_start=True).fit(X, Y)
    model.coefs_[0] = np.ones((rows, 4))
    for each in (model, pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError):
            each.predict(X)
        with pytest.raises(ValueError, match=r"coefs_\[0\] must have 4 rows|X has 4 features"):
            each.fit(X, Y)


def test_parameters_of_several_dtypes_train_and_predict():
    for activation in ("relu", "gelu"):
        model = MLPClassifier((4,), activation=activation, max_iter=2).fit(X, Y)
        expected = model.predict_proba(X)
        model.intercepts_ = [each.astype(np.float32) for each in model.intercepts_]
        np.testing.assert_allclose(model.predict_proba(X), expected, rtol=1e-5)
        model.partial_fit(X, Y)
        assert model.coefs_[0].dtype == np.float64


def test_threads_that_fit_one_estimator_part_by_part_stay_within_its_buffers(rng):
    model = MLPClassifier((50,)).partial_fit(X, Y, classes=[0, 1])
    sizes = rng.integers(2, 300, (3, 60))

    def fit(which):
        for size in sizes[which]:
            model.partial_fit(X[:size], Y[:size])

    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(fit, which) for which in range(3)]:
            done.result()
    assert all(np.isfinite(each).all() for each in model.coefs_)


def test_a_callback_may_assign_the_coefficients():
    def clip(epoch):
        epoch.estimator.coefs_ = [np.clip(each, -0.3, 0.3) for each in epoch.estimator.coefs_]

    def in_place(epoch):
        for each in epoch.estimator.coefs_:
            np.clip(each, -0.3, 0.3, out=each)

    options = {"hidden_layer_sizes": (6,), "max_iter": 20, "learning_rate_init": 0.1, "random_state": 0}
    assigned, written = (MLPClassifier(callbacks=[each], **options).fit(X, Y) for each in (clip, in_place))
    assert bits(assigned) == bits(written)
    assert assigned.loss_ == written.loss_

    def wrong(epoch):
        epoch.estimator.coefs_[0] = np.zeros((9, 6))

    with pytest.raises(ValueError, match="must have shapes"):
        MLPClassifier(callbacks=[wrong], **options).fit(X, Y)


@pytest.mark.parametrize(
    ("parameters", "given"),
    [
        ({}, {"X_val": X[:10], "y_val": np.full(10, 7)}),
        ({}, {"X_val": X[:10, :3], "y_val": Y[:10]}),
        ({}, {"X_val": X[:10], "y_val": Y[:9]}),
        ({"dtype": "bfloat16", "dropout": 0.5}, {}),
        ({"callbacks": [3]}, {}),
        ({"activation": ["relu", "relu"]}, {}),
    ],
)
def test_a_refused_fit_leaves_the_model_as_it_was(parameters, given):
    model = MLPClassifier((4,), max_iter=3, random_state=0).fit(X, Y)
    old, predictions = bits(model), model.predict_proba(X)
    model.set_params(**parameters)
    with pytest.raises((ValueError, TypeError)):
        model.fit(X, Y, **given)
    assert bits(model) == old
    assert model.n_iter_ == 3
    model.set_params(activation="relu", callbacks=None)
    np.testing.assert_array_equal(model.predict_proba(X), predictions)
    fresh = MLPClassifier((4,), **parameters)
    with pytest.raises((ValueError, TypeError)):
        fresh.fit(X, Y, **given)
    with pytest.raises(NotFittedError):
        fresh.predict(X)


def test_samples_beyond_float32_are_refused():
    wide = X.copy()
    wide[3, 2] = 1e300
    model = MLPClassifier((4,), dtype="float32", max_iter=2).fit(X, Y)
    old = bits(model)
    for call in (lambda: model.partial_fit(wide, Y), lambda: model.predict(wide), lambda: model.fit(wide, Y)):
        with pytest.raises(ValueError, match=r"X holds 1e\+300, which float32 cannot hold"):
            call()
    assert bits(model) == old


def test_ctrl_c_ends_a_fit_for_callbacks_too(interrupts_arrive):
    told = []

    class Told(Callback):
        def __call__(self, epoch):
            if epoch.index == 2:
                signal.raise_signal(signal.SIGINT)

        def finish(self, epoch):
            told.append(epoch.index)

    with pytest.warns(UserWarning, match="interrupted by user"):
        MLPClassifier((4,), max_iter=50, callbacks=[Told()]).fit(X, Y)
    assert told == [2]


@pytest.mark.parametrize(("fitted", "then"), [("relu", "tanh"), ("silu", "tanh"), ("tanh", "gelu")])
def test_another_activation_is_heeded_by_the_estimator_as_by_its_copies(fitted, then):
    model = MLPClassifier((4,), activation=fitted, max_iter=2, random_state=0).fit(X, Y)
    before = model.predict_proba(X)
    model.set_params(activation=then)
    ours = model.predict_proba(X)
    assert not np.allclose(ours, before)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_allclose(twin.predict_proba(X), ours, rtol=1e-12)


def test_a_part_may_lack_a_class_that_has_a_weight():
    model = MLPClassifier((4,), class_weight={0: 2.0}).partial_fit(X[:4], [0, 1, 0, 1], classes=[0, 1])
    model.partial_fit(X[:4], [1, 1, 1, 1])
    with pytest.raises(ValueError, match=r"class_weight must name classes out of \[.*0.*1.*\]; got \[5\]"):
        MLPClassifier((4,), class_weight={5: 2.0}).partial_fit(X[:4], [0, 1, 0, 1], classes=[0, 1])
