"""dtype float16 on the reference, which emulates it: what is rounded, how, and what is lost; where it is refused.

The CUDA backend's is in test_cuda_tensor_train.py.
"""

import copy
import warnings

import numpy as np
import pytest
from networks import data, fill, network
from rulings import assert_same_bits

import fastmlp
from fastmlp import MLP, computing
from fastmlp.kernels import backend as backends
from fastmlp.kernels import matmul, reference
from fastmlp.kernels.network import Network
from fastmlp.kernels.reference.rounding import round_float16

pytestmark = pytest.mark.filterwarnings("ignore:dtype 'float16' is emulated:RuntimeWarning")

LARGEST, SMALLEST = 65504.0, 2.0**-24


def nearest(x):
    """Each float32 rounded to float16's grid, in float64: to a multiple of the spacing at its size, ties to even."""
    x = np.asarray(x, np.float64)
    exponent = np.maximum(np.frexp(x)[1] - 1, -14)
    spacing = 2.0 ** (np.where(np.isfinite(x), exponent, 0) - 10)
    rounded = np.rint(x / spacing) * spacing
    return np.where(abs(rounded) > LARGEST, np.copysign(np.inf, x), rounded)


def rounded(x, scale=1.0):
    out = np.empty_like(x)
    round_float16(x, scale, out)
    return out


def float16(widths, activations, loss="mse"):
    net = network(widths, activations, loss, np.float32)
    return Network(net.widths, net.activations, loss, net.dtype, float16=True)


def test_rounding_at_every_float16_its_middles_and_their_neighbours():
    exact = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)  # 0 to the largest
    middles = ((exact[:-1].astype(np.float64) + exact[1:]) / 2).astype(np.float32)
    values = np.concatenate(
        [exact, middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.float32(1e9))]
    )
    values = np.concatenate([values, -values])
    np.testing.assert_array_equal(rounded(values), nearest(values))
    assert_same_bits(rounded(exact), exact)
    scaled = values * np.float32(2**-20)
    np.testing.assert_array_equal(rounded(scaled, 2.0**20), rounded(values))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (65519.996, LARGEST),
        (65520.0, np.inf),
        (-65520.0, -np.inf),
        (3e38, np.inf),
        (np.inf, np.inf),
        (2.0**-25, 0.0),
        (2.0**-25 * 1.0001, SMALLEST),
        (1.5 * SMALLEST, 2 * SMALLEST),
        (1e-45, 0.0),
        (np.nan, np.nan),
    ],
)
def test_the_ends_of_the_range(value, expected):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(rounded(np.array([value], np.float32)), [expected])


def test_negative_zero_stays():
    assert np.signbit(rounded(np.array([-0.0, -1e-30], np.float32))).all()


def run(net, parameters, x, t):
    gradient = np.zeros(net.size, np.float32)
    value = reference.gradients(net, parameters, x, t, gradient, reference.Workspace(net, len(x), True))
    return value, gradient


@pytest.mark.parametrize("n", [1, 5, 64])
def test_a_network_rounds_the_operands_of_its_products_alone(rng, n):
    """Against the contract's formulas in float64; one layer is forward and weight gradient, two have the input's."""
    net = float16((4, 6, 3), ("tanh", "identity"))
    parameters = fill(net, np.zeros(net.size, np.float32), rng)
    x, t = data(net, rng, n)
    value, gradient = run(net, parameters, x, t)
    (w1, w2), (b1, b2) = ([a.astype(float) for a in each(parameters)] for each in (net.weights, net.biases))
    s = 2 ** int(np.log2(n))
    y1 = np.tanh(nearest(x) @ nearest(w1) + b1).astype(np.float32)
    y2 = nearest(y1) @ nearest(w2) + b2
    dz2 = (2 * (y2 - t) / t.size).astype(np.float32)
    dx = nearest(s * dz2) @ nearest(w2).T / s
    dz1 = (dx * (1 - y1.astype(float) ** 2)).astype(np.float32)
    assert value == pytest.approx(np.mean((y2 - t) ** 2), rel=1e-5)
    dw1, dw2 = net.weights(gradient)
    assert not np.allclose(dw2, y1.T.astype(float) @ dz2, rtol=1e-5), "rounding would not show"
    # A last bit of float32 may turn a rounding, of one operand in a sum.
    np.testing.assert_allclose(dw2, nearest(y1).T @ nearest(s * dz2) / s, atol=2**-11 * abs(dw2).max())
    np.testing.assert_allclose(dw1, nearest(x).T @ nearest(s * dz1) / s, atol=2**-11 * abs(dw1).max())
    np.testing.assert_allclose(net.biases(gradient)[1], dz2.sum(axis=0), rtol=1e-4)
    out = np.empty((n, 3), np.float32)
    reference.forward(net, parameters, x, out, reference.Workspace(net, 2, False))
    np.testing.assert_allclose(out, y2, rtol=1e-3, atol=1e-4)


def test_a_mean_over_many_rows_loses_no_gradient_but_a_samples_own_may_be(rng):
    net = float16((2, 1), "identity", "half_mse")
    parameters, x = np.zeros(net.size, np.float32), np.ones((1024, 2), np.float32)
    for target, expected in ((2.0**-20, -(2.0**-20)), (2.0**-26, 0.0)):
        _, gradient = run(net, parameters, x, np.full((1024, 1), target, np.float32))
        np.testing.assert_array_equal(net.weights(gradient)[0], expected)
        np.testing.assert_array_equal(net.biases(gradient)[0], -target)
    _, gradient = run(net, parameters, x, np.full((1024, 1), 65520.0, np.float32))
    np.testing.assert_array_equal(net.weights(gradient)[0], -np.inf)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 255, 256, 1000])
def test_the_scale_is_the_largest_power_of_two_that_is_not_above_n(n):
    scale = float16((2, 1), "identity").delta_scale(n)
    assert scale == (1 if n == 0 else 2 ** int(np.floor(np.log2(n))))
    assert network((2, 1), "identity", "mse", np.float32).delta_scale(n) == 1


def test_a_regression_is_learnt_as_well_as_in_float32(rng):
    x = rng.uniform(-1, 1, (600, 8))
    t = np.sin(3 * x[:, :1]) * x[:, 1:2] + x[:, 2:3] ** 2 - x[:, 3:4]
    losses = [
        MLP((8, 32, 1), "tanh", optimizer="adam", learning_rate=3e-3, dtype=dtype, backend="numpy")
        .fit(x, t, epochs=30, batch_size=50)
        .loss[-1]
        for dtype in ("float16", "float32")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0] < 0.5 * np.square(t).mean()


def test_its_name_in_all_that_a_user_sees(tmp_path, rng):
    net = MLP((4, 6, 3), dtype="float16", optimizer="adam")
    assert net.backend == "numpy"
    assert net.dtype == np.float32
    assert "dtype='float16'" in repr(net)
    text = str(net.plan(5))
    assert ", float16, mse" in text
    assert "float16 is emulated" in text
    assert "'cpu' has no kernels for float16" in text
    net.train_step(rng.normal(size=(5, 4)), rng.normal(size=(5, 3)))
    net.save(tmp_path / "net")
    for other in (MLP.load(tmp_path / "net"), MLP.load(tmp_path / "net", backend="numpy"), copy.deepcopy(net)):
        assert other.configuration == net.configuration
        assert_same_bits(other.parameters, net.parameters)
        assert_same_bits(other.optimizer_state, net.optimizer_state)
    assert MLP((4, 3), dtype=np.float16).configuration["dtype"] == "float16"


def test_plan_and_workspace_count_the_rounded_operands():
    plain, halved = (
        reference.Workspace(net, 50, True).nbytes
        for net in (network((40, 60, 3), "relu", "mse", np.float32), float16((40, 60, 3), "relu"))
    )
    assert halved - plain == 4 * (50 * 60 + 50 * 60), "of x or dz, and of w or dz"


def test_the_cpu_says_which_backends_have_it():
    with pytest.raises(
        fastmlp.BackendUnavailable, match=r"'cpu' has no kernels .*'cuda' has.*'numpy' emulates.*bfloat16"
    ):
        MLP((4, 3), dtype="float16", backend="cpu")
    net = MLP((4, 3), dtype="float16", backend="numpy")
    before = net.parameters.copy()
    with pytest.raises(fastmlp.BackendUnavailable, match="'cpu' has no kernels"):
        net.to("cpu")
    assert net.backend == "numpy"
    assert_same_bits(net.parameters, before)


def test_single_products_and_precision_high_are_refused(rng):
    a = rng.normal(size=(2, 2)).astype(np.float32)
    with pytest.raises(fastmlp.ArgumentError, match="dtype must be one of 'bfloat16'; got 'float16'"):
        matmul(a, a, dtype="float16", backend="numpy")
    with pytest.raises(
        fastmlp.ArgumentError, match="precision 'high' is of dtype 'float32' alone; got dtype 'float16'"
    ):
        MLP((4, 3), dtype="float16", precision="high")


def test_emulation_is_announced_once():
    computing.announce_emulation.cache_clear()
    with pytest.warns(
        RuntimeWarning, match="'float16' is emulated on backend 'numpy': .* rounded to float16"
    ) as caught:
        MLP((4, 3), dtype="float16", backend="numpy")
    assert [warning.filename for warning in caught] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MLP((4, 3), dtype="float16", backend="numpy")


def test_where_it_cannot_run_the_reason_names_who_can(monkeypatch):
    class Cuda:
        FLOAT16 = "by tensor cores"
        why_no_tensor_cores = staticmethod(lambda: "no tensor cores")

    monkeypatch.setattr(backends, "load", lambda name: Cuda)
    with pytest.raises(
        fastmlp.BackendUnavailable, match=r"dtype 'float16' here: no tensor cores\. backend='numpy' runs"
    ):
        backends.require_dtype("cuda", "float16")
    with pytest.raises(fastmlp.BackendUnavailable, match=r"no tensor cores\. backend='cpu' or 'numpy' runs"):
        backends.require_dtype("cuda", "bfloat16")
