"""The customs desk: the one place where shape, dtype, writability and overlap are judged, and a copy may be made.

What passes here is what a kernel may assume: C-contiguous, element-aligned ndarrays of one dtype, outputs that are
writable and overlap nothing. Nothing is written before everything has been judged.

Two kinds of caller, two rules of conversion:

* The operations of `ops` take ndarrays, all float32 or all float64, and convert nothing.
* A network takes any array-like of booleans, integers or floats and converts it to its own dtype. A float is rounded to
  nearest; a finite one beyond the dtype's range and an integer that it cannot hold exactly are refused.

Arrays on a GPU stay there: `gpu_arrays` makes device arrays of them, CuPy's, which share their memory and are judged,
copied and converted on their own device by the same lines as NumPy's.

Either way strided, reversed, Fortran-ordered and misaligned arrays are copied and give the same bits; masked, sparse,
object, complex, text and date arrays are refused. Samples and parameters may hold NaN and Inf, which propagate;
targets must be finite, since one NaN there would turn every weight into NaN.
"""

import numbers
from typing import Any

import numpy as np

from fastmlp.errors import ArgumentError, DTypeError, ShapeError, require_name

from .contract import ALL_NETWORK_DTYPES, DTYPES, LOSSES, OPTIMIZERS
from .gpu_arrays import BRING_HOME, adopt, is_gpu_array, kind, name_of, place_of, read_only, require_one_place, shadow
from .network import Network, Optimizer

_FLOATS = tuple(np.dtype(name) for name in DTYPES)
_INT64 = np.dtype(np.int64)
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
_LARGEST = float(np.finfo(np.float32).max)
_OVERLAP_WORK: Any = 10_000  # NumPy's stub knows 0 and -1 only
"""How hard np.shares_memory may think, 0.2 ms; what it cannot decide by then counts as overlapping."""


def as_operand(name: str, value: Any, ndim: int = 2) -> Any:
    """A kernel-ready input of an operation: `value` itself, or a contiguous copy; a device array for one on a GPU.

    Raises DTypeError unless it is a float32 or float64 array, ShapeError unless it has `ndim` dimensions.
    """
    if type(value) is not np.ndarray:
        value = _plain_array(name, value)
    if value.dtype not in _FLOATS:
        raise DTypeError(
            f"{name} must be float32 or float64; got {value.dtype}. Convert it: {name}.astype(np.float32)."
        )
    if value.ndim != ndim:
        raise ShapeError(f"{name} must have {ndim} dimension{'s' * (ndim != 1)}; got shape {value.shape}.")
    return contiguous(value)


def require_one_dtype(**operands: Any) -> np.dtype:
    """The dtype that all operands have; raises DTypeError if they differ."""
    (first, reference), *others = operands.items()
    for name, array in others:
        if array.dtype != reference.dtype:
            raise DTypeError(
                f"{name} must have the dtype of {first}, {reference.dtype}; got {array.dtype}. "
                f"Convert one of them: {name}.astype(np.{reference.dtype})."
            )
    dtype: np.dtype = reference.dtype
    return dtype


def require_shape(name: str, array: Any, shape: tuple[int, ...], why: str) -> None:
    """Raises ShapeError unless array.shape is `shape`; `why` says what asks for it."""
    if array.shape != shape:
        raise ShapeError(f"{name} must have shape {shape} {why}; got {array.shape}.")


def contiguous(array: Any) -> Any:
    """`array` itself if it is C-contiguous and element-aligned, else a copy that is, on the same device."""
    flags = array.flags
    if type(array) is np.ndarray:
        return array if flags.c_contiguous and flags.aligned else array.copy(order="C")
    if flags.c_contiguous:
        return array
    with array.device:
        return array.copy(order="C")


def as_output(
    name: str, out: Any, shape: tuple[int, ...], dtype: np.dtype, inputs: dict[str, Any], may_be: str | None = None
) -> Any:
    """What the kernel writes for the caller's `out`: `out` itself, or a contiguous copy for `deliver` to bring home.

    `inputs` are the caller's other arrays; `out` may share memory with none of them, except that it may be exactly the
    one named by `may_be`. Raises DTypeError for anything but an array of `dtype`, ShapeError for another shape,
    ArgumentError for one that is read-only, overlaps itself or another, or lies elsewhere than the first of them.
    """
    given = out
    if type(out) is not np.ndarray:
        out = _plain_array(name, out)
    if out.dtype != dtype:
        raise DTypeError(f"{name} must have dtype {dtype}, that of the inputs; got {out.dtype}.")
    if out.shape != shape:
        raise ShapeError(f"{name} must have shape {shape}; got {out.shape}.")
    writeable = out.flags.writeable if type(out) is np.ndarray else not read_only(given)
    if not writeable:
        raise ArgumentError(f"{name} is read-only and cannot be written; pass a writable array or a copy of it.")
    if _may_overlap_itself(shadow(out)):
        raise ArgumentError(
            f"{name} has elements that share memory (shape {out.shape}, strides {out.strides}), as a broadcast array "
            f"has; pass an array of its own: np.empty({shape}, np.{dtype})."
        )
    place = place_of(out)
    for other, array in inputs.items():
        if type(array) is not np.ndarray:
            if array is None:
                continue
            array = _plain_array(other, array)
        if place_of(array) != place:
            require_one_place(**{other: array, name: out})
        if other == may_be and _same_memory(out, array):
            continue
        if _overlap(shadow(out), shadow(array)):
            raise ArgumentError(f"{name} overlaps {other} in memory; pass a separate array or {other}.copy().")
    return contiguous(out)


def deliver(out: Any, written: Any) -> None:
    """Copy what the kernel wrote home to the caller's `out`, where `as_output` had to put a copy in its place."""
    if out is written or out is None:
        return
    if type(written) is np.ndarray:
        if not _same_memory(out, written):
            np.copyto(out, written)
        return
    out = adopt("out", out)
    if not _same_memory(out, written):
        with written.device:
            out[...] = written


def as_samples(name: str, value: Any, width: int, dtype: np.dtype, gpu: int | None = None) -> Any:
    """A network's input: value as a kernel-ready [n, width] array of `dtype`, a copy only where needed.

    `gpu` is the device where the network computes, the current one, whose arrays stay there; None takes no GPU arrays.
    Raises DTypeError for a kind or a value that `dtype` cannot hold, ShapeError unless it is [n, width], ArgumentError
    for a GPU array that lies elsewhere than the network computes.
    """
    if type(value) is not np.ndarray or value.dtype != dtype:
        value = _any_array(name, value, gpu)
    elif value.ndim == 2 and value.shape[1] == width:
        return contiguous(value)
    if value.ndim != 2 or value.shape[1] != width:
        raise ShapeError(
            f"{name} must have shape (n, {width}), one row a sample; got {value.shape}.{_rank_hint(name, value, width)}"
        )
    return contiguous(_converted(name, value, dtype))


def as_target(name: str, value: Any, n: int, network: Network, gpu: int | None = None) -> Any:
    """The targets of n samples, as the network's loss takes them: [n, m] of its dtype, or int64 labels [n].

    `gpu` is as in `as_samples`.

    * mse, half_mse: finite values (n, m), or (n,) where m is 1;
    * binary_cross_entropy, binary_log_loss: the same, within [0, 1];
    * cross_entropy, log_loss: integer labels (n,) or (n, 1) from 0 to m - 1, or (n, m) probabilities, each row
      adding up to 1 within 1e-3. They need at least two outputs.

    Raises DTypeError, ShapeError or ArgumentError naming the first offending element.
    """
    takes, m, dtype = LOSSES[network.loss].target, network.widths[-1], network.dtype
    if type(value) is not np.ndarray or (value.dtype != dtype and value.dtype != _INT64):
        value = _any_array(name, value, gpu)
    if takes == "classes":
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
        also = f", or {n} integer labels" if takes == "classes" else f", or ({n},)" if m == 1 else ""
        raise ShapeError(f"{name} must have shape ({n}, {m}){also}; got {value.shape}.")
    target = contiguous(_converted(name, value, dtype))
    _require_finite(name, target)
    if takes != "values":
        _require_probabilities(name, target)
    if takes == "classes":
        sums = target.sum(axis=1, dtype=np.float64)
        _refuse_where(abs(sums - 1) > 1e-3, sums, f"each row of {name} must add up to 1 within 1e-3; the sum of row")
    return target


def _as_labels(name: str, value: Any, n: int, m: int) -> Any:
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


def _require_finite(name: str, array: Any) -> None:
    finite = np.isfinite(array)
    is_all = np.count_nonzero(finite) == finite.size if type(finite) is np.ndarray else finite.all()  # 1 us sooner
    if not is_all:
        _refuse_where(~finite, array, f"{name} must be finite; the element at")


def _require_probabilities(name: str, array: Any) -> None:
    if array.size and (array.min() < 0 or array.max() > 1):
        _refuse_where((array < 0) | (array > 1), array, f"{name} must hold probabilities from 0 to 1; the element at")


def _refuse_where(bad: Any, values: Any, message: str) -> None:
    """Raises ArgumentError naming the first element where `bad`, if there is one."""
    if bad.any():
        place = np.unravel_index(int(bad.argmax()), bad.shape)
        index = ", ".join(str(int(i)) for i in place)
        raise ArgumentError(f"{message} [{index}] is {values[place]}.")


def as_network_dtype(name: str, value: Any) -> str:
    """A name of contract.ALL_NETWORK_DTYPES from itself or what NumPy takes for one; raises ArgumentError otherwise."""
    try:
        dtype = None if value is None else np.dtype(value)
    except TypeError:  # as "bfloat16" is to NumPy, unless another package has taught it
        dtype = None
    return require_name(name, value if dtype is None else dtype.name, ALL_NETWORK_DTYPES)


def as_integer(name: str, value: Any, minimum: int = 1) -> int:
    """An int of at least `minimum`; raises ArgumentError for anything else, True and 3.0 included."""
    if isinstance(value, int | np.integer) and not isinstance(value, bool) and value >= minimum:
        return int(value)
    raise ArgumentError(f"{name} must be an integer of at least {minimum}; got {value!r}.")


def as_real(
    name: str, value: Any, low: float = 0.0, high: float = _LARGEST, above: bool = False, below: bool = False
) -> float:
    """A finite float from `low` to `high`, if `above` more than `low` and if `below` less than `high`.

    Raises ArgumentError for anything else.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if real and low <= value <= high and not (above and value == low) and not (below and value == high):
        return float(value)
    range_ = f"{'above' if above else 'at least'} {low:g} and {'below' if below else 'at most'} {high:.8g}"
    raise ArgumentError(f"{name} must be a finite number {range_}; got {value!r}.")


def as_flag(name: str, value: Any) -> bool:
    """A bool; raises ArgumentError for anything else, for a string such as "no" is true."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise ArgumentError(f"{name} must be True or False; got {value!r}.")


def as_optimizer(
    name: Any, learning_rate: Any, l2: Any, momentum: Any, beta1: Any, beta2: Any, epsilon: Any
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
    if isinstance(value, np.ma.MaskedArray):
        raise DTypeError(
            f"{name} is a masked array; its mask would be ignored. Fill it: {name}.filled(0), or drop the masked rows."
        )
    if hasattr(value, "tocsr"):
        raise DTypeError(f"{name} is a sparse matrix ({type(value).__name__}). Make it dense: {name}.toarray().")


def _plain_array(name: str, value: Any) -> Any:
    if is_gpu_array(value):
        return adopt(name, value)
    _refuse_foreign(name, value)
    if not isinstance(value, np.ndarray):
        raise DTypeError(
            f"{name} must be a NumPy array; got {type(value).__name__}. Convert it: np.asarray({name}, np.float32)."
        )
    return value.view(np.ndarray)


def _any_array(name: str, value: Any, gpu: int | None) -> Any:
    array = _on_gpu(name, value, gpu) if is_gpu_array(value) else _on_host(name, value)
    if array.dtype.kind not in "biuf":
        cure = f"Take a part: {name}.real" if array.dtype.kind == "c" else f"Convert it: {name}.astype(np.float32)"
        if array.ndim == 0 and array.dtype.kind == "O":  # what NumPy takes for one thing: None, a generator
            raise DTypeError(
                f"{name} must be an array of booleans, integers or floats; got {type(value).__name__}. Collect what it "
                f"gives first: np.array(list({name}), np.float32)."
            )
        raise DTypeError(f"{name} must hold booleans, integers or floats; got dtype {array.dtype}. {cure}.")
    return array


def _on_gpu(name: str, value: Any, gpu: int | None) -> Any:
    home = BRING_HOME.format(name=name)
    if gpu is None:
        raise ArgumentError(
            f"{name} is a GPU array ({kind(value)}), and the network computes in the CPU's memory; have it compute on "
            f"the GPU with net.to('cuda'), or {home}."
        )
    array = adopt(name, value)
    if place_of(array) != gpu:
        raise ArgumentError(
            f"{name} lies {name_of(place_of(array))} and the network computes {name_of(gpu)}; copy it there, as "
            f"cupy.asarray({name}) does while that device is the current one, or {home}."
        )
    return array


def _on_host(name: str, value: Any) -> np.ndarray:
    _refuse_foreign(name, value)
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"{name} must be a rectangular array: {error}.") from None


def _converted(name: str, array: Any, dtype: np.dtype) -> Any:
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


def _rank_hint(name: str, value: Any, width: int) -> str:
    if value.ndim != 1:
        return ""
    if value.size == width:
        return f" For one sample pass {name}[None, :]."
    return f" For samples of one number pass {name}[:, None]." if width == 1 else ""


def _same_memory(a: Any, b: Any) -> bool:
    """Whether two arrays are the same elements in the same places."""
    if a is b:
        return True
    a, b = shadow(a), shadow(b)
    return bool(
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
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
