"""The public operations on plain arrays: through the customs desk, to the chosen backend, and back.

Letters: x[n, k] @ w[k, m] + b[m] -> y[n, m], row-major; weights are (in, out). All arrays of one call are float32, or
all float64; any of n, k and m may be 0. Inputs may be strided, reversed, Fortran-ordered, misaligned or read-only; that
costs a copy and changes no bit. `backend` is "auto" (the fastest that can run here), "cpu", "numpy" or "cuda".

Arrays on a CUDA GPU (CuPy's; PyTorch's, JAX's, Numba's and any other with DLPack or `__cuda_array_interface__`) are
computed on by the backend "cuda", which "auto" is for them: where they lie, without a copy, on their device and CuPy's
current stream for it. Work of another library on a stream of its own is waited for where DLPack says so; what is
written to its `out` is complete once CuPy's stream is. New results are arrays of the kind of the first array, or CuPy's
where that library takes no DLPack. NumPy arrays with backend="cuda" travel to the current device and back.

Every operation raises DTypeError (not an array, a dtype of another kind, or two dtypes), ShapeError (a rank or a
dimension that does not fit), ArgumentError (an unknown name, arrays in two places, or an output that is read-only or
overlaps another array), BackendUnavailable (a backend asked for by name that cannot run here) and DeviceMemoryError (a
GPU whose memory is full), all before anything is written.
"""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from fastmlp.errors import ArgumentError, DTypeError, ShapeError, require_name

from .arrays import (
    as_integer,
    as_operand,
    as_optimizer,
    as_output,
    deliver,
    require_one_dtype,
    require_shape,
)
from .backend import require_dtype, resolve
from .contract import ACTIVATIONS, JUDGED, PRECISIONS, REFUSED
from .gpu_arrays import BRING_HOME, HOST, Home, home_of, is_gpu_array, kind, require_one_place
from .network import new_array

_Array = TypeVar("_Array")
"""NumPy's array, or any on a GPU: what goes in comes out."""


def matmul(
    a: _Array,
    b: _Array,
    out: _Array | None = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    dtype: str | None = None,
    precision: str = "highest",
    backend: str = "auto",
) -> _Array:
    """The matrix product a @ b, a.T @ b or a @ b.T.

    Args:
        a: (n, k), or (k, n) with `transpose_a`.
        b: (k, m), or (m, k) with `transpose_b`.
        out: (n, m), written and returned; it may overlap neither a nor b. None allocates it.
        transpose_a: Take a.T, without a copy.
        transpose_b: Take b.T, without a copy.
        dtype: None for that of a and b; "bfloat16", for float32 ones, rounds them first (contract.BFLOAT16).
        precision: Of the product of float32 arrays: "highest", or "high", which permits the error of contract.HIGH for
            speed where the backend can make use of it.
        backend: See the module.

    Returns:
        (n, m), zeros where k is 0.
    """
    if dtype is None and precision == "highest" and (direct := _direct("matmul", backend)) is not None:
        result: Any = _empty_product(a, b, transpose_a, transpose_b) if out is None else out
        judge, perform = direct
        said = judge(a, b, result, transpose_a, transpose_b)
        if said == JUDGED:
            perform(a, b, result, transpose_a, transpose_b)
        if said != REFUSED:
            return result
    name, module, home = _resolved(backend, "a", a)
    a_, b_ = as_operand("a", a), as_operand("b", b)
    element = _alike(a=a_, b=b_)
    parts = 0
    if dtype is not None or precision != "highest":
        parts = _parts(name, dtype, precision, element)
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
    out_ = _output("out", out, (n, m), element, {"a": a, "b": b}, home)
    if parts == 0:
        module.matmul(a_, b_, out_, bool(transpose_a), bool(transpose_b))
    else:
        module.matmul(a_, b_, out_, bool(transpose_a), bool(transpose_b), parts)
    return _returned(out, out_, home)


def _direct(operation: str, backend: Any) -> tuple[Callable[..., int], Callable[..., None]] | None:
    """The CPU backend's function that judges and may do this operation, and the one that does what was judged.

    None where that is not what is asked for.
    """
    return _direct_operation(operation) if type(backend) is str and backend in ("auto", "cpu") else None


@functools.cache
def _direct_operation(name: str) -> tuple[Callable[..., int], Callable[..., None]] | None:
    """The CPU backend's `direct_operation` and its operation; None where "auto" is another backend."""
    chosen, module = resolve("auto")
    judge = module.direct_operation(name) if chosen == "cpu" else None
    return None if judge is None else (judge, getattr(module, name))


def _empty_like(x: Any) -> np.ndarray | None:
    """An array as the matrix x is; None where the desk would have something to say."""
    if type(x) is not np.ndarray or x.ndim != 2 or x.itemsize > 8:
        return None
    return new_array(x.shape, x.dtype)


def _empty_product(a: Any, b: Any, transpose_a: Any, transpose_b: Any) -> np.ndarray | None:
    """An array for the product of two matrices; None where the desk would have something to say."""
    if type(a) is not np.ndarray or type(b) is not np.ndarray or a.ndim != 2 or b.ndim != 2 or a.itemsize > 8:
        return None
    n, k = a.shape
    k_b, m = b.shape
    if transpose_a:
        n, k = k, n
    if transpose_b:
        k_b, m = m, k_b
    return new_array((n, m), a.dtype) if k == k_b else None


def _parts(backend: str, dtype: str | None, precision: str, element: np.dtype) -> int:
    """In how many parts of bfloat16 a product takes its operands of this kind; 0: as they are."""
    if dtype is not None:
        require_name("dtype", dtype, ("bfloat16",))
    require_name("precision", precision, PRECISIONS)
    asked = "dtype 'bfloat16'" if dtype is not None else f"precision {precision!r}"
    if element != np.float32:
        raise DTypeError(f"{asked} takes float32 arrays; got {element}. Convert them with astype(np.float32).")
    if dtype is not None and precision != "highest":
        raise ArgumentError(f"precision {precision!r} does not go with dtype {dtype!r}; drop one of them.")
    require_dtype(backend, dtype or "float32", precision)
    return 1 if dtype is not None else 2


def bias_add(x: _Array, b: _Array, out: _Array | None = None, *, backend: str = "auto") -> _Array:
    """Add b to every row of x.

    Args:
        x: (n, m).
        b: (m,).
        out: (n, m), written and returned; it may be x itself, but overlap nothing otherwise. None allocates it.
        backend: See the module.

    Returns:
        (n, m).
    """
    direct = _direct("bias_add", backend)
    if direct is not None:
        result: Any = _empty_like(x) if out is None else out
        judge, perform = direct
        said = judge(x, b, result)
        if said == JUDGED:
            perform(x, b, result)
        if said != REFUSED:
            return result
    _, module, home = _resolved(backend, "x", x)
    x_, b_ = as_operand("x", x), as_operand("b", b, ndim=1)
    dtype = _alike(x=x_, b=b_)
    if b_.shape != x_.shape[1:]:
        require_shape("b", b_, x_.shape[1:], f"to be added to the rows of x {x_.shape}")
    out_ = _output("out", out, x_.shape, dtype, {"x": x, "b": b}, home, may_be="x")
    module.bias_add(x_, b_, out_)
    return _returned(out, out_, home)


def mse(y: _Array, t: _Array, gradient: _Array | None = None, *, backend: str = "auto") -> float:
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
    _, module, _ = _resolved(backend, "y", y)
    y_, t_ = as_operand("y", y), as_operand("t", t)
    dtype = _alike(y=y_, t=t_)
    require_shape("t", t_, y_.shape, "as y has")
    if gradient is None:
        return module.mse(y_, t_)
    gradient_ = as_output("gradient", gradient, y_.shape, dtype, {"y": y, "t": t})
    value = module.mse(y_, t_, gradient_)
    deliver(gradient, gradient_)
    return value


def linear_forward(
    x: _Array,
    w: _Array,
    b: _Array,
    activation: str = "identity",
    out: _Array | None = None,
    preactivation: _Array | None = None,
    *,
    backend: str = "auto",
) -> _Array:
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
    direct = _direct("linear_forward", backend)
    if direct is not None and preactivation is None and type(activation) is str and activation in ACTIVATIONS:
        result: Any = _empty_product(x, w, False, False) if out is None else out
        judge, perform = direct
        said = judge(x, w, b, result, ACTIVATIONS[activation].code)
        if said == JUDGED:
            perform(x, w, b, result, None, activation)
        if said != REFUSED:
            return result
    _, module, home = _resolved(backend, "x", x)
    require_name("activation", activation, ACTIVATIONS)
    x_, w_, b_ = as_operand("x", x), as_operand("w", w), as_operand("b", b, ndim=1)
    dtype = _alike(x=x_, w=w_, b=b_)
    _require_layer(x_, w_, b_)
    shape = len(x_), w_.shape[1]
    inputs = {"x": x, "w": w, "b": b}
    z_ = None
    if preactivation is not None:
        z_ = as_output("preactivation", preactivation, shape, dtype, inputs)
        inputs["preactivation"] = preactivation
    out_ = _output("out", out, shape, dtype, inputs, home)
    module.linear_forward(x_, w_, b_, out_, z_, activation)
    if z_ is not None:
        deliver(preactivation, z_)
    return _returned(out, out_, home)


def linear_backward_update(
    x: _Array,
    w: _Array,
    b: _Array,
    saved: _Array,
    dy: _Array,
    *,
    activation: str = "identity",
    optimizer: str = "sgd",
    learning_rate: float = 1e-2,
    l2: float = 0.0,
    momentum: float = 0.9,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    state: _Array | None = None,
    updates: int = 1,
    dx: _Array | None = None,
    want_dx: bool = True,
    backend: str = "auto",
) -> _Array | None:
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
    _, module, home = _resolved(backend, "x", x)
    require_name("activation", activation, ACTIVATIONS)
    rule = as_optimizer(optimizer, learning_rate, l2, momentum, beta1, beta2, epsilon)
    updates = as_integer("updates", updates)
    x_, w_, b_ = as_operand("x", x), as_operand("w", w), as_operand("b", b, ndim=1)
    saved_, dy_ = as_operand("saved", saved), as_operand("dy", dy)
    dtype = _alike(x=x_, w=w_, b=b_, saved=saved_, dy=dy_)
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
        dx_ = home.new((n, k), dtype)
    state_ = written.get("state")
    if state_ is None:
        state_ = home.new(shapes["state"], dtype)  # of no elements
    dz = home.new((n, m), dtype)
    module.linear_backward_update(
        x_, written["w"], written["b"], saved_, dy_, dz, dx_, activation, rule, state_, updates
    )
    for name, array in written.items():
        deliver(arrays[name], array)
    return _returned(dx, dx_, home)


def _resolved(backend: str, first: str, value: Any) -> tuple[str, ModuleType, Home]:
    """The backend's name and module, and the home of the results: where the first array lies."""
    if type(value) is np.ndarray or not is_gpu_array(value):
        return *resolve(backend), HOST
    if backend not in ("auto", "cuda"):
        resolve(backend)
        raise ArgumentError(
            f"{first} is a GPU array ({kind(value)}), and backend {backend!r} computes in the CPU's memory; leave "
            f"backend out, or {BRING_HOME.format(name=first)}."
        )
    home = home_of(first, value)
    return *resolve("cuda"), home


def _alike(**operands: Any) -> np.dtype:
    """The dtype of all operands, which all lie in one place; raises DTypeError or ArgumentError where they differ."""
    first, *others = operands.values()
    dtype: np.dtype = first.dtype
    if type(first) is np.ndarray:
        for each in others:
            if each.dtype is not dtype or type(each) is not np.ndarray:
                break
        else:
            return dtype
    dtype = require_one_dtype(**operands)
    require_one_place(**operands)
    return dtype


def _require_layer(x: Any, w: Any, b: Any) -> None:
    if x.shape[1] != w.shape[0]:
        raise ShapeError(
            f"x must have as many columns as w has rows; got x {x.shape} and w {w.shape}, which is (in, out)."
        )
    if b.shape != w.shape[1:]:  # the words cost more than the comparison
        require_shape("b", b, w.shape[1:], f"for w {w.shape}")


def _output(
    name: str,
    out: Any,
    shape: tuple[int, ...],
    dtype: np.dtype,
    inputs: dict[str, Any],
    home: Home,
    may_be: str | None = None,
) -> Any:
    """`out` as the kernel may write it, allocated if the caller gave none."""
    return home.new(shape, dtype) if out is None else as_output(name, out, shape, dtype, inputs, may_be)


def _returned(out: Any, written: Any, home: Home) -> Any:
    """What the caller gets: the array given, brought up to date, or the one allocated, as the caller's kind."""
    if out is None:
        return None if written is None else home.give(written)
    deliver(out, written)
    return out
