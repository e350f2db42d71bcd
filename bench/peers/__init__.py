"""Other frameworks, each at its best: the whole step compiled, the update inside it, the data already in its hands.

A peer offers *ways*, a name and a call each, where it cannot be known beforehand which is its best: a few calls of
every way are timed, and the fastest enters the contest. No framework is imported before it is asked for.
"""

from collections.abc import Sequence

from ...errors import ArgumentError, require_name
from .base import Calls, Peer, Trainer, Trainers
from .jax import Jax
from .onnxruntime import OnnxRuntime
from .sklearn import ScikitLearn
from .tensorflow import TensorFlow
from .torch import Torch, TorchBfloat16, TorchCompile

__all__ = ["PEERS", "Calls", "Peer", "Trainer", "Trainers", "load"]

_CLASSES = (Torch, TorchCompile, TorchBfloat16, Jax, ScikitLearn, TensorFlow, OnnxRuntime)

PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in _CLASSES}


def load(names: Sequence[str], threads: int) -> tuple[Peer, ...]:
    """The peers of these names; "numpy" is in every run as the reference, and so none of them.

    Raises ArgumentError for an unknown name and, with the cure, for a peer that is not installed.
    """
    found = []
    for name in dict.fromkeys(names):
        if require_name("--peers", name, ("numpy", *PEERS)) == "numpy":
            continue
        try:
            found.append(PEERS[name](threads))
        except (ImportError, OSError) as error:  # OSError: a shared library of its is missing or damaged
            raise ArgumentError(
                f"peer {name!r} cannot run here ({error}); `pip install {PEERS[name].cure}` would repair it"
            ) from error
    return tuple(found)
