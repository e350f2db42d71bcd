"""The checks of the CUDA backend on a GPU, by name; each returns facts or raises AssertionError or Skipped.

`small` asks for sizes that the simulator and compute-sanitizer do in seconds. tests/test_cuda_device.py runs them all.
"""

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ... import kernels
from ...errors import ArgumentError, BackendUnavailable, DeviceMemoryError
from ...kernels import backend as backends
from ...kernels import gpu
from ...kernels.contract import ACTIVATIONS, ALL_NETWORK_DTYPES, DTYPES, LOSSES, OPTIMIZERS
from ...kernels.network import Network, Optimizer
from ...network import MLP
from ..training import Trial, agree
from ..workloads import Workload, one_hot
from .evaluation import Case, Output, Skipped, cuda, fetch, graphs_are

Check = Callable[[bool], dict[str, Any]]

SHAPES = [(1, 1, 1), (65, 17, 129), (128, 784, 256), (1000, 257, 33)]
SMALL_SHAPES = [(1, 1, 1), (9, 7, 5)]

WIDE = (1030, 2100, 1024, 10)
"""A network whose products take every kind of tile on Hopper, on 2100 rows: see layers.Elements.tiled."""


def checks() -> dict[str, Check]:
    """Every check by its name."""
    found: dict[str, Check] = {}
    for dtype in DTYPES:
        for transposes in ((False, False), (True, False), (False, True), (True, True)):
            found[f"matmul {dtype} transposed {transposes}"] = partial(_matmul, dtype, transposes)
        found[f"bias_add and mse {dtype}"] = partial(_elementwise, dtype)
        for activation in ACTIVATIONS:
            found[f"layer {activation} {dtype}"] = partial(_layer, dtype, activation, "sgd")
        for optimizer in OPTIMIZERS:
            found[f"update {optimizer} {dtype}"] = partial(_layer, dtype, "relu", optimizer)
        for loss in LOSSES:
            found[f"loss {loss} {dtype}"] = partial(_loss, dtype, loss)
    for dtype in ALL_NETWORK_DTYPES:
        for loss, optimizer in (("mse", "sgd"), ("cross_entropy", "adam"), ("mse", "nesterov")):
            found[f"network {loss} {optimizer} {dtype}"] = partial(_network, dtype, loss, optimizer)
    for loss, optimizer in (("mse", "momentum"), ("cross_entropy", "adamw")):
        narrow = partial(_network, "bfloat16", loss, optimizer, widths=(100, 127, 70, 10))
        found[f"narrow network {loss} {optimizer} bfloat16"] = narrow
    for dtype in ("float32", "high", "bfloat16", "float16"):
        found[f"wide network mse adam {dtype}"] = partial(_network, dtype, "mse", "adam", widths=WIDE, batch=2100)
    return found | {
        "the same bits on every run": _same_bits,
        **{f"steps as a CUDA graph {dtype}": partial(_graphs, dtype) for dtype in ALL_NETWORK_DTYPES},
        "arrays of the GPU at the public face": _public_face,
        "PyTorch's tensors by DLPack": _torch,
        "a stream of one's own": _stream,
        "parameters stay on the device, views stay live": _residence,
        "checkpoints and net.to keep every bit": _moves,
        "a full memory leaves the last whole step": _full_memory,
        "a forked child is told to spawn": _forked,
        "a grid of more than 65,535 blocks": partial(_many, 2**25 + 3),
        "more than 2^31 elements": partial(_many, 2**31 + 2**20 + 3),
    }


def _random(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    rng = np.random.default_rng(len(shapes) + sum(map(sum, shapes)))
    return [rng.standard_normal(shape) for shape in shapes]


def _worst(dtype: str, cases: Iterator[Case]) -> dict[str, Any]:
    return {"error_over_allowed": max(case.evaluate(dtype) for case in cases)}


def _matmul(dtype: str, transposes: tuple[bool, bool], small: bool) -> dict[str, Any]:
    def cases() -> Iterator[Case]:
        for n, k, m in SMALL_SHAPES if small else SHAPES:
            a, b = _random((k, n) if transposes[0] else (n, k), (m, k) if transposes[1] else (k, m))
            call = lambda module, on: module.matmul(on["a"], on["b"], on["out"], *transposes)  # noqa: E731
            yield Case(call, {"a": a, "b": b}, {"out": (n, m)})

    return _worst(dtype, cases())


def _elementwise(dtype: str, small: bool) -> dict[str, Any]:
    def cases() -> Iterator[Case]:
        for n, _, m in SMALL_SHAPES if small else SHAPES:
            x, t, b = _random((n, m), (n, m), (m,))
            yield Case(
                lambda module, on: module.bias_add(on["x"], on["b"], on["out"]), {"x": x, "b": b}, {"out": (n, m)}
            )
            yield Case(lambda module, on: module.mse(on["x"], on["t"], on["dx"]), {"x": x, "t": t}, {"dx": (n, m)})

    return _worst(dtype, cases())


def _layer(dtype: str, activation: str, optimizer: str, small: bool) -> dict[str, Any]:
    rule = Optimizer(optimizer, learning_rate=0.1, l2=0.01)

    def cases() -> Iterator[Case]:
        for n, k, m in SMALL_SHAPES if small else SHAPES:
            x, w, b, saved, dy = _random((n, k), (k, m), (m,), (n, m), (n, m))
            w /= np.sqrt(k)
            forward = lambda module, on: module.linear_forward(  # noqa: E731
                on["x"], on["w"], on["b"], on["y"], on["z"], activation
            )
            yield Case(forward, {"x": x, "w": w, "b": b}, {"y": (n, m), "z": (n, m)})
            backward = lambda module, on: module.linear_backward_update(  # noqa: E731
                on["x"], on["w"], on["b"], on["saved"], on["dy"], on["dz"], on["dx"], activation, rule, on["state"], 3
            )
            memory = abs(_random((rule.slots, (k + 1) * m))[0])
            yield Case(
                backward,
                {"x": x, "saved": saved, "dy": dy / n},
                {"dz": (n, m), "dx": (n, k)},
                {"w": w, "b": b, "state": memory},
            )

    return _worst(dtype, cases())


def _loss(dtype: str, loss: str, small: bool) -> dict[str, Any]:
    def cases() -> Iterator[Case]:
        for n, _, m in SMALL_SHAPES[1:] if small else SHAPES[1:]:
            y, t = _random((n, m), (n, m))
            targets = [t]
            if LOSSES[loss].target == "classes":
                targets = [np.exp(t) / np.exp(t).sum(axis=1, keepdims=True), abs(t).argmax(axis=1)]
            elif LOSSES[loss].target == "probabilities":
                targets = [1 / (1 + np.exp(-t))]
            for target in targets:

                def call(module: Any, on: Any, m: int = m) -> float:
                    network = Network((1, m), ("identity",), loss, np.dtype(on["y"].dtype))
                    return float(module.loss(network, on["y"], on["t"], on["dy"]))

                yield Case(call, {"y": y, "t": target}, {"dy": (n, m)})

    return _worst(dtype, cases())


def _workload(small: bool, **settings: Any) -> Workload:
    widths, batch = ((5, 6, 3), 4) if small else ((100, 130, 70, 10), 128)
    return Workload("check", widths, "tanh", batch_size=batch, samples=3 * batch + batch // 2, shuffle=True, **settings)


def _require_dtype(dtype: str) -> None:
    try:
        backends.require_dtype("cuda", dtype)
    except BackendUnavailable as error:
        raise Skipped(str(error)) from None


def _network(
    dtype: str, loss: str, optimizer: str, small: bool, widths: tuple[int, ...] | None = None, batch: int | None = None
) -> dict[str, Any]:
    """Trained as the reference trains it; of these widths, and on one whole and one short batch of so many rows."""
    _require_dtype("float32" if dtype == "high" else dtype)
    workload = _workload(small, loss=loss, optimizer=optimizer, learning_rate=1e-2, make=one_hot)
    if widths is not None and not small:
        workload = replace(workload, widths=widths)
    if batch is not None and not small:
        workload = replace(workload, batch_size=batch, samples=batch + batch // 3)
    verdict, first_call_s = agree(Trial(workload, workload.make(workload), dtype), "cuda")
    assert verdict["agree"], (
        f"error {verdict['error_over_allowed']} times the allowed one after {verdict['steps']} steps"
    )
    return verdict | {"first_call_s": first_call_s}


def _net(small: bool, **options: Any) -> tuple[MLP, np.ndarray, np.ndarray]:
    workload = _workload(small)
    data = one_hot(workload)
    settings = {"loss": "mse", "optimizer": "adam", "backend": "cuda", **options}
    return MLP(workload.widths, "tanh", **settings), data.x, data.t


def _bits(net: MLP) -> tuple[bytes, bytes, int]:
    return net.parameters.tobytes(), net.optimizer_state.tobytes(), net.updates


def _same_bits(small: bool) -> dict[str, Any]:
    nets = [_net(small)[0] for _ in range(2)]
    _, x, t = _net(small)
    for net in nets:
        net.fit(x, t, epochs=3, batch_size=4 if small else 100, progress=False)
    assert _bits(nets[0]) == _bits(nets[1]), "two runs differ"
    return {}


def _graphs(dtype: str, small: bool) -> dict[str, Any]:
    """Whole fits and single steps by graphs have the bits of those launched kernel by kernel."""
    _require_dtype(dtype)
    workload = _workload(small)
    widths = workload.widths if small else (100, 700, 500, 10)  # too large to be trained on chip
    x, t = (
        array.astype(np.float32) for array in _random((workload.samples, widths[0]), (workload.samples, widths[-1]))
    )
    nets = [MLP(widths, "tanh", optimizer="adamw", l2=0.01, dtype=dtype, backend="cuda") for _ in range(2)]
    if "CUDA graph" not in str(nets[0].plan(workload.batch_size)):
        raise Skipped("a network this small is trained in one launch")
    started = []
    for net, choice in zip(nets, ("on", "off"), strict=True):
        with graphs_are(choice):
            for shuffle in (True, False):
                net.fit(x, t, epochs=3, batch_size=workload.batch_size, shuffle=shuffle, progress=False)
            net.learning_rate /= 2
            for _ in range(4):
                net.train_step(x, t)
            started.append(net._training.steps.graphs.started)
    assert _bits(nets[0]) == _bits(nets[1]), "a graph's step differs from its launches"
    assert started[1] == 0 < started[0], f"steps started as graphs: {started}"
    return {"steps": nets[0].updates, "started_as_graphs": started[0]}


def _public_face(small: bool) -> dict[str, Any]:
    n, k, m = SMALL_SHAPES[-1] if small else SHAPES[1]
    a, b = (array.astype(np.float32) for array in _random((n, k), (k, m)))
    module = cuda()
    a_, b_, out = module.resident(a), module.resident(b), Output((n, m), np.dtype(np.float32))
    result = kernels.matmul(a_, b_)
    assert isinstance(result, module.DeviceArray)
    assert kernels.matmul(a_, b_, out.array) is out.array
    assert fetch(result).tobytes() == out.fetch().tobytes() == kernels.matmul(a, b, backend="cuda").tobytes()
    strided = kernels.matmul(module.resident(np.repeat(a, 2, axis=1))[:, ::2], b_)
    assert fetch(strided).tobytes() == fetch(result).tobytes(), "a strided array"
    _refused(ArgumentError, "overlaps", lambda: kernels.bias_add(a_[1:], a_[0], a_[:-1]))
    _refused(ArgumentError, "lies in the CPU's memory", lambda: kernels.matmul(a_, b))
    net, x, t = _net(small)
    x_, t_ = module.resident(x), module.resident(t)
    assert net.loss(x_, t_) == net.loss(x, t)
    assert fetch(net.predict(x_)).tobytes() == net.predict(x).tobytes()
    t[1, 1] = np.nan
    _refused(ArgumentError, r"the element at [1, 1] is nan", lambda: net.train_step(x_, module.resident(t)))
    return {}


def _refused(error: type[Exception], words: str, use: Callable[[], object]) -> None:
    told = "nothing was refused"
    try:
        use()
    except error as raised:
        told = str(raised)
    assert words in told, told


def _torch(small: bool) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise Skipped(str(error)) from None
    if not torch.cuda.is_available():
        raise Skipped("PyTorch sees no GPU")
    a, b = (torch.rand(shape, device="cuda") for shape in ((65, 17), (17, 30)))
    out = torch.full((65, 30), float("nan"), device="cuda")
    result = kernels.matmul(a, b)
    assert type(result) is torch.Tensor
    assert result.is_cuda
    assert kernels.matmul(a, b, out) is out
    torch.cuda.synchronize()
    assert torch.equal(out, result)
    assert torch.allclose(result.double(), a.double() @ b.double(), rtol=1e-4, atol=1e-4)
    _refused(Exception, "that cannot be taken over", lambda: kernels.matmul(a.requires_grad_(), b))
    return {}


def _stream(small: bool) -> dict[str, Any]:
    try:
        import cupy
    except ImportError as error:
        raise Skipped(str(error)) from None
    a = cupy.random.rand(1000, 1000, dtype=cupy.float32)
    expected = kernels.matmul(a, a)
    cupy.cuda.get_current_stream().synchronize()
    with cupy.cuda.Stream(non_blocking=True) as stream:
        result = kernels.matmul(a, a)
        stream.synchronize()
    assert bool((result == expected).all())
    return {}


def _residence(small: bool) -> dict[str, Any]:
    (net, x, t), (watched, _, _) = _net(small), _net(small)
    view = watched.weights[0]
    for _ in range(3):
        net.train_step(x, t)
        watched.train_step(x, t)
    assert view.tobytes() == net.weights[0].tobytes(), "a view that is held"
    view[0, 0] = net.weights[0][0, 0] = 0.25
    net.train_step(x, t)
    watched.train_step(x, t)
    assert _bits(net) == _bits(watched)
    return {}


def _moves(small: bool) -> dict[str, Any]:
    net, x, t = _net(small)
    net.fit(x, t, epochs=1, progress=False)
    before = _bits(net)
    try:
        with tempfile.TemporaryDirectory() as folder:
            net.save(Path(folder) / "net")
            assert _bits(MLP.load(Path(folder) / "net", "cuda")) == before
    except ImportError as error:  # safetensors
        raise Skipped(str(error)) from None
    assert _bits(net.to("numpy")) == before
    assert _bits(net.to("cuda")) == before
    return {}


def _full_memory(small: bool) -> dict[str, Any]:
    try:
        import cupy
    except ImportError as error:
        raise Skipped(str(error)) from None
    net, x, t = _net(small)
    net.fit(x, t, epochs=1, progress=False)
    before, pool = _bits(net), cupy.get_default_memory_pool()
    pool.free_all_blocks()
    pool.set_limit(size=pool.total_bytes() + 2**20)
    try:
        large = np.zeros((2**16, x.shape[1]), np.float32)
        _refused(DeviceMemoryError, "GiB free", lambda: net.predict(large))
        assert _bits(net) == before
    finally:
        pool.set_limit(size=0)
    net.fit(x, t, epochs=1, progress=False)
    return {}


def _forked(small: bool) -> dict[str, Any]:
    if not hasattr(os, "fork"):
        raise Skipped("this system has no fork")
    if not gpu.started_here():
        raise Skipped("the simulator starts no driver")
    net, x, _ = _net(small)
    child = os.fork()
    if child == 0:
        try:
            _refused(BackendUnavailable, "'spawn'", lambda: net.predict(x))
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "the child was not told"
    return {}


def _many(elements: int, small: bool) -> dict[str, Any]:
    """bias_add in place on so many elements: the first rows, the last, and those about every multiple of 2^31 bytes."""
    columns = 64
    rows = 70 if small else -(-elements // columns)
    module = cuda()
    try:
        x = module.empty((rows, columns), np.dtype(np.float32))
    except DeviceMemoryError as error:
        raise Skipped(str(error)) from None
    b = np.arange(columns, dtype=np.float32)
    x[...] = 1
    module.bias_add(x, module.resident(b), x)
    step = max(1, 2**29 // columns)
    for place in {0, rows - 8, *range(0, rows - 8, step)}:
        around = slice(max(0, place - 8), place + 8)
        assert (fetch(x[around]) == b + 1).all(), f"rows from {place - 8}"
    return {"elements": x.size}
