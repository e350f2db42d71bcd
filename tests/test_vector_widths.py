"""The kernels as they are on CPUs with narrower vectors: the same source with registers of 16, 32 and 64 bytes.

Each width has a process of its own, which runs this file as a program; one more has no instruction for bfloat16.
"""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import guarded
import llvmlite.binding as llvm
import numpy as np
import oracles
import pytest
from networks import data, fill, network, wide
from rulings import assert_bounded, assert_same_bits, small_integers

from fastmlp.kernels import reference
from fastmlp.kernels.contract import ACTIVATIONS, OPERATIONS
from fastmlp.kernels.network import Optimizer, aligned_zeros

ROOT = Path(__file__).resolve().parents[1]
SHAPES = [(1, 1, 1), (5, 3, 2), (13, 70, 33), (60, 300, 7), (27, 9, 1), (1, 40, 31), (60, 401, 350)]
"""Tails in rows, columns and depth, one column, one row, more than one block of k, and a B that is packed."""


def check_products(cpu, dtype, rng):
    for n, k, m in SHAPES:
        a, b = small_integers(rng, (n, k), dtype), small_integers(rng, (k, m), dtype)
        for transpose_a in (False, True):
            for transpose_b in (False, True):
                out = guarded.ending(np.zeros((n, m), dtype))
                stored_a, stored_b = a.T if transpose_a else a, b.T if transpose_b else b
                cpu.matmul(guarded.ending(stored_a), guarded.ending(stored_b), out, transpose_a, transpose_b)
                assert_same_bits(out, a @ b)


def check_layers(cpu, dtype, rng):
    factor = OPERATIONS["linear_forward"].error_factor
    for n, k, m in SHAPES[:-1]:
        x, w, b = (rng.normal(size=shape).astype(dtype) for shape in ((n, k), (k, m), m))
        exact_x, exact_w, exact_b = (a.astype(np.longdouble) for a in (x, w, b))
        z, magnitude = exact_x @ exact_w + exact_b, abs(exact_x) @ abs(exact_w) + abs(exact_b)
        for activation in ACTIVATIONS:
            y = guarded.ending(np.zeros((n, m), dtype))
            cpu.linear_forward(guarded.ending(x), guarded.ending(w), guarded.ending(b), y, None, activation)
            exact = oracles.ACTIVATION[activation](z)
            assert_bounded(y, exact, factor, k, magnitude + abs(exact))


def check_training(cpu, dtype, rng):
    """A narrow network, whose vectors run across the batch, and one too wide for that."""
    for inputs, loss, optimizer in ((9, "cross_entropy", "adam"), (140, "mse", "nesterov")):
        net = network((inputs, 21, 5, 3), ("tanh", "gelu", "identity"), loss, dtype)
        rule = Optimizer(optimizer, learning_rate=0.05, l2=0.01, epsilon=1e-3)
        parameters = fill(net, aligned_zeros(net.size, dtype), rng)
        x, t = data(net, rng, 23)
        weights, biases = wide(net, parameters, np.float64)
        order = rng.permutation(23)
        wanted = t if t.ndim == 1 else t.astype(np.float64)
        expected, weights, biases = oracles.train(
            net.activations, net.loss, rule, weights, biases, x.astype(np.float64), wanted, order, 0, 10, 3
        )
        losses, state = np.empty(3), rule.new_state(net.size, dtype)
        cpu.train(net, rule, parameters, state, 0, x, t, order, 0, 10, losses, cpu.Workspace(net, 10, True))
        digits = np.sqrt(np.finfo(dtype).eps)
        np.testing.assert_allclose(losses, expected, rtol=digits, atol=digits)
        got = [*net.weights(parameters), *net.biases(parameters)]
        for mine, theirs in zip(got, [*weights, *biases], strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=digits, atol=digits)


def check_bfloat16(cpu, rng):
    """Exact sums of rounded and of split operands, an even and an odd number of them, so the reference's bits."""
    for widths, n, way in itertools.product(
        ((9, 21, 5, 3), (140, 70, 1)), (1, 32), ({"bfloat16": True}, {"high": True})
    ):
        net = replace(network(widths, "relu", "half_mse", np.float32), **way)
        parameters = aligned_zeros(net.size, np.float32)
        for view in (*net.weights(parameters), *net.biases(parameters)):
            view[...] = small_integers(rng, view.shape, np.float32)
        x, t = (small_integers(rng, (n, width), np.float32) for width in (widths[0], widths[-1]))
        results = []
        for module in (cpu, reference):
            out, gradient = guarded.ending(np.zeros_like(t)), aligned_zeros(net.size, np.float32)
            module.forward(net, parameters, guarded.ending(x), out, module.Workspace(net, 5, False))
            module.gradients(net, parameters, guarded.ending(x), t, gradient, module.Workspace(net, n, True))
            results += out, gradient
        assert_same_bits(*results[::2])
        np.testing.assert_array_equal(*results[1::2])


def check():
    """Everything above, with this process's width."""
    from fastmlp.kernels import cpu
    from fastmlp.kernels.cpu.simd import HAS_BFLOAT16, VECTOR_BYTES

    assert str(VECTOR_BYTES) == os.environ["FASTMLP_VECTOR_BYTES"]
    rng = np.random.default_rng(20261)
    check_bfloat16(cpu, rng)
    if os.environ.get("FASTMLP_BFLOAT16"):
        assert not HAS_BFLOAT16
        return
    for dtype in (np.dtype(np.float32), np.dtype(np.float64)):
        check_products(cpu, dtype, rng)
    check_layers(cpu, np.dtype(np.float32), rng)
    check_training(cpu, np.dtype(np.float32), rng)


def start(width, **settings):
    """Run this file as a program with registers of so many bytes."""
    fixed = {"FASTMLP_VECTOR_BYTES": width, "FASTMLP_HIGH": "split", "PYTHONPATH": str(ROOT)}
    environment = os.environ | fixed | settings
    return subprocess.Popen(
        [sys.executable, "-W", "error", __file__], env=environment, cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(process):
    """Its exit status and everything it said."""
    said, _ = process.communicate(timeout=300)
    return process.returncode, said


FEATURES = {"16": (), "32": ("avx2", "fma"), "64": ("avx512f", "avx512dq")}
MISSING = {
    width: [feature for feature in features if not llvm.get_host_cpu_features().get(feature)]
    for width, features in FEATURES.items()
}


@pytest.fixture(scope="module")
def started():
    """All the processes at once: they compile for seconds."""
    processes = {width: start(width) for width in FEATURES if not MISSING[width]}
    if "64" in processes:
        processes["emulated"] = start("64", FASTMLP_BFLOAT16="emulated")
    return processes


@guarded.needs_mprotect
@pytest.mark.parametrize("width", FEATURES)
def test_registers_of_this_width(width, started):
    if MISSING[width]:
        pytest.skip(f"this CPU cannot compute in registers of {width} bytes: no {', no '.join(MISSING[width])}")
    assert finish(started[width]) == (0, "")


@guarded.needs_mprotect
def test_bfloat16_without_its_instruction(started):
    if MISSING["64"]:
        pytest.skip("this CPU cannot compute in registers of 64 bytes")
    assert finish(started["emulated"]) == (0, "")


def test_other_units_for_bfloat16_are_refused():
    status, said = finish(start("16", FASTMLP_BFLOAT16="yes"))
    assert status != 0
    assert "FASTMLP_BFLOAT16 must be one of 'amx', 'avx512', 'emulated', 'modelled', or not be set; got 'yes'" in said


def test_other_widths_are_refused():
    status, said = finish(start("24"))
    assert status != 0
    assert "FASTMLP_VECTOR_BYTES must be 16, 32 or 64; got '24'" in said


if __name__ == "__main__":
    check()
