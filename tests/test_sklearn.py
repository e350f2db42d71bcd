"""fastmlp.sklearn: scikit-learn's estimators on our kernels follow scikit-learn's own, seed for seed."""

import copy
import logging
import multiprocessing
import pickle
import signal
import threading
import warnings

import numpy as np
import pytest
import scipy.sparse

sklearn = pytest.importorskip("sklearn")

import threadpoolctl  # noqa: E402
from sklearn import neural_network  # noqa: E402
from sklearn.base import clone  # noqa: E402
from sklearn.datasets import load_diabetes, load_digits, make_multilabel_classification  # noqa: E402
from sklearn.exceptions import ConvergenceWarning, NotFittedError  # noqa: E402
from sklearn.model_selection import GridSearchCV  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402
from sklearn.utils.fixes import parse_version  # noqa: E402

import fastmlp  # noqa: E402
from fastmlp import interrupt  # noqa: E402
from fastmlp.errors import BackendUnavailable  # noqa: E402
from fastmlp.sklearn import MLPClassifier, MLPRegressor, sparse  # noqa: E402
from fastmlp.sklearn.engine import Engine  # noqa: E402
from fastmlp.sklearn.lbfgs import Objective, one_threaded_blas  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # What scikit-learn 1.7 asks of a newer SciPy.
    pytest.mark.filterwarnings("ignore:.*options of the L-BFGS-B solver are deprecated:DeprecationWarning"),
]

# Before 1.9 scikit-learn itself cannot stop early where labels are strings.
NAMES = ("large", "small") if parse_version(sklearn.__version__) >= parse_version("1.9") else (1, 0)

DIGITS, CLASSES = load_digits(return_X_y=True)
DIGITS, CLASSES = DIGITS[:600] / 16, CLASSES[:600]
TOPICS, TOPIC_LABELS = make_multilabel_classification(300, 20, n_classes=4, random_state=1)
DIABETES, PROGRESS = load_diabetes(return_X_y=True)
DIABETES, PROGRESS = DIABETES / DIABETES.std(axis=0), (PROGRESS - PROGRESS.mean()) / PROGRESS.std()

PROBLEMS = {
    "multiclass": (MLPClassifier, DIGITS, CLASSES),
    "binary": (MLPClassifier, DIGITS, np.where(CLASSES > 4, *NAMES)),
    "multilabel": (MLPClassifier, TOPICS / TOPICS.std(axis=0), TOPIC_LABELS),
    "regression": (MLPRegressor, DIABETES, PROGRESS),
    "two outputs": (MLPRegressor, DIABETES, np.stack([PROGRESS, DIABETES[:, 0]], axis=1)),
}

SETTINGS = [
    {},
    {"solver": "sgd", "learning_rate_init": 0.05},
    {"solver": "sgd", "nesterovs_momentum": False, "learning_rate": "invscaling", "learning_rate_init": 0.1},
    {"solver": "sgd", "momentum": 0.0, "learning_rate": "adaptive", "tol": 0.05, "n_iter_no_change": 2},
    {"hidden_layer_sizes": (30, 20), "activation": "tanh", "batch_size": 37, "alpha": 0.1},
    {"hidden_layer_sizes": (), "alpha": 0.0, "shuffle": False},
    {"activation": "logistic", "early_stopping": True, "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-6},
    {"activation": "identity", "early_stopping": True, "solver": "sgd", "validation_fraction": 0.3, "batch_size": 1000},
]

EPOCHS = 8


def theirs(ours):
    """scikit-learn's estimator with those parameters of ours that it has."""
    kind = getattr(neural_network, type(ours).__name__)
    return kind(**{name: value for name, value in ours.get_params().items() if name in kind().get_params()})


def fitted(problem, dtype="float64", sample_weight=None, **settings):
    """Ours and theirs, fitted alike, with the same warnings, which a filter on scikit-learn's modules finds."""
    kind, x, y = PROBLEMS[problem]
    ours = kind(**{"max_iter": EPOCHS, "random_state": 3} | settings)
    pair, told = (ours, theirs(ours)), []
    for estimator in pair:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            estimator.fit(x.astype(dtype), y, sample_weight)
        told.append([(each.category, str(each.message), each.filename) for each in caught])
    assert told[0] == told[1]
    return (*pair, x.astype(dtype))


def assert_follows(ours, theirs, steps):
    """The same decisions, and numbers apart by no more than what rounding does.

    Each step's gradient is off by the rounding of sums of a few hundred terms, far from cancelling: some 100 eps of the
    gradient's size. Adam's step is at most some learning rates long whatever the gradient's size, SGD's is proportional
    to it, so that a step moves a parameter by 100 eps of the step at most, and `steps` of them by 100 eps times what
    they have moved it, here less than 1. Parameters, losses and scores are of the size 1.
    """
    eps = np.finfo(ours.coefs_[0].dtype).eps
    bound = 100 * eps * steps
    for name in ("n_iter_", "t_", "n_layers_", "n_outputs_", "out_activation_", "_no_improvement_count"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=bound)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=bound)
    assert ours.loss_ == ours.loss_curve_[-1]
    if theirs.validation_scores_ is None:
        assert ours.validation_scores_ is None
        assert ours.best_loss_ == pytest.approx(theirs.best_loss_, rel=float(bound))
    else:
        np.testing.assert_allclose(ours.validation_scores_, theirs.validation_scores_, rtol=0, atol=bound)


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())) or "default")
def test_fit_follows_scikit_learn(problem, settings, dtype, caplog):
    caplog.set_level(logging.INFO, "fastmlp.sklearn")
    ours, reference, x = fitted(problem, dtype, **settings)
    assert "was accelerated" in caplog.text
    n = len(x)
    steps = EPOCHS * -(-n // (ours.batch_size if isinstance(ours.batch_size, int) else 200))
    assert_follows(ours, reference, steps)
    bound = 1000 * np.finfo(dtype).eps * steps
    if isinstance(ours, MLPRegressor):
        np.testing.assert_allclose(ours.predict(x), reference.predict(x), rtol=0, atol=bound)
        assert ours.predict(x).dtype == reference.predict(x).dtype
    else:
        p = reference.predict_proba(x)
        np.testing.assert_allclose(ours.predict_proba(x), p, rtol=0, atol=bound)
        assert ours.predict_proba(x).dtype == p.dtype
        differ = ours.predict(x) != reference.predict(x)
        assert not differ.any()
        assert ours.predict(x).dtype == reference.predict(x).dtype


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: "-".join(map(str, settings.values())) or "default")
def test_fit_of_weighted_samples_follows_scikit_learn(problem, settings, dtype, caplog):
    """The same bound: a step's gradient is still a sum of a few hundred terms over the sum of their weights."""
    caplog.set_level(logging.INFO, "fastmlp.sklearn")
    _, x, _ = PROBLEMS[problem]
    weights = np.random.default_rng(4).uniform(0.1, 2, len(x))
    weights[::7] = 0
    ours, reference, _ = fitted(problem, dtype, weights, **settings)
    assert "was accelerated" in caplog.text
    batch_size = ours.batch_size if isinstance(ours.batch_size, int) else 200
    assert_follows(ours, reference, EPOCHS * -(-len(x) // batch_size))


def test_weights_of_one_change_no_bit():
    ours = MLPClassifier((20,), max_iter=3, random_state=2)
    plain = clone(ours).fit(DIGITS, CLASSES)
    ours.fit(DIGITS, CLASSES, sample_weight=np.ones(len(DIGITS)))
    np.testing.assert_array_equal(ours.coefs_[0], plain.coefs_[0])


def test_a_batch_without_weight_is_scikit_learns_error():
    weights = np.repeat([1.0, 0.0], [400, 200])
    for kind in (MLPClassifier, neural_network.MLPClassifier):
        with pytest.raises(ZeroDivisionError, match="Weights sum to zero"):
            kind(max_iter=1, shuffle=False).fit(DIGITS, CLASSES, sample_weight=weights)


@pytest.mark.parametrize("problem", ["multiclass", "regression"])
@pytest.mark.parametrize(
    "settings",
    [
        {"tol": 0.02, "n_iter_no_change": 3, "learning_rate_init": 0.01},
        {"tol": 0.1, "n_iter_no_change": 1, "solver": "sgd", "learning_rate": "adaptive", "learning_rate_init": 0.05},
        {"tol": 0.1, "n_iter_no_change": np.inf, "max_iter": 30},
    ],
    ids=["stops", "slows down, then stops", "never stops"],
)
def test_training_ends_with_the_same_epoch(problem, settings):
    ours, reference, _ = fitted(problem, **{"max_iter": 400} | settings)
    assert ours.n_iter_ == reference.n_iter_ == len(ours.loss_curve_)
    assert 8 < ours.n_iter_ < 400
    np.testing.assert_allclose(ours.loss_curve_, reference.loss_curve_, rtol=1e-9)


@pytest.mark.parametrize(
    ("seconds", "calls", "epochs"), [(0.0, 130, 2), (1e9, 1, 6)], ids=["a step a call", "many epochs a call"]
)
def test_an_interrupted_fit_has_made_the_steps_that_it_counts(seconds, calls, epochs, monkeypatch):
    train, made = Engine.train, []

    def interrupted(*arguments):
        train(*arguments)
        made.append(len(arguments[8]))
        if len(made) == calls:
            signal.raise_signal(signal.SIGINT)

    ours = MLPClassifier((3,), batch_size=10, max_iter=100, n_iter_no_change=5, random_state=0)
    reference = clone(ours)
    monkeypatch.setattr(interrupt, "SECONDS_A_CALL", seconds)
    monkeypatch.setattr(Engine, "train", interrupted)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        ours.fit(DIGITS, CLASSES)
    monkeypatch.undo()
    assert len(made) == calls
    assert ours._optimizer.t == sum(made)
    assert ours.n_iter_ == len(ours.loss_curve_) == epochs
    reference.set_params(max_iter=epochs).fit(DIGITS, CLASSES)
    assert reference.loss_curve_ == ours.loss_curve_
    if sum(made) == 60 * epochs:
        np.testing.assert_array_equal(ours.coefs_[0], reference.coefs_[0])


def test_the_learning_goes_on_where_it_stopped(dtype):
    """partial_fit and warm_start: the optimiser's memory, its count and its rate stay scikit-learn's."""
    x = DIGITS.astype(dtype)
    ours = MLPClassifier((20,), random_state=1)
    reference = theirs(ours)
    for estimator in (ours, reference):
        for part in range(4):
            rows = slice(150 * part, 150 * part + 150)
            estimator.partial_fit(x[rows], CLASSES[rows], classes=range(10))
    assert_follows(ours, reference, 4)
    assert ours._optimizer.t == reference._optimizer.t == 4
    assert ours._optimizer.learning_rate == pytest.approx(reference._optimizer.learning_rate, rel=1e-15)
    for name in ("ms", "vs"):
        for a, b in zip(getattr(ours._optimizer, name), getattr(reference._optimizer, name), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=100 * np.finfo(dtype).eps)
    for estimator in (ours, reference):
        estimator.set_params(warm_start=True, max_iter=3)
        estimator.fit(x, CLASSES).fit(x, CLASSES)
    assert_follows(ours, reference, 4 + 2 * 3 * 3)


@pytest.mark.parametrize(
    ("settings", "x", "reason"),
    [
        (
            {"solver": "lbfgs"},
            scipy.sparse.hstack([DIGITS, scipy.sparse.csr_array((600, 3000))], "csr"),
            "X is sparse, with 3064 features",
        ),
        (
            {},
            scipy.sparse.hstack([DIGITS, scipy.sparse.csr_array((600, 3000))], "csr"),
            "X is sparse, with 3064 features",
        ),
    ],
)
def test_what_is_not_covered_runs_scikit_learns_code_and_is_logged(settings, x, reason, caplog):
    caplog.set_level(logging.INFO, "fastmlp.sklearn")
    ours = MLPClassifier((20,), max_iter=4, random_state=2, **settings)
    reference = theirs(ours).fit(x, CLASSES)
    ours.fit(x, CLASSES)
    assert reason in caplog.text
    assert "runs scikit-learn's code" in caplog.text
    for a, b in zip(ours.coefs_, reference.coefs_, strict=True):
        np.testing.assert_array_equal(a, b)
    # Predictions of a dense x are ours all the same.
    rows = sparse.dense(x)
    np.testing.assert_allclose(ours.predict_proba(rows), reference.predict_proba(rows), rtol=0, atol=1e-13)
    np.testing.assert_allclose(ours.predict_proba(x), reference.predict_proba(x), rtol=0, atol=1e-13)


LBFGS = {
    "default": {},
    "no hidden layer": {"hidden_layer_sizes": (), "alpha": 0.0},
    "two": {"hidden_layer_sizes": (30, 20), "activation": "tanh", "alpha": 0.1},
    "wide": {"hidden_layer_sizes": (150,), "activation": "logistic", "alpha": 3.0},
    "poisson": {"loss": "poisson", "activation": "tanh"},
}


def assert_follows_lbfgs(ours, theirs, dtype):
    """Half of the digits: L-BFGS divides by differences of gradients, and so enlarges their rounding step by step.

    A wrong formula agrees in one or two.
    """
    digits = float(np.sqrt(np.finfo(dtype).eps))
    for name in ("n_iter_", "n_layers_", "out_activation_"):
        assert getattr(ours, name) == getattr(theirs, name), name
    for a, b in zip(ours.coefs_ + ours.intercepts_, theirs.coefs_ + theirs.intercepts_, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=0, atol=digits)
    assert ours.loss_ == pytest.approx(theirs.loss_, rel=digits)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("problem", "name"),
    [(problem, name) for problem in PROBLEMS for name in LBFGS if name != "poisson" or problem == "regression"],
)
def test_lbfgs_follows_scikit_learn(problem, name, weighted, dtype, caplog):
    caplog.set_level(logging.INFO, "fastmlp.sklearn")
    kind, x, y = PROBLEMS[problem]
    if name == "poisson":
        y = np.exp(y)
    ours = kind(solver="lbfgs", max_iter=6, random_state=3, **LBFGS[name])
    reference, x = theirs(ours), x.astype(dtype)
    weights = np.linspace(1, 3, len(x)) if weighted else None
    for estimator in (ours, reference):
        estimator.fit(x, y, weights)
    assert "was accelerated: 6 iterations" in caplog.text
    assert_follows_lbfgs(ours, reference, dtype)
    np.testing.assert_allclose(ours._forward_pass_fast(x), reference._forward_pass_fast(x), rtol=0, atol=1e-2)


def test_lbfgs_goes_on_from_where_it_was_and_from_where_an_error_left_it(monkeypatch):
    ours = MLPClassifier((20,), solver="lbfgs", max_iter=3, warm_start=True, random_state=3)
    reference = theirs(ours)
    for estimator in (ours, reference):
        estimator.fit(DIGITS, CLASSES).fit(DIGITS, CLASSES)
    assert_follows_lbfgs(ours, reference, np.float64)
    evaluate, calls, before = Objective.__call__, [], ours.coefs_[0].copy()

    def interrupted(self, *parameters):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return evaluate(self, *parameters)

    with monkeypatch.context() as patched:
        patched.setattr(Objective, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ours.fit(DIGITS, CLASSES)
    assert np.isfinite(ours.coefs_[0]).all()
    assert (ours.coefs_[0] != before).any()
    assert ours.fit(DIGITS, CLASSES).loss_ < reference.loss_


def test_lbfgs_recovers_from_a_step_to_where_numbers_end(rng):
    """As SciPy's line search does; of no evaluation anything stays that is not finite."""
    x, y = rng.normal(size=(40, 3)), np.exp(rng.normal(size=40))
    objective = Objective(["relu"], "exp", "poisson", 0.1, x, y[:, np.newaxis], None)
    shapes, at = ((3, 5), (5, 1)), rng.normal(size=(2, 5, 5)) / 3
    coefs, intercepts = [at[0][: a[0], : a[1]].copy() for a in shapes], [at[1][0, : a[1]].copy() for a in shapes]
    value, gradient = objective(coefs, intercepts)
    with np.errstate(all="ignore"):
        worst, _ = objective([1e200 * w for w in coefs], intercepts)
    assert not np.isfinite(worst)
    again, gradient_again = objective(coefs, intercepts)
    assert value == again
    np.testing.assert_array_equal(gradient, gradient_again)
    numeric = [
        (objective(_moved(coefs, i, 1e-6), intercepts)[0] - objective(_moved(coefs, i, -1e-6), intercepts)[0]) / 2e-6
        for i in range(3)
    ]
    np.testing.assert_allclose(gradient[:3], numeric, rtol=1e-5, atol=1e-8)


def _moved(coefs, i, step):
    first = coefs[0].copy()
    first[0, i] += step
    return [first, coefs[1]]


def blas_threads():
    return [library["num_threads"] for library in threadpoolctl.threadpool_info() if library["user_api"] == "blas"]


def test_lbfgs_gives_blas_its_threads_back(monkeypatch):
    """After fits that overlap, the first one ending first, and after an error."""
    before, seen, inside, left = blas_threads(), [], threading.Event(), threading.Event()

    def overlap():
        with one_threaded_blas():
            inside.set()
            left.wait()

    other = threading.Thread(target=overlap)
    with one_threaded_blas():
        seen.append(blas_threads())
        other.start()
        inside.wait()
    assert blas_threads() == before
    left.set()
    other.join()
    assert blas_threads() == before

    def failing(self, *parameters):
        seen.append(blas_threads())
        raise ZeroDivisionError

    monkeypatch.setattr(Objective, "__call__", failing)
    with pytest.raises(ZeroDivisionError):
        MLPClassifier((20,), solver="lbfgs").fit(DIGITS, CLASSES)
    assert blas_threads() == before
    assert seen == [[1] * len(before)] * 2


@pytest.mark.parametrize("kind", ["csr_array", "csc_matrix", "coo_array"])
@pytest.mark.parametrize("settings", [{}, {"early_stopping": True}, {"solver": "sgd", "batch_size": 7}], ids=str)
def test_sparse_samples_are_followed_seed_for_seed(settings, kind, dtype, caplog):
    caplog.set_level(logging.INFO, "fastmlp.sklearn")
    x = getattr(scipy.sparse, kind)(np.where(DIGITS > 0.5, DIGITS, 0).astype(dtype))
    ours = MLPClassifier((20,), max_iter=EPOCHS, random_state=2, **settings)
    reference = theirs(ours)
    for estimator in (ours, reference):
        estimator.fit(x, CLASSES)
        if not estimator.early_stopping:
            estimator.partial_fit(x.tocsr()[:300], CLASSES[:300])
    assert "runs scikit-learn's code" not in caplog.text
    assert_follows(ours, reference, (EPOCHS + 1) * -(-600 // settings.get("batch_size", 200)))
    predicted = ours.predict_proba(x)
    assert predicted.dtype == np.dtype(dtype)
    np.testing.assert_allclose(predicted, reference.predict_proba(x), rtol=0, atol=100 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(predicted, ours.predict_proba(x.toarray()))


def test_sparse_samples_stay_sparse_where_a_dense_copy_is_slow_or_large():
    def why(n, k, stored):
        return sparse.why_left_sparse(scipy.sparse.random_array((n, k), density=stored, format="csr"))

    assert why(40, 512, 0.001) is None
    assert "3000 features of which 0.1 are" in why(40, 3000, 0.1)
    assert why(40, 3000, 0.4) is None
    assert why(2**16, 512, 1e-6) is None
    assert "257 MiB" in why(2**16 + 256, 512, 1e-6)


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("settings", [{}, {"solver": "sgd", "learning_rate_init": 0.01}, {"early_stopping": True}])
def test_poisson_follows_scikit_learn(settings, weighted, dtype, caplog):
    if "loss" not in neural_network.MLPRegressor().get_params():
        pytest.skip("this scikit-learn has no poisson loss")
    caplog.set_level(logging.INFO, "fastmlp.sklearn")
    counts = np.random.default_rng(1).poisson(2, len(DIABETES))
    weights = np.linspace(0.5, 2, len(DIABETES)) if weighted else None
    ours = MLPRegressor(loss="poisson", max_iter=EPOCHS, random_state=0, **settings)
    reference = theirs(ours)
    for estimator in (ours, reference):
        estimator.fit(DIABETES.astype(dtype), counts, weights)
    assert "was accelerated" in caplog.text
    assert_follows(ours, reference, EPOCHS * 3)
    bound = 1000 * np.finfo(dtype).eps * EPOCHS * 3
    x = DIABETES.astype(dtype)
    np.testing.assert_allclose(ours.predict(x), reference.predict(x), rtol=bound)


def test_a_named_backend_that_cannot_run_is_an_error(monkeypatch):
    monkeypatch.setenv("FASTMLP_BACKEND", "cuda")
    with pytest.raises(BackendUnavailable, match="'cuda' cannot run here"):
        MLPClassifier(max_iter=1).fit(DIGITS, CLASSES)


def test_the_reference_backend_can_be_named(monkeypatch):
    monkeypatch.setenv("FASTMLP_BACKEND", "numpy")
    ours, reference, _ = fitted("multiclass")
    assert_follows(ours, reference, EPOCHS * 3)


@pytest.mark.parametrize(
    ("granted", "asked", "expected"), [("1", None, 1), ("1", "2", 2), ("5", None, 3), ("x", None, 3)]
)
def test_threads_keep_to_what_joblib_grants(monkeypatch, granted, asked, expected):
    seen = []
    train = Engine.train

    def spy(*arguments):
        seen.append(fastmlp.get_num_threads())
        return train(*arguments)

    monkeypatch.setattr(Engine, "train", spy)
    monkeypatch.setenv("OMP_NUM_THREADS", granted)
    monkeypatch.delenv("FASTMLP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("FASTMLP_NUM_THREADS", asked)
    fastmlp.set_num_threads(int(asked or 3))
    try:
        MLPClassifier((5,), max_iter=1).fit(DIGITS, CLASSES)
    finally:
        fastmlp.set_num_threads(None)
    assert set(seen) == {expected}


def test_predictions_follow_the_coefficients_that_a_user_sets():
    ours = MLPRegressor(hidden_layer_sizes=5, max_iter=2, random_state=0).fit(DIABETES, PROGRESS)
    before = ours.predict(DIABETES)
    ours.intercepts_[-1][:] += 1
    np.testing.assert_allclose(ours.predict(DIABETES), before + 1, rtol=0, atol=1e-14)
    ours.intercepts_[-1] = ours.intercepts_[-1] + 1
    np.testing.assert_allclose(ours.predict(DIABETES), before + 2, rtol=0, atol=1e-14)


def test_a_new_fit_leaves_the_arrays_of_the_last_one_alone():
    ours = MLPRegressor(hidden_layer_sizes=5, max_iter=2, random_state=0).fit(DIABETES, PROGRESS)
    kept = ours.coefs_[0]
    before = kept.copy()
    ours.set_params(random_state=1).fit(DIABETES, PROGRESS)
    np.testing.assert_array_equal(kept, before)
    assert (ours.coefs_[0] != before).any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))], ids=["deepcopy", "pickle"])
def test_copies_predict_and_learn_on_alone(copied):
    ours = MLPClassifier((7,), max_iter=2, random_state=0).fit(DIGITS, CLASSES)
    other = copied(ours)
    assert other.get_params() == ours.get_params()
    np.testing.assert_array_equal(other.predict_proba(DIGITS), ours.predict_proba(DIGITS))
    before = ours.coefs_[0].copy()
    other.partial_fit(DIGITS, CLASSES)
    np.testing.assert_array_equal(ours.coefs_[0], before)
    ours.partial_fit(DIGITS, CLASSES)
    np.testing.assert_array_equal(other.coefs_[0], ours.coefs_[0])
    assert not hasattr(clone(ours), "coefs_")


@pytest.mark.parametrize(
    "bad", [[[np.nan] * 64], np.ones((3, 63)), np.ones(64), np.full((1, 64), np.inf), np.ones((0, 64)), "text", None]
)
def test_bad_input_raises_what_scikit_learn_raises(bad):
    ours, reference, _ = fitted("multiclass", max_iter=1)
    with pytest.raises(Exception) as expected:
        reference.predict(bad)
    with pytest.raises(type(expected.value)) as raised:
        ours.predict(bad)
    assert str(raised.value) == str(expected.value)


@pytest.mark.parametrize("method", ["predict", "predict_proba"])
def test_an_unfitted_estimator_says_so(method):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        getattr(MLPClassifier(), method)(DIGITS)


def test_any_array_scikit_learn_takes_is_taken():
    ours, reference, x = fitted("multiclass")
    whole = np.round(16 * x)
    for each in (x[:, ::-1], np.asfortranarray(x), x.astype("f4"), whole.astype(int), whole.astype("u1"), x.tolist()):
        np.testing.assert_allclose(ours.predict_proba(each), reference.predict_proba(each), rtol=0, atol=1e-12)
    float32 = fitted("multiclass", "float32")
    for each in (x, whole.astype(int)):
        got, expected = (estimator.predict_proba(each) for estimator in float32[:2])
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)


def test_divergence_raises_scikit_learns_error():
    with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"), np.errstate(all="ignore"):
        MLPRegressor(solver="sgd", learning_rate_init=1e9, max_iter=9, random_state=0).fit(1e9 * DIABETES, PROGRESS)


def test_verbose_prints_what_scikit_learn_prints(capsys):
    lines = []
    for kind in (MLPClassifier, neural_network.MLPClassifier):
        kind((5,), verbose=True, random_state=0, early_stopping=True, tol=1.0, n_iter_no_change=1).fit(DIGITS, CLASSES)
        lines.append(capsys.readouterr().out)
    assert lines[0] == lines[1]
    assert "Validation score did not improve more than tol=1.000000 for 1 consecutive epochs. Stopping." in lines[0]


@pytest.mark.parametrize("backend", ["loky", "threading"])
def test_searches_in_parallel_find_the_same(backend):
    joblib = pytest.importorskip("joblib")
    found = []
    for kind in (MLPClassifier, neural_network.MLPClassifier):
        pipeline = make_pipeline(StandardScaler(), kind((10,), max_iter=3, random_state=0))
        search = GridSearchCV(pipeline, {"mlpclassifier__alpha": [1e-4, 10.0]}, cv=3, n_jobs=2)
        with joblib.parallel_backend(backend), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            search.fit(DIGITS, CLASSES)
        found.append(search)
    assert found[0].best_params_ == found[1].best_params_
    ours, reference = (search.cv_results_["mean_test_score"] for search in found)
    np.testing.assert_allclose(ours, reference, rtol=0, atol=1e-12)
    assert hasattr(found[0].best_estimator_[-1], "_engine")


def _fit_in_child(seed):
    ours = MLPClassifier((200,), max_iter=2, random_state=seed).fit(DIGITS, CLASSES)
    return ours.loss_, ours.predict_proba(DIGITS[:5])


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_processes_fit_and_find_the_same():
    here = [_fit_in_child(seed) for seed in range(3)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map_async(_fit_in_child, range(3)).get(timeout=60)
    for (loss, p), (other_loss, other_p) in zip(here, there, strict=True):
        assert loss == other_loss
        np.testing.assert_array_equal(p, other_p)
