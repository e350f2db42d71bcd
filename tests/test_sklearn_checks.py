"""Input that fastmlp.sklearn takes without scikit-learn's checks ends as it does after them, and is taken so."""

import warnings

import numpy as np
import pytest

sklearn = pytest.importorskip("sklearn")

from sklearn import neural_network  # noqa: E402
from sklearn.metrics import accuracy_score, r2_score  # noqa: E402
from sklearn.neural_network import _multilayer_perceptron  # noqa: E402

from fastmlp.sklearn import MLPClassifier, MLPRegressor, checks  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.default_rng(0)
N = 30
X = RNG.standard_normal((N, 3))
THREE = np.arange(N) % 3
COLOURS = np.array(["red", "green", "blue"])

LABELS = {
    "three integers": THREE,
    "far apart": np.array([-7, 0, 300], np.int16)[THREE],
    "unsigned": THREE.astype(np.uint8),
    "two integers": THREE % 2 + 4,
    "one class": np.full(N, 5),
    "booleans": THREE == 1,
    "strings": COLOURS[THREE],
    "two strings": COLOURS[THREE % 2],
    "a class for every sample": np.arange(N),
    "a class for every second sample": np.arange(N) % (N // 2),
    "other byte order": THREE.astype(">i8"),
    "whole floats": THREE.astype(float),
    "fractions": THREE / 2,
    "objects": COLOURS[THREE].astype(object),
    "a list": THREE.tolist(),
    "a column": THREE[:, np.newaxis],
    "labels of three topics": RNG.integers(0, 2, (N, 3)),
    "two columns of classes": np.stack([THREE, THREE], axis=1),
    "too few": THREE[:-1],
    "none": None,
}

SAMPLES = {
    "float64": X,
    "float32": X.astype(np.float32),
    "columns": np.asfortranarray(X),
    "every second row of": np.repeat(X, 2, axis=0)[::2],
    "other byte order": X.astype(">f8"),
    "float16": X.astype(np.float16),
    "integers": X.astype(int),
    "a list": X.tolist(),
    "NaN": np.where(X[3, 1] == X, np.nan, X),
    "Inf": np.where(X[3, 1] == X, np.inf, X),
    "one more column": np.hstack([X, X[:, :1]]),
    "no column": X[:, :0],
    "no row": X[:0],
    "one dimension": X[:, 0],
}

TARGETS = {
    "float64": X[:, 0],
    "float32": X[:, 0].astype(np.float32),
    "integers": THREE,
    "two outputs": X[:, :2],
    "a column": X[:, :1],
    "NaN": np.where(X[:, 0] == X[3, 0], np.nan, X[:, 0]),
    "objects": X[:, 0].astype(object),
    "booleans": THREE == 1,
    "too many": np.append(X[:, 0], 0.0),
    "three dimensions": X[:, :2, np.newaxis],
}


def state(estimator):
    """What checks leave in an estimator."""
    held = {name: getattr(estimator, name, None) for name in ("classes_", "n_features_in_", "feature_names_in_")}
    binarizer = getattr(estimator, "_label_binarizer", None)
    return held | ({} if binarizer is None else vars(binarizer))


def outcome(call):
    """What it gives and warns, or raises."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = call()
        except Exception as error:
            result = type(error), str(error)
    return result, [(each.category, str(each.message)) for each in caught]


def assert_same(ours, theirs):
    """Equal in value, type and dtype, whatever they hold."""
    assert type(ours) is type(theirs)
    if isinstance(ours, dict):
        assert_same(list(ours.items()), list(theirs.items()))
    elif isinstance(ours, list | tuple):
        assert len(ours) == len(theirs)
        for pair in zip(ours, theirs, strict=True):
            assert_same(*pair)
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    else:
        assert ours == theirs or (ours != ours and theirs != theirs)  # NaN


def pair(kind, **settings):
    return kind(**settings), getattr(neural_network, kind.__name__)(**settings)


def validated(estimators, x, y, incremental=False, reset=True):
    """What each's validation gives, leaves and says."""
    return [
        (outcome(lambda each=each: each._validate_input(x, y, incremental, reset)), state(each)) for each in estimators
    ]


@pytest.mark.parametrize("y", LABELS.values(), ids=LABELS.keys())
def test_labels_are_taken_as_scikit_learn_takes_them(y):
    assert_same(*validated(pair(MLPClassifier), X, y))


@pytest.mark.parametrize("x", SAMPLES.values(), ids=SAMPLES.keys())
@pytest.mark.parametrize("later", [False, True], ids=["first", "later"])
def test_samples_are_taken_as_scikit_learn_takes_them(x, later):
    estimators = pair(MLPClassifier)
    if later:
        validated(estimators, X, THREE)
    assert_same(*validated(estimators, x, THREE[: len(x)], later, not later))


@pytest.mark.parametrize("y", TARGETS.values(), ids=TARGETS.keys())
def test_targets_are_taken_as_scikit_learn_takes_them(y):
    assert_same(*validated(pair(MLPRegressor), X, y))


@pytest.mark.parametrize("y", LABELS.values(), ids=LABELS.keys())
@pytest.mark.parametrize(
    "first", ["three integers", "unsigned", "two integers", "booleans", "strings", "labels of three topics"]
)
@pytest.mark.parametrize("warm_start", [False, True], ids=["partial_fit", "warm_start"])
def test_later_labels_are_held_against_the_first(first, y, warm_start):
    estimators = pair(MLPClassifier, warm_start=warm_start)
    validated(estimators, X, LABELS[first])
    assert_same(*validated(estimators, X, y, incremental=not warm_start, reset=False))
    few = (X[:2], None if y is None else y[:2])
    assert_same(*validated(estimators, *few, incremental=not warm_start, reset=False))


def test_feature_names_are_heeded():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=["a", "b", "c"])
    estimators = pair(MLPClassifier)
    for x, reset in (frame, True), (X, False), (X, True), (X, False):
        assert_same(*validated(estimators, x, THREE, reset=reset))


@pytest.mark.parametrize(
    "classes", [[0, 1, 2], np.array([2, 1, 0]), np.arange(4), np.arange(2), None, np.arange(3.0), COLOURS, "012"]
)
def test_partial_fit_holds_classes_against_the_first(classes):
    def again(estimator):
        estimator.partial_fit(X, THREE, classes=np.arange(3))
        return outcome(lambda: estimator.partial_fit(X, THREE, classes=classes).t_)

    assert_same(*map(again, pair(MLPClassifier, random_state=0)))


@pytest.mark.parametrize("classes", [None, [0, 1, 2], np.arange(3)])
def test_the_first_partial_fit_asks_for_classes(classes):
    assert_same(
        *(
            outcome(lambda each=each: each.partial_fit(X, THREE, classes=classes).classes_)
            for each in pair(MLPClassifier, random_state=0)
        )
    )


def test_partial_fit_is_not_there_for_lbfgs():
    assert not any(hasattr(each, "partial_fit") for each in pair(MLPClassifier, solver="lbfgs"))


def test_plain_input_is_looked_at_once(monkeypatch):
    """None of scikit-learn's checks, which take longer than training on a few rows, is made."""
    for name in ("validate_data", "unique_labels", "type_of_target", "LabelBinarizer", "accuracy_score", "r2_score"):
        monkeypatch.setattr(_multilayer_perceptron, name, None)
    monkeypatch.setattr("sklearn.utils.multiclass.unique_labels", None)
    monkeypatch.setattr(checks, "accuracy_score", None)
    monkeypatch.setattr(checks, "r2_score", None)
    classes = np.arange(3)
    model = MLPClassifier(max_iter=2).fit(X, THREE)
    model.partial_fit(X[:1], THREE[:1], classes=classes).partial_fit(X, THREE, classes=classes)
    assert 0 <= model.score(X, THREE) <= 1
    MLPClassifier(max_iter=2, warm_start=True).fit(X, COLOURS[THREE]).fit(X, COLOURS[THREE])
    model = MLPRegressor(max_iter=2, early_stopping=True).fit(X, X[:, 0])
    assert model.score(X, X[:, 0]) <= 1
    MLPRegressor(max_iter=2).fit(X, X[:, 0]).partial_fit(X[:1], X[:1, 0])


@pytest.mark.parametrize(
    "y",
    [
        THREE,
        THREE + 1,
        np.arange(N),
        THREE.astype(np.int32),
        THREE.astype(float),
        THREE.tolist(),
        THREE[:, np.newaxis],
        THREE[:-1],
        COLOURS[THREE],
    ],
    ids=["right", "one unknown", "many unknown", "int32", "floats", "a list", "a column", "too few", "strings"],
)
@pytest.mark.parametrize("weights", [None, np.linspace(0, 1, N)], ids=["alike", "weighed"])
def test_accuracy_is_scikit_learns(y, weights):
    predicted = np.roll(THREE, 1) % 2
    ours = outcome(lambda: checks.accuracy(np.arange(3), y, predicted, weights))
    assert_same(ours, outcome(lambda: accuracy_score(y, predicted, sample_weight=weights)))


def test_accuracy_of_topics_is_scikit_learns():
    y = LABELS["labels of three topics"]
    model = MLPClassifier(max_iter=2, random_state=0).fit(X, y)
    assert model.score(X, y) == accuracy_score(y, model.predict(X))


PROGRESS = np.random.default_rng(1).standard_normal(997)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("n", [1, 2, 30, 997])
@pytest.mark.parametrize("weighed", [False, True], ids=["alike", "weighed"])
@pytest.mark.parametrize(
    "change",
    [
        lambda y: y,
        lambda y: y[:, np.newaxis],
        lambda y: y.tolist(),
        lambda y: y.astype("float32"),
        lambda y: y.astype(">f8"),
        lambda y: np.full_like(y, 0.3),
        lambda y: np.where(y == y[0], np.nan, y),
        lambda y: np.stack([y, y], axis=1),
        lambda y: y[1:],
    ],
    ids=["plain", "column", "list", "float32", "other byte order", "constant", "NaN", "two outputs", "too few"],
)
def test_r_squared_is_scikit_learns_to_the_bit(change, weighed, n, dtype):
    predicted = (PROGRESS[:n] + 0.1 * np.sin(np.arange(n))).astype(dtype)
    y = change(PROGRESS[:n].astype(dtype))
    weights = np.linspace(0.5, 1, n) if weighed else None
    ours = outcome(lambda: checks.r_squared(y, predicted, weights))
    assert_same(ours, outcome(lambda: r2_score(y, predicted, sample_weight=weights)))


def test_r_squared_of_what_is_met_or_missed_wholly_is_scikit_learns():
    y, missing = PROGRESS[:5], np.full(5, np.inf)
    for predicted in (y, missing, np.stack([y, y], axis=1)):
        ours = outcome(lambda predicted=predicted: checks.r_squared(y, predicted, None))
        assert_same(ours, outcome(lambda predicted=predicted: r2_score(y, predicted)))
