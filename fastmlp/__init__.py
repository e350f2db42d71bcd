"""fastmlp: multilayer perceptrons on hand-tuned CPU kernels. Importing it loads neither NumPy nor Numba."""

import importlib
import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# In a checkout kernels/ and bench/ stand beside this folder; in a wheel they lie inside it.
if not os.path.isdir(os.path.join(os.path.dirname(__file__), "kernels")):
    __path__.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

if TYPE_CHECKING:
    from . import energy
    from .article import NeuralNetwork, test, train
    from .errors import (
        ArgumentError,
        BackendUnavailable,
        CheckpointError,
        DeviceMemoryError,
        DTypeError,
        FastMLPError,
        ShapeError,
    )
    from .kernels.cores import get_num_threads, num_threads, set_num_threads
    from .network import MLP
    from .warming import warmup

_HOME = {
    "MLP": "network",
    "NeuralNetwork": "article",
    "train": "article",
    "test": "article",
    "ArgumentError": "errors",
    "BackendUnavailable": "errors",
    "CheckpointError": "errors",
    "DTypeError": "errors",
    "DeviceMemoryError": "errors",
    "FastMLPError": "errors",
    "ShapeError": "errors",
    "energy": "energy",
    "get_num_threads": "kernels.cores",
    "load_ipython_extension": "sklearn",
    "num_threads": "kernels.cores",
    "set_num_threads": "kernels.cores",
    "unload_ipython_extension": "sklearn",
    "warmup": "warming",
}

__all__ = [
    "MLP",
    "ArgumentError",
    "BackendUnavailable",
    "CheckpointError",
    "DTypeError",
    "DeviceMemoryError",
    "FastMLPError",
    "NeuralNetwork",
    "ShapeError",
    "energy",
    "get_num_threads",
    "num_threads",
    "set_num_threads",
    "test",
    "train",
    "warmup",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module at its first use."""
    if name not in _HOME:
        raise AttributeError(f"module 'fastmlp' has no attribute {name!r}")
    module = importlib.import_module(f".{_HOME[name]}", __name__)
    value = module if name == _HOME[name] else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
