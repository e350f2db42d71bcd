"""The judgement of a network's shape: each function returns the value ready for use or raises a typed error."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from .errors import ArgumentError, DTypeError, require_name
from .kernels.arrays import as_integer
from .kernels.contract import ACTIVATIONS

LARGEST_SIZE = 2**48
"""Of parameters: 1 PiB of float32, more than processors of today address."""


def as_widths(layers: object) -> tuple[int, ...]:
    """The widths of a network, input first: two or more, each 1 or more."""
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise DTypeError(f"layers must be a sequence of widths such as (64, 128, 10); got {layers!r}.")
    widths = tuple(as_integer(f"layers[{i}]", width) for i, width in enumerate(layers))
    if len(widths) < 2:
        raise ArgumentError(
            f"layers must hold at least an input and an output width, as (64, 10) does; got {layers!r}."
        )
    size = sum((k + 1) * m for k, m in pairwise(widths))
    if size >= LARGEST_SIZE:
        raise ArgumentError(f"layers must make less than 2**48 parameters; got {layers!r}, which make {size}.")
    return widths


def as_activations(activation: object, output_activation: object, layers: int) -> tuple[str, ...]:
    """One activation for each of so many layers; `MLP` says what may be given."""
    output = require_name("output_activation", output_activation, ACTIVATIONS)
    if isinstance(activation, str):
        return (*[require_name("activation", activation, ACTIVATIONS)] * (layers - 1), output)
    if not isinstance(activation, Iterable):
        raise DTypeError(f"activation must be a name or a sequence of names; got {activation!r}.")
    names = tuple(require_name(f"activation[{i}]", name, ACTIVATIONS) for i, name in enumerate(activation))
    if len(names) == layers - 1:
        return (*names, output)
    if len(names) != layers:
        raise ArgumentError(
            f"activation must be one name, or {layers - 1} (one a hidden layer) or {layers} (one a layer); "
            f"got {len(names)} names."
        )
    if output != "identity":
        raise ArgumentError(
            f"activation names one a layer, {names[-1]!r} for the last, so output_activation must be left out; "
            f"got {output!r}."
        )
    return names


def as_callbacks(callbacks: object) -> tuple[Callable[[Any], object], ...]:
    """The callbacks of a fit."""
    if not isinstance(callbacks, Iterable):
        raise DTypeError(f"callbacks must be a sequence of callables, as (EarlyStopping(),) is; got {callbacks!r}.")
    result = tuple(callbacks)
    for i, callback in enumerate(result):
        if not callable(callback):
            raise DTypeError(f"callbacks[{i}] must be callable with an Epoch; got {callback!r}.")
    return result
