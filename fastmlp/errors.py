"""The errors fastmlp raises. Each message says what was wrong, what was received and what would do."""

import difflib
from collections.abc import Collection


class FastMLPError(Exception):
    """Base of every error that fastmlp raises on purpose."""


class ArgumentError(FastMLPError, ValueError):
    """An argument has a value that cannot be used."""


class ShapeError(ArgumentError):
    """An array has the wrong rank or a dimension that does not fit."""


class DTypeError(FastMLPError, TypeError):
    """An array has an element type or a kind that would lose data or cannot be read."""


class BackendUnavailable(FastMLPError, RuntimeError):
    """The backend asked for by name cannot run here; the message gives the reason and the cure."""


class DeviceMemoryError(FastMLPError, MemoryError):
    """The GPU's memory is full; the message says what takes less.

    `steps` is how many whole steps the call that raised it had made, all of which are in the weights.
    """

    steps = 0


class CheckpointError(FastMLPError):
    """A file is not a readable fastmlp checkpoint."""


def require_name(argument: str, received: object, known: Collection[str]) -> str:
    """`received` if it is one of the `known` names; raises ArgumentError naming the nearest known one."""
    if isinstance(received, str) and received in known:
        return received
    names = list(known)
    near = difflib.get_close_matches(str(received).lower(), names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ArgumentError(f"{argument} must be one of {', '.join(map(repr, names))}; got {received!r}.{hint}")
