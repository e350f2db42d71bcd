"""The public operations on plain arrays: through the customs desk, to the chosen backend, and back.

Letters: x[n, k] @ w[k, m] + b[m] -> y[n, m], row-major; weights are (in, out). All arrays of one call are float32, or
all float64; any of n, k and m may be 0. Inputs may be strided, reversed, Fortran-ordered, misaligned or read-only; that
costs a copy and changes no bit. `backend` is "auto" (the fastest that can run here), "cpu", "numpy" or "cuda".

Every operation raises DTypeError (not an ndarray, a dtype of another kind, or two dtypes), ShapeError (a rank or a
dimension that does not fit), ArgumentError (an unknown name, or an output that is read-only or overlaps another array)
and BackendUnavailable (a backend asked for by name that cannot run here), all before anything is written.
"""

from typing import Any

import numpy as np

from fastmlp.errors import ArgumentError, ShapeError, require_name

from .arrays import (
    as_integer,
    as_operand,
    as_optimizer,
    as_output,
    deliver,
    require_one_dtype,
    require_shape,
)
from .backend import resolve
from .contract import ACTIVATIONS
from .network import aligned_zeros, new_array


def matmul(
    a: np.ndarray,
    b: np.ndarray,
    out: np.ndarray | None = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    backend: str = "auto",
) -> np.ndarray:
    """The matrix product a @ b, a.T @ b or a @ b.T.

    Args:
        a: (n, k), or (k, n) with `transpose_a`.
        b: (k, m), or (m, k) with `transpose_b`.
        out: (n, m), written and returned; it may overlap neither a nor b. None allocates it.
        transpose_a: Take a.T, without a copy.
        transpose_b: Take b.T, without a copy.
        backend: See the module.

    Returns:
        (n, m), zeros where k is 0.
    """
    module = resolve(backend)[1]
    a_, b_ = as_operand("a", a), as_operand("b", b)
    dtype = a_.dtype
    if b_.dtype != dtype:
        require_one_dtype(a=a_, b=b_)
    n, k = a_.shape
    k_b, m = b_.shape
    if transpose_a:
        n, k = k, n
    if transpose_b:
        k_b, m = m, k_b
    if k != k_b:
        raise ShapeError(
            f"the inner dimensions of a and b must agree; got {k} and {k_b}, from a {a_.shape}"
            f"{' transposed' if transpose_a else ''} and b {b_.shape}{' transposed' if transpose_b else ''}."
        )
    out_ = _output("out", out, (n, m), dtype, {"a": a, "b": b})
    module.matmul(a_, b_, out_, bool(transpose_a), bool(transpose_b))
    return _returned(out, out_)


def bias_add(x: np.ndarray, b: np.ndarray, out: np.ndarray | None = None, *, backend: str = "auto") -> np.ndarray:
    """Add b to every row of x.

    Args:
        x: (n, m).
        b: (m,).
        out: (n, m), written and returned; it may be x itself, but overlap nothing otherwise. None allocates it.
        backend: See the module.

    Returns:
        (n, m).
    """
    module = resolve(backend)[1]
    x_, b_ = as_operand("x", x), as_operand("b", b, ndim=1)
    dtype = require_one_dtype(x=x_, b=b_)
    require_shape("b", b_, x_.shape[1:], f"to be added to the rows of x {x_.shape}")
    out_ = _output("out", out, x_.shape, dtype, {"x": x, "b": b}, may_be="x")
    module.bias_add(x_, b_, out_)
    return _returned(out, out_)


def mse(y: np.ndarray, t: np.ndarray, gradient: np.ndarray | None = None, *, backend: str = "auto") -> float:
    """The mean squared error, the mean over all elements of (y - t)^2.

    Args:
        y: (n, m), what came out.
        t: (n, m), what should have.
        gradient: (n, m), overwritten by 2 (y - t) / (n m), the derivative by y; it may overlap neither y nor t. None
            computes the value alone.
        backend: See the module.

    Returns:
        The value; NaN, without a warning, where n m is 0.
    """
    module = resolve(backend)[1]
    y_, t_ = as_operand("y", y), as_operand("t", t)
    dtype = require_one_dtype(y=y_, t=t_)
    require_shape("t", t_, y_.shape, "as y has")
    if gradient is None:
        return module.mse(y_, t_)
    gradient_ = as_output("gradient", gradient, y_.shape, dtype, {"y": y, "t": t})
    value = module.mse(y_, t_, gradient_)
    deliver(gradient, gradient_)
    return value


def linear_forward(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    activation: str = "identity",
    out: np.ndarray | None = None,
    preactivation: np.ndarray | None = None,
    *,
    backend: str = "auto",
) -> np.ndarray:
    """One linear layer and its activation: y = activation(x @ w + b).

    Args:
        x: (n, k).
        w: (k, m).
        b: (m,).
        activation: A name of contract.ACTIVATIONS.
        out: (n, m), overwritten by y and returned; it may overlap no other array. None allocates it.
        preactivation: (n, m), overwritten by z = x @ w + b, which `linear_backward_update` wants in place of y for some
            activations; it may overlap no other array. None keeps z to itself.
        backend: See the module.

    Returns:
        y, (n, m).
    """
    module = resolve(backend)[1]
    require_name("activation", activation, ACTIVATIONS)
    x_, w_, b_ = as_operand("x", x), as_operand("w", w), as_operand("b", b, ndim=1)
    dtype = require_one_dtype(x=x_, w=w_, b=b_)
    _require_layer(x_, w_, b_)
    shape = len(x_), w_.shape[1]
    inputs = {"x": x, "w": w, "b": b}
    z_ = None
    if preactivation is not None:
        z_ = as_output("preactivation", preactivation, shape, dtype, inputs)
        inputs["preactivation"] = preactivation
    out_ = _output("out", out, shape, dtype, inputs)
    module.linear_forward(x_, w_, b_, out_, z_, activation)
    if z_ is not None:
        deliver(preactivation, z_)
    return _returned(out, out_)


def linear_backward_update(
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    saved: np.ndarray,
    dy: np.ndarray,
    *,
    activation: str = "identity",
    optimizer: str = "sgd",
    learning_rate: float = 1e-2,
    l2: float = 0.0,
    momentum: float = 0.9,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    state: np.ndarray | None = None,
    updates: int = 1,
    dx: np.ndarray | None = None,
    want_dx: bool = True,
    backend: str = "auto",
) -> np.ndarray | None:
    """One linear layer backward: the gradient by its input, and its parameters stepped by the optimiser in place.

    With dz = dy * activation'(saved), the gradients are dw = x.T @ dz, db = the sum of dz over the rows, and
    dx = dz @ w.T from w as it was before the step.

    Args:
        x: (n, k), what the layer was given.
        w: (k, m), stepped in place.
        b: (m,), stepped in place.
        saved: (n, m), from `linear_forward`: y, or z for the activations whose contract.ACTIVATIONS entry says
            "preactivation" (gelu, silu, softplus, sine).
        dy: (n, m), the gradient by y.
        activation: A name of contract.ACTIVATIONS.
        optimizer: A name of contract.OPTIMIZERS, which holds the formulas.
        learning_rate: lr, finite and at least 0.
        l2: Weight decay of w, never of b; finite and at least 0.
        momentum: mu, from 0 to 1.
        beta1: b1, from 0 to below 1.
        beta2: b2, from 0 to below 1.
        epsilon: eps, at least 1.2e-38.
        state: (slots, (k + 1) m), the optimiser's memory of w and then of b, zeros before the first update; updated in
            place. Needed where contract.OPTIMIZERS gives the rule slots: momentum and nesterov 1, adam and adamw 2.
        updates: t, which update of these parameters this is, counted from 1.
        dx: (n, k), overwritten and returned. None allocates it.
        want_dx: False leaves dx uncomputed, as a first layer may.
        backend: See the module.

    Returns:
        dx (n, k), or None without `want_dx`.

    Of w, b, state and dx none may overlap another array.
    """
    module = resolve(backend)[1]
    require_name("activation", activation, ACTIVATIONS)
    rule = as_optimizer(optimizer, learning_rate, l2, momentum, beta1, beta2, epsilon)
    updates = as_integer("updates", updates)
    x_, w_, b_ = as_operand("x", x), as_operand("w", w), as_operand("b", b, ndim=1)
    saved_, dy_ = as_operand("saved", saved), as_operand("dy", dy)
    dtype = require_one_dtype(x=x_, w=w_, b=b_, saved=saved_, dy=dy_)
    _require_layer(x_, w_, b_)
    n, (k, m) = len(x_), w_.shape
    for name, array in (("saved", saved_), ("dy", dy_)):
        require_shape(name, array, (n, m), f"for x {x_.shape} and w {w_.shape}")
    if dx is not None and not want_dx:
        raise ArgumentError("dx was given, yet want_dx is False; drop one of the two.")

    arrays: dict[str, Any] = {"x": x, "saved": saved, "dy": dy, "w": w, "b": b, "state": state, "dx": dx}
    shapes = {"w": (k, m), "b": (m,), "state": (rule.slots, (k + 1) * m), "dx": (n, k)}
    if state is None and rule.slots:
        raise ArgumentError(
            f"optimizer {optimizer!r} needs a state, its memory between updates; got None. Make it once, before the "
            f"first update: state = np.zeros({shapes['state']}, np.{dtype})."
        )
    written = {
        name: as_output(name, arrays[name], shape, dtype, {other: arrays[other] for other in arrays if other != name})
        for name, shape in shapes.items()
        if arrays[name] is not None
    }
    dx_ = written.get("dx")
    if dx_ is None and want_dx:
        dx_ = new_array((n, k), dtype)
    state_ = written.get("state")
    if state_ is None:
        state_ = aligned_zeros(shapes["state"], dtype)
    dz = new_array((n, m), dtype)
    module.linear_backward_update(
        x_, written["w"], written["b"], saved_, dy_, dz, dx_, activation, rule, state_, updates
    )
    for name, array in written.items():
        deliver(arrays[name], array)
    return _returned(dx, dx_)


def _require_layer(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> None:
    if x.shape[1] != w.shape[0]:
        raise ShapeError(
            f"x must have as many columns as w has rows; got x {x.shape} and w {w.shape}, which is (in, out)."
        )
    require_shape("b", b, w.shape[1:], f"for w {w.shape}")


def _output(
    name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype, inputs: dict[str, Any], may_be: str | None = None
) -> np.ndarray:
    """`out` as the kernel may write it, allocated if the caller gave none."""
    return new_array(shape, dtype) if out is None else as_output(name, out, shape, dtype, inputs, may_be)


def _returned(out: Any, written: Any) -> Any:
    """What the caller gets: the array given, brought up to date, or the one allocated."""
    if out is None:
        return written
    deliver(out, written)
    return out
