"""What a network will not take: a typed error that names the argument, what came and what would do; nothing written."""

import layouts
import numpy as np
import pytest
import scipy.sparse

from fastmlp import MLP, ArgumentError, DTypeError, FastMLPError, ShapeError

N, IN, OUT = 6, 4, 3


def samples(dtype=np.float32):
    rng = np.random.default_rng(3)
    return rng.standard_normal((N, IN)).astype(dtype), rng.standard_normal((N, OUT)).astype(dtype)


BAD_SETTINGS = [
    ({"layers": ()}, ArgumentError, r"layers must hold at least an input and an output width.*got \(\)"),
    ({"layers": (4,)}, ArgumentError, r"layers must hold at least an input and an output width.*got \(4,\)"),
    ({"layers": 4}, DTypeError, "layers must be a sequence of widths.*got 4"),
    ({"layers": "43"}, DTypeError, "layers must be a sequence of widths.*got '43'"),
    ({"layers": None}, DTypeError, "layers must be a sequence of widths.*got None"),
    ({"layers": (4, 0, 3)}, ArgumentError, r"layers\[1\] must be .*got 0"),
    ({"layers": (4, -2, 3)}, ArgumentError, r"layers\[1\] must be .*got -2"),
    ({"layers": (4, 2.0, 3)}, ArgumentError, r"layers\[1\] must be .*got 2.0"),
    ({"layers": (4, True, 3)}, ArgumentError, r"layers\[1\] must be .*got True"),
    ({"layers": (4, "2", 3)}, ArgumentError, r"layers\[1\] must be .*got '2'"),
    ({"activation": "rellu"}, ArgumentError, "activation must be one of .*got 'rellu'. Did you mean 'relu'"),
    ({"activation": ("relu", "tan")}, ArgumentError, r"activation\[1\] must be .*Did you mean 'tanh'"),
    ({"activation": ("relu",) * 4}, ArgumentError, "activation must be one name, or 2 .* or 3 .*got 4"),
    ({"activation": ()}, ArgumentError, "activation must be one name, or 2 .*got 0"),
    ({"activation": 3}, DTypeError, "activation must be a name or a sequence of names; got 3"),
    ({"activation": None}, DTypeError, "activation must be a name or a sequence of names; got None"),
    ({"activation": ("relu",) * 3, "output_activation": "tanh"}, ArgumentError, "output_activation must be left out"),
    ({"output_activation": "sigmoids"}, ArgumentError, "output_activation must be .*Did you mean 'sigmoid'"),
    ({"loss": "mae"}, ArgumentError, "loss must be one of .*got 'mae'"),
    ({"loss": "crossentropy"}, ArgumentError, "Did you mean 'cross_entropy'"),
    ({"loss": "cross_entropy", "output_activation": "sigmoid"}, ArgumentError, "output_activation must be 'identity'"),
    ({"loss": "binary_cross_entropy", "activation": ("relu",) * 3}, ArgumentError, "takes logits; got 'relu'"),
    ({"optimizer": "Adam"}, ArgumentError, "optimizer must be one of .*got 'Adam'. Did you mean 'adam'"),
    ({"dtype": "float8"}, ArgumentError, "dtype must be one of .*got 'float8'"),
    ({"dtype": "double precision"}, ArgumentError, "dtype must be one of"),
    ({"dtype": None}, ArgumentError, "dtype must be one of .*got None"),
    ({"dtype": int}, ArgumentError, "dtype must be one of .*got 'int64'"),
    ({"backend": "numpi"}, ArgumentError, "backend must be one of .*Did you mean 'numpy'"),
    ({"seed": -1}, ArgumentError, "seed must be .*got -1"),
    ({"seed": 1.0}, ArgumentError, "seed must be .*got 1.0"),
    ({"seed": "1"}, ArgumentError, "seed must be .*got '1'"),
    ({"l2": -1e-3}, ArgumentError, "l2 must be .*got -0.001"),
    ({"momentum": 1.5}, ArgumentError, "momentum must be .*got 1.5"),
    ({"beta1": 1.0}, ArgumentError, "beta1 must be .*got 1.0"),
    ({"beta2": -0.1}, ArgumentError, "beta2 must be .*got -0.1"),
    ({"epsilon": 0.0}, ArgumentError, "epsilon must be .*got 0.0"),
    ({"learning_rate": 1e39, "dtype": "float64"}, ArgumentError, r"learning_rate .*above 0 and at most 3.4028235e\+38"),
    ({"layers": (2**40, 2**40)}, ArgumentError, r"layers must make less than 2\*\*48 parameters; got .*, which make"),
]


@pytest.mark.parametrize(("settings", "error", "words"), BAD_SETTINGS)
def test_settings(settings, error, words):
    with pytest.raises(error, match=words) as caught:
        MLP(**{"layers": (IN, 5, 5, OUT), "backend": "numpy", **settings})
    assert isinstance(caught.value, FastMLPError)


@pytest.mark.parametrize("value", [0, -0.1, np.nan, np.inf, -np.inf, "0.1", None, True, 1j, [0.1]])
def test_learning_rates(value):
    with pytest.raises(ArgumentError, match="learning_rate must be"):
        MLP((IN, OUT), learning_rate=value, backend="numpy")
    net = MLP((IN, OUT), learning_rate=0.5, backend="numpy")
    with pytest.raises(ArgumentError, match="learning_rate must be"):
        net.learning_rate = value
    assert net.learning_rate == 0.5


def masked(array):
    return np.ma.masked_array(array, np.zeros(array.shape, bool))


BAD_X = [
    ("a vector", lambda x: x[0], ShapeError, r"x must have shape \(n, 4\).*got \(4,\).*x\[None, :\]"),
    ("rank 3", lambda x: x[None], ShapeError, r"x must have shape \(n, 4\).*got \(1, 6, 4\)"),
    ("a number", lambda x: 1.0, ShapeError, r"x must have shape \(n, 4\).*got \(\)"),
    ("inner dimension", lambda x: x[:, :3], ShapeError, r"x must have shape \(n, 4\).*got \(6, 3\)"),
    ("ragged", lambda x: [[1, 2, 3, 4], [1, 2]], ShapeError, "x must be a rectangular array"),
    ("complex", lambda x: x + 0j, DTypeError, "x must hold booleans, integers or floats; got dtype complex64.*x.real"),
    ("objects", lambda x: x.astype(object), DTypeError, "x must hold .*got dtype object"),
    ("text", lambda x: x.astype(str), DTypeError, "x must hold .*got dtype <U"),
    ("dates", lambda x: x.astype("M8[s]"), DTypeError, "x must hold .*got dtype datetime64"),
    ("masked", masked, DTypeError, "x is a masked array.*filled"),
    ("sparse matrix", scipy.sparse.csr_matrix, DTypeError, "x is a sparse matrix.*toarray"),
    ("sparse array", scipy.sparse.coo_array, DTypeError, "x is a sparse matrix.*toarray"),
    ("beyond float32", lambda x: np.full((N, IN), 1e300), DTypeError, r"x\[0, 0\] is 1e\+300, which float32 cannot"),
    ("integers not held", lambda x: np.full((N, IN), 2**24 + 1), DTypeError, "16777217, which float32 cannot hold"),
    ("None", lambda x: None, DTypeError, "x must be an array of .*got NoneType"),
    ("a generator", iter, DTypeError, r"x must be an array of .*got \w*iterator.*np.array\(list\(x\)"),
]

BAD_Y = [
    ("too few rows", lambda y: y[:5], ShapeError, r"y must have shape \(6, 3\).*got \(5, 3\)"),
    ("inner dimension", lambda y: y[:, :2], ShapeError, r"y must have shape \(6, 3\).*got \(6, 2\)"),
    ("rank 1", lambda y: y[:, 0], ShapeError, r"y must have shape \(6, 3\).*got \(6,\)"),
    ("NaN", lambda y: np.where(y == y[2, 1], np.nan, y), ArgumentError, r"y must be finite.*\[2, 1\] is nan"),
    ("infinite", lambda y: np.where(y == y[2, 1], np.inf, y), ArgumentError, r"y must be finite.*\[2, 1\] is inf"),
    ("masked", masked, DTypeError, "y is a masked array"),
    ("sparse", scipy.sparse.csr_array, DTypeError, "y is a sparse matrix"),
    ("objects", lambda y: y.astype(object), DTypeError, "y must hold"),
    ("complex", lambda y: y + 0j, DTypeError, "y must hold"),
]

CALLS = {
    "train_step": lambda net, x, y: net.train_step(x, y),
    "fit": lambda net, x, y: net.fit(x, y, epochs=1),
    "loss": lambda net, x, y: net.loss(x, y),
    "gradients": lambda net, x, y: net.gradients(x, y),
    "predict": lambda net, x, y: net.predict(x),
}


def refused(net, call, x, y, error, words):
    before = net.parameters.tobytes(), net.optimizer_state.tobytes(), net.updates, net.random_state
    with pytest.raises(error, match=words):
        CALLS[call](net, x, y)
    assert (net.parameters.tobytes(), net.optimizer_state.tobytes(), net.updates, net.random_state) == before


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("make", "error", "words"), [case[1:] for case in BAD_X], ids=[case[0] for case in BAD_X])
def test_samples(call, make, error, words):
    x, y = samples()
    refused(MLP((IN, 5, OUT), optimizer="adam", backend="numpy"), call, make(x), y, error, words)


@pytest.mark.parametrize("call", [call for call in CALLS if call != "predict"])
@pytest.mark.parametrize(("make", "error", "words"), [case[1:] for case in BAD_Y], ids=[case[0] for case in BAD_Y])
def test_targets(call, make, error, words):
    x, y = samples()
    refused(MLP((IN, 5, OUT), optimizer="adam", backend="numpy"), call, x, make(y), error, words)


@pytest.mark.parametrize("call", [call for call in CALLS if call != "predict"])
@pytest.mark.parametrize(
    ("loss", "y", "error", "words"),
    [
        ("cross_entropy", [0, 1, 2, 3, 0, 1], ArgumentError, r"y must hold labels from 0 to 2; .*\[3\] is 3"),
        ("cross_entropy", [0, 1, 2, -1, 0, 1], ArgumentError, r"y must hold labels from 0 to 2; .*\[3\] is -1"),
        ("cross_entropy", [0.0, 1, 2, 0, 0, 1], DTypeError, "must be integer labels; got float64"),
        ("cross_entropy", [0, 1, 2, 0, 0], ShapeError, "y must hold 6 labels"),
        ("cross_entropy", np.ones((6, 3)), ArgumentError, "each row of y must add up to 1"),
        ("cross_entropy", np.tile([2.0, -1, 0], (6, 1)), ArgumentError, "y must hold probabilities"),
        ("binary_cross_entropy", np.full((6, 3), 1.5), ArgumentError, "y must hold probabilities from 0 to 1; .*1.5"),
    ],
)
def test_labels_and_probabilities(call, loss, y, error, words):
    refused(MLP((IN, 5, OUT), loss=loss, backend="numpy"), call, samples()[0], np.asarray(y), error, words)


@pytest.mark.parametrize("call", [call for call in CALLS if call != "predict"])
def test_a_mean_over_no_samples(call):
    x, y = samples()
    refused(MLP((IN, 5, OUT), backend="numpy"), call, x[:0], y[:0], ShapeError, r"x must hold at least one row")


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"epochs": -1}, ArgumentError, "epochs must be .*got -1"),
        ({"epochs": 1.0}, ArgumentError, "epochs must be .*got 1.0"),
        ({"batch_size": 0}, ArgumentError, "batch_size must be .*got 0"),
        ({"batch_size": -5}, ArgumentError, "batch_size must be .*got -5"),
        ({"batch_size": 2.5}, ArgumentError, "batch_size must be .*got 2.5"),
        ({"batch_size": True}, ArgumentError, "batch_size must be .*got True"),
        ({"validation_data": 3}, ArgumentError, r"validation_data must be a pair \(x, y\); got int"),
        ({"validation_data": samples()[:1]}, ArgumentError, "validation_data must be a pair.*; got tuple of 1"),
        ({"shuffle": "no"}, ArgumentError, "shuffle must be True or False; got 'no'"),
        ({"validation_data": samples()[::-1]}, ShapeError, r"validation_data's x must have shape \(n, 4\)"),
        ({"validation_data": (samples()[0], samples()[1][:2])}, ShapeError, "validation_data's y must have shape"),
        ({"callbacks": print}, DTypeError, "callbacks must be a sequence of callables"),
        ({"callbacks": [print, 3]}, DTypeError, r"callbacks\[1\] must be callable with an Epoch; got 3"),
    ],
)
def test_arguments_of_fit(settings, error, words):
    net = MLP((IN, 5, OUT), backend="numpy")
    before = net.parameters.tobytes()
    with pytest.raises(error, match=words):
        net.fit(*samples(), **settings)
    assert net.parameters.tobytes() == before


def test_a_plan_for_no_rows():
    with pytest.raises(ArgumentError, match=r"batch_size must be .*got 0"):
        MLP((IN, OUT), backend="numpy").plan(0)


def test_probabilities_of_a_network_that_has_none():
    with pytest.raises(ArgumentError, match=r"predict_proba needs .*'mse'"):
        MLP((IN, OUT), backend="numpy").predict_proba(samples()[0])


@pytest.mark.parametrize("layout", layouts.LAYOUTS)
def test_every_memory_layout_gives_the_same_bits(backend_name, dtype, layout):
    x, y = samples(dtype)
    plain, other = (MLP((IN, 5, OUT), "tanh", optimizer="adam", dtype=dtype.name, backend=backend_name) for _ in "12")
    laid = layouts.LAYOUTS[layout]
    laid_x, laid_y = laid(x), laid(y)
    assert plain.train_step(x, y) == other.train_step(laid_x, laid_y)
    assert plain.fit(x, y, 3, 4).loss == other.fit(laid_x, laid_y, 3, 4).loss
    assert plain.loss(x, y) == other.loss(laid_x, laid_y)
    assert plain.predict(x).tobytes() == other.predict(laid_x).tobytes()
    assert plain.parameters.tobytes() == other.parameters.tobytes()
    np.testing.assert_array_equal(laid_x, x)


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: x.astype(np.float64),
        lambda x: x.astype(np.float16),
        lambda x: x.astype(np.int8),
        lambda x: x.astype(np.int64),
        lambda x: x.astype(">f4"),
        lambda x: x.tolist(),
        lambda x: x.view(np.matrix),
    ],
)
def test_whatever_holds_the_same_numbers_gives_the_same_bits(backend_name, convert):
    rng = np.random.default_rng(3)
    x, y = rng.integers(-9, 9, (N, IN)).astype(np.float32), rng.integers(-9, 9, (N, OUT)).astype(np.float32)
    plain, other = (MLP((IN, 5, OUT), backend=backend_name) for _ in range(2))
    assert plain.train_step(x, y) == other.train_step(convert(x), convert(y))
    assert plain.parameters.tobytes() == other.parameters.tobytes()
    assert type(other.predict(convert(x))) is np.ndarray


@pytest.mark.filterwarnings("ignore:the loss of epoch 0 is nan:RuntimeWarning")
def test_a_nan_in_the_samples_flows(backend_name):
    x, y = samples()
    x[2, 1] = np.nan
    net = MLP((IN, 5, OUT), backend=backend_name)
    finite = np.isfinite(net.predict(x)).all(axis=1)
    np.testing.assert_array_equal(finite, np.arange(N) != 2)
    assert np.isnan(net.fit(x, y, 1).loss[0])
