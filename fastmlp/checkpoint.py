"""Checkpoints: one safetensors file that holds all a network needs to go on, in any process, bit for bit.

Tensors, in the network's dtype (float32 where that has 16 bits): "layers.0.weight" (out, in) and "layers.0.bias" (out,)
as PyTorch's Linear keeps them, and the optimiser's memory, "optimizer.0.layers.0.weight" and so on, its first number
being the slot. Metadata: one entry, "fastmlp", a JSON object with `format` (1), `configuration` (the arguments of
`MLP`), `updates`, `epochs` and `random_state` (of the PCG64 that shuffles).
"""

import itertools
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy

from .errors import CheckpointError, FastMLPError, require_name
from .kernels import backend as backends
from .kernels.arrays import as_integer
from .kernels.contract import OPTIMIZERS
from .kernels.network import Optimizer
from .settings import as_widths

if TYPE_CHECKING:
    from .network import MLP

Net = TypeVar("Net", bound="MLP")

FORMAT = 1
ENTRY = "fastmlp"
STORED = {"float32": "F32", "float64": "F64", "bfloat16": "F32", "float16": "F32"}
COUNTS = ("updates", "epochs")
LARGEST_COUNT = 2**53
"""A kernel counts updates on from here in int64 and float64."""
DEFAULTS = {"precision": "highest"}
"""What the configuration of a file that was written before there was such an argument lacks."""
SETTINGS = {field.name for field in fields(Optimizer)[1:]}
CONFIGURATION = {"layers", "activation", "loss", "dtype", "optimizer", *SETTINGS, *DEFAULTS}


def save(net: "MLP", path: str | os.PathLike[str]) -> None:
    """Write `net` to `path`: completely, or not at all.

    The bytes go to a new file in the same folder and on to the disk, and only then take the place of what stood there,
    with its permissions. What is no file, as a pipe or a device, is written to instead.
    Raises the OSError of a file that cannot be written.
    """
    description, tensors = snapshot(net)
    content = safetensors.numpy.save(tensors, {ENTRY: json.dumps(description, allow_nan=False)})
    target = os.path.realpath(os.fsdecode(path))
    if os.path.exists(target) and not os.path.isfile(target):
        with open(target, "wb") as file:
            file.write(content)
        return
    temporary = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            if os.path.isfile(target):
                shutil.copymode(target, temporary)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def load(kind: "type[Net]", path: str | os.PathLike[str], backend: str = "auto") -> "Net":
    """The network that `save` wrote, of a class that is MLP or derived from it, to be run by `backend`.

    Raises CheckpointError for any file that is not such a checkpoint, whatever it holds, before memory is taken for a
    network. A file that cannot be opened raises its OSError (FileNotFoundError, PermissionError, IsADirectoryError), a
    backend that cannot run here BackendUnavailable.
    """
    backends.resolve(backend)
    path = os.fsdecode(path)
    with open(path, "rb"):  # an OSError of its own kind; safe_open knows fewer
        pass
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            _refuse_duplicates(path)
            description = _parse((file.metadata() or {}).get(ENTRY, "null"))
            _check(description, {name: _form(file.get_slice(name)) for name in file.keys()})  # noqa: SIM118
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return restore(kind, description, tensors, backend)
    except (safetensors.SafetensorError, FastMLPError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path!r} is not a fastmlp checkpoint: {error}") from error


def snapshot(net: "MLP") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """All that makes `net` go on as it would: a JSON description and copies of its tensors."""
    description = {
        "format": FORMAT,
        "configuration": net.configuration,
        **{name: getattr(net, name) for name in COUNTS},
        "random_state": net.random_state,
    }
    return description, {name: np.array(tensor, order="C") for name, tensor in _tensors(net).items()}


def restore(kind: "type[Net]", description: dict[str, Any], tensors: Mapping[str, np.ndarray], backend: str) -> "Net":
    """The network of a snapshot, of that class, whose own constructor is not called."""
    from .network import MLP

    net = kind.__new__(kind)
    MLP.__init__(net, **description["configuration"], backend=backend)
    for name, tensor in _tensors(net).items():
        tensor[...] = tensors[name]
    for name in COUNTS:
        count = as_integer(name, description[name], 0)
        if count > LARGEST_COUNT:
            raise CheckpointError(f"{name} must be {LARGEST_COUNT} at most; got {count}")
        setattr(net, name, count)
    net.random_state = description["random_state"]
    return net


def _tensors(net: "MLP") -> dict[str, np.ndarray]:
    """Live views of all the arrays of `net` by their names in a file."""
    tensors = {}
    for prefix, buffer in zip(_prefixes(len(net.optimizer_state)), (net.parameters, *net.optimizer_state), strict=True):
        for i, (w, b) in enumerate(zip(net.structure.weights(buffer), net.structure.biases(buffer), strict=True)):
            tensors[f"{prefix}layers.{i}.weight"] = w.T
            tensors[f"{prefix}layers.{i}.bias"] = b
    return tensors


def _prefixes(slots: int) -> list[str]:
    return ["", *(f"optimizer.{slot}." for slot in range(slots))]


def _form(stored: Any) -> tuple[str, tuple[int, ...]]:
    """Element type and shape of a tensor in a file, from the header alone."""
    return stored.get_dtype(), tuple(stored.get_shape())


def _check(description: Any, found: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    """Raise unless the description is complete and the file's tensors are just those it calls for."""
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise CheckpointError(f"its metadata must hold an entry {ENTRY!r} of format {FORMAT}")
    configuration = description.get("configuration")
    if description.keys() != {"format", "configuration", "random_state", *COUNTS} or not (
        isinstance(configuration, dict) and (DEFAULTS | configuration).keys() == CONFIGURATION
    ):
        raise CheckpointError("its description lacks an entry, or has one too many")
    widths = as_widths(configuration["layers"])
    slots = OPTIMIZERS[require_name("optimizer", configuration["optimizer"], OPTIMIZERS)].slots
    stored = STORED[require_name("dtype", configuration["dtype"], STORED)]
    expected: dict[str, tuple[str, tuple[int, ...]]] = {}
    for prefix in _prefixes(slots):
        for i, (k, m) in enumerate(itertools.pairwise(widths)):
            expected[f"{prefix}layers.{i}.weight"] = stored, (m, k)
            expected[f"{prefix}layers.{i}.bias"] = stored, (m,)
    for name in sorted(expected.keys() | found.keys()):
        if found.get(name) != expected.get(name):
            raise CheckpointError(f"tensor {name!r} must be {expected.get(name)}; it is {found.get(name)}")


def _parse(text: str) -> Any:
    """JSON in which no key stands twice."""
    return json.loads(text, object_pairs_hook=_unique)


def _refuse_duplicates(path: str | os.PathLike[str]) -> None:
    """Raise for a header that says a thing twice: safetensors, which has judged the rest of it, takes the last."""
    with open(path, "rb") as file:
        _parse(file.read(int.from_bytes(file.read(8), "little")).decode())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise CheckpointError("a key stands twice in its header")
    return result
