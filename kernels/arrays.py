"""The customs desk: the one place where shape, dtype, writability and overlap are judged, and a copy may be made.

What passes here is what a kernel may assume: C-contiguous, element-aligned ndarrays of one dtype, outputs that are
writable and overlap nothing. Nothing is written before everything has been judged.

Two kinds of caller, two rules of conversion:

* The operations of `ops` take ndarrays, all float32 or all float64, and convert nothing.
* A network takes any array-like of booleans, integers or floats and converts it to its own dtype. A float is rounded to
  nearest; a finite one beyond the dtype's range and an integer that it cannot hold exactly are refused.

Either way strided, reversed, Fortran-ordered and misaligned arrays are copied and give the same bits; GPU, masked,
sparse, object, complex, text and date arrays are refused. Samples and parameters may hold NaN and Inf, which propagate;
targets must be finite, since one NaN there would turn every weight into NaN.
"""

import numbers
from typing import Any

import numpy as np

from fastmlp.errors import ArgumentError, BackendUnavailable, DTypeError, ShapeError, require_name

from .contract import DTYPES, LOSSES, NETWORK_DTYPES, OPTIMIZERS
from .network import Network, Optimizer

_FLOATS = tuple(np.dtype(name) for name in DTYPES)
_INT64 = np.dtype(np.int64)
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
_LARGEST = float(np.finfo(np.float32).max)
_OVERLAP_WORK: Any = 10_000  # NumPy's stub knows 0 and -1 only
"""How hard np.shares_memory may think, 0.2 ms; what it cannot decide by then counts as overlapping."""


def as_operand(name: str, value: Any, ndim: int = 2) -> np.ndarray:
    """A kernel-ready input of an operation: `value` itself, or a contiguous copy.

    Raises DTypeError unless it is a float32 or float64 ndarray, ShapeError unless it has `ndim` dimensions.
    """
    if type(value) is not np.ndarray:
        value = _plain_ndarray(name, value)
    if value.dtype not in _FLOATS:
        raise DTypeError(
            f"{name} must be float32 or float64; got {value.dtype}. Convert it: {name}.astype(np.float32)."
        )
    if value.ndim != ndim:
        raise ShapeError(f"{name} must have {ndim} dimension{'s' * (ndim != 1)}; got shape {value.shape}.")
    return contiguous(value)


def require_one_dtype(**operands: np.ndarray) -> np.dtype:
    """The dtype that all operands have; raises DTypeError if they differ."""
    (first, reference), *others = operands.items()
    for name, array in others:
        if array.dtype != reference.dtype:
            raise DTypeError(
                f"{name} must have the dtype of {first}, {reference.dtype}; got {array.dtype}. "
                f"Convert one of them: {name}.astype(np.{reference.dtype})."
            )
    return reference.dtype


def require_shape(name: str, array: np.ndarray, shape: tuple[int, ...], why: str) -> None:
    """Raises ShapeError unless array.shape is `shape`; `why` says what asks for it."""
    if array.shape != shape:
        raise ShapeError(f"{name} must have shape {shape} {why}; got {array.shape}.")


def contiguous(array: np.ndarray) -> np.ndarray:
    """`array` itself if it is C-contiguous and element-aligned, else a copy that is."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else array.copy(order="C")


def as_output(
    name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype, inputs: dict[str, Any], may_be: str | None = None
) -> np.ndarray:
    """What the kernel writes for the caller's `out`: `out` itself, or a contiguous copy for `deliver` to bring home.

    `inputs` are the caller's other arrays; `out` may share memory with none of them, except that it may be exactly the
    one named by `may_be`. Raises DTypeError for anything but an ndarray of `dtype`, ShapeError for another shape,
    ArgumentError for a read-only, self-overlapping or overlapping one.
    """
    if type(out) is not np.ndarray:
        out = _plain_ndarray(name, out)
    if out.dtype != dtype:
        raise DTypeError(f"{name} must have dtype {dtype}, that of the inputs; got {out.dtype}.")
    if out.shape != shape:
        raise ShapeError(f"{name} must have shape {shape}; got {out.shape}.")
    if not out.flags.writeable:
        raise ArgumentError(f"{name} is read-only and cannot be written; pass a writable array or a copy of it.")
    if _may_overlap_itself(out):
        raise ArgumentError(
            f"{name} has elements that share memory (shape {out.shape}, strides {out.strides}), as a broadcast array "
            f"has; pass an array of its own: np.empty({shape}, np.{dtype})."
        )
    for other, array in inputs.items():
        if other == may_be and _same_memory(out, array):
            continue
        if isinstance(array, np.ndarray) and _overlap(out, array):
            raise ArgumentError(f"{name} overlaps {other} in memory; pass a separate array or {other}.copy().")
    return contiguous(out)


def deliver(out: Any, written: np.ndarray) -> None:
    """Copy what the kernel wrote home to the caller's `out`, where `as_output` had to put a copy in its place."""
    if out is not None and not _same_memory(out, written):
        np.copyto(out, written)


def as_samples(name: str, value: Any, width: int, dtype: np.dtype) -> np.ndarray:
    """A network's input: value as a kernel-ready [n, width] array of `dtype`, a copy only where needed.

    Raises DTypeError for a kind or a value that `dtype` cannot hold, ShapeError unless it is [n, width].
    """
    if type(value) is not np.ndarray or value.dtype != dtype:
        value = _any_array(name, value)
    elif value.ndim == 2 and value.shape[1] == width:
        return contiguous(value)
    if value.ndim != 2 or value.shape[1] != width:
        raise ShapeError(
            f"{name} must have shape (n, {width}), one row a sample; got {value.shape}.{_rank_hint(name, value, width)}"
        )
    return contiguous(_converted(name, value, dtype))


def as_target(name: str, value: Any, n: int, network: Network) -> np.ndarray:
    """The targets of n samples, as the network's loss takes them: [n, m] of its dtype, or int64 labels [n].

    * mse, half_mse: finite values (n, m), or (n,) where m is 1;
    * binary_cross_entropy, binary_log_loss: the same, within [0, 1];
    * cross_entropy, log_loss: integer labels (n,) or (n, 1) from 0 to m - 1, or (n, m) probabilities, each row
      adding up to 1 within 1e-3. They need at least two outputs.

    Raises DTypeError, ShapeError or ArgumentError naming the first offending element.
    """
    kind, m, dtype = LOSSES[network.loss].target, network.widths[-1], network.dtype
    if type(value) is not np.ndarray or (value.dtype != dtype and value.dtype != _INT64):
        value = _any_array(name, value)
    if kind == "classes":
        if m == 1:
            raise ArgumentError(
                f"loss {network.loss!r} needs at least two outputs, one a class; got a network with one. For one "
                "output use loss='binary_cross_entropy'."
            )
        if value.ndim == 1 or (value.ndim == 2 and value.shape[1] == 1):
            return _as_labels(name, value, n, m)
    elif value.ndim == 1 and m == 1:
        value = value[:, None]
    if value.shape != (n, m):
        also = f", or {n} integer labels" if kind == "classes" else f", or ({n},)" if m == 1 else ""
        raise ShapeError(f"{name} must have shape ({n}, {m}){also}; got {value.shape}.")
    target = contiguous(_converted(name, value, dtype))
    _require_finite(name, target)
    if kind != "values":
        _require_probabilities(name, target)
    if kind == "classes":
        sums = target.sum(axis=1, dtype=np.float64)
        _refuse_where(abs(sums - 1) > 1e-3, sums, f"each row of {name} must add up to 1 within 1e-3; the sum of row")
    return target


def _as_labels(name: str, value: np.ndarray, n: int, m: int) -> np.ndarray:
    if value.dtype.kind not in "iu":
        raise DTypeError(
            f"{name} holds one value a sample, so it must be integer labels; got {value.dtype}. Convert it: "
            f"{name}.astype(np.int64), or pass probabilities of shape ({n}, {m})."
        )
    if value.size != n:
        raise ShapeError(f"{name} must hold {n} labels, one a sample; got shape {value.shape}.")
    labels = value.reshape(-1)
    if n and (labels.min() < 0 or labels.max() >= m):
        _refuse_where((labels < 0) | (labels >= m), labels, f"{name} must hold labels from 0 to {m - 1}; the label at")
    return contiguous(labels.astype(np.int64, copy=False))


def _require_finite(name: str, array: np.ndarray) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        _refuse_where(~finite, array, f"{name} must be finite; the element at")


def _require_probabilities(name: str, array: np.ndarray) -> None:
    if array.size and (array.min() < 0 or array.max() > 1):
        _refuse_where((array < 0) | (array > 1), array, f"{name} must hold probabilities from 0 to 1; the element at")


def _refuse_where(bad: np.ndarray, values: np.ndarray, message: str) -> None:
    """Raises ArgumentError naming the first element where `bad`, if there is one."""
    if bad.any():
        place = np.unravel_index(int(bad.argmax()), bad.shape)
        index = ", ".join(str(int(i)) for i in place)
        raise ArgumentError(f"{message} [{index}] is {values[place]}.")


def as_network_dtype(name: str, value: Any) -> str:
    """A name of contract.NETWORK_DTYPES from itself or anything NumPy takes for one; raises ArgumentError otherwise."""
    try:
        dtype = None if value is None else np.dtype(value)
    except TypeError:  # as "bfloat16" is to NumPy, unless another package has taught it
        dtype = None
    return require_name(name, value if dtype is None else dtype.name, NETWORK_DTYPES)


def as_integer(name: str, value: Any, minimum: int = 1) -> int:
    """An int of at least `minimum`; raises ArgumentError for anything else, True and 3.0 included."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= minimum:
        return int(value)
    raise ArgumentError(f"{name} must be an integer of at least {minimum}; got {value!r}.")


def as_real(name: str, value: Any, low: float = 0.0, high: float = _LARGEST, below: bool = False) -> float:
    """A finite float from `low` to `high`, or less than `high` if `below`; raises ArgumentError for anything else."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if real and low <= value <= high and not (below and value == high):
        return float(value)
    range_ = f"at least {low:g}" if high == _LARGEST else f"from {low:g} to {'below ' * below}{high:g}"
    raise ArgumentError(f"{name} must be a finite number {range_}; got {value!r}.")


def as_optimizer(
    name: Any,
    learning_rate: Any,
    l2: Any = 0.0,
    momentum: Any = 0.9,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    epsilon: Any = 1e-8,
) -> Optimizer:
    """The optimiser with these settings, each judged; raises ArgumentError naming the one that will not do."""
    return Optimizer(
        require_name("optimizer", name, OPTIMIZERS),
        as_real("learning_rate", learning_rate),
        as_real("l2", l2),
        as_real("momentum", momentum, high=1.0),
        as_real("beta1", beta1, high=1.0, below=True),
        as_real("beta2", beta2, high=1.0, below=True),
        as_real("epsilon", epsilon, low=_SMALLEST_NORMAL),
    )


def _refuse_foreign(name: str, value: Any) -> None:
    """Raises for the kinds of array that hold numbers this desk must not read as if they were an ndarray's."""
    if hasattr(value, "__cuda_array_interface__"):
        raise BackendUnavailable(
            f"{name} is a GPU array ({type(value).__module__}.{type(value).__name__}), and this release of fastmlp "
            f"takes arrays in the CPU's memory alone. Bring it there first, as CuPy's {name}.get() does; "
            "backend='cuda' copies it to the GPU."
        )
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(
            f"{name} is a masked array; its mask would be ignored. Fill it: {name}.filled(0), or drop the masked rows."
        )
    if hasattr(value, "tocsr"):
        raise DTypeError(f"{name} is a sparse matrix ({type(value).__name__}). Make it dense: {name}.toarray().")


def _plain_ndarray(name: str, value: Any) -> np.ndarray:
    _refuse_foreign(name, value)
    if not isinstance(value, np.ndarray):
        raise DTypeError(
            f"{name} must be a NumPy array; got {type(value).__name__}. Convert it: np.asarray({name}, np.float32)."
        )
    return value.view(np.ndarray)


def _any_array(name: str, value: Any) -> np.ndarray:
    _refuse_foreign(name, value)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"{name} must be a rectangular array: {error}.") from None
    if array.dtype.kind not in "biuf":
        cure = f"Take a part: {name}.real" if array.dtype.kind == "c" else f"Convert it: {name}.astype(np.float32)"
        raise DTypeError(f"{name} must hold booleans, integers or floats; got dtype {array.dtype}. {cure}.")
    return array


def _converted(name: str, array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """`array` in `dtype`; raises DTypeError for a value that cannot be held."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        converted = array.astype(dtype, order="C")
    kind, size = array.dtype.kind, array.dtype.itemsize
    if kind == "f" and size > dtype.itemsize:
        lost = np.isinf(converted)
        if lost.any():
            lost &= np.isfinite(array)
    elif kind in "iu" and size >= dtype.itemsize:
        # An integer is held exactly if its odd part fits the significand.
        magnitude = np.abs(array).astype(np.uint64) if kind == "i" else array.astype(np.uint64)
        lowest_bit = np.maximum(magnitude & (~magnitude + np.uint64(1)), np.uint64(1))
        lost = magnitude // lowest_bit > np.uint64(2 ** (np.finfo(dtype).nmant + 1))
    else:
        return converted
    if lost.any():
        place = np.unravel_index(int(lost.argmax()), lost.shape)
        index = ", ".join(str(int(i)) for i in place)
        raise DTypeError(
            f"{name}[{index}] is {array[place]}, which {dtype} cannot hold. Scale the data, or use dtype='float64'."
        )
    return converted


def _rank_hint(name: str, value: np.ndarray, width: int) -> str:
    if value.ndim != 1:
        return ""
    if value.size == width:
        return f" For one sample pass {name}[None, :]."
    return f" For samples of one number pass {name}[:, None]." if width == 1 else ""


def _same_memory(a: Any, b: Any) -> bool:
    """Whether two arrays are the same elements in the same places."""
    return a is b or (
        isinstance(a, np.ndarray)
        and isinstance(b, np.ndarray)
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and (a.shape, a.strides, a.dtype) == (b.shape, b.strides, b.dtype)
    )


def _overlap(a: np.ndarray, b: np.ndarray) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return np.shares_memory(a, b, max_work=_OVERLAP_WORK)
    except np.exceptions.TooHardError:
        return True


def _may_overlap_itself(array: np.ndarray) -> bool:
    """False if each stride steps over all that the smaller ones reach, as in every array but a contrived one."""
    if array.flags.c_contiguous or array.size == 0:
        return False
    reach = array.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(array.strides, array.shape, strict=True) if n > 1):
        if stride < reach:
            return True
        reach += stride * (length - 1)
    return False
