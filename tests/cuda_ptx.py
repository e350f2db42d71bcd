"""Compiles every kernel of the CUDA backend to PTX and prints what came of each as JSON; needs no GPU and no driver.

Run as a program, for it puts stand-ins where CuPy and the driver would be asked. See test_cuda_ptx.py.
"""

import itertools
import json
import re
import sys
from importlib import import_module
from types import ModuleType, SimpleNamespace

import numpy as np
from numba import cuda, from_dtype, types
from numba.cuda import dispatcher

from fastmlp.kernels.contract import ACTIVATIONS, OPTIMIZERS

ARCHITECTURE = (8, 0)

sys.modules["cupy"] = ModuleType("cupy")
sys.modules["cupy"].ndarray = np.ndarray
dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=ARCHITECTURE)

MODULES = (
    "batches",
    "bias_add",
    "linear_backward_update",
    "linear_forward",
    "losses",
    "matmul",
    "product",
    "reduction",
    "steps",
)
CUDA = {name: import_module(f"fastmlp.kernels.cuda.{name}") for name in MODULES}

INT, DOUBLE = types.int64, types.float64


def kernels(dtype):
    """(name, kernel, argument types) of every kernel for one dtype."""
    element = from_dtype(dtype)
    vector, matrix = element[::1], element[:, ::1]
    integers, doubles = INT[::1], DOUBLE[::1]
    backward, forward = CUDA["linear_backward_update"], CUDA["linear_forward"]

    def product(name, epilogue, extra, transpose_a=False, transpose_b=False, ones_row=False):
        kernel = CUDA["product"].product_kernel(dtype, transpose_a, transpose_b, ones_row, epilogue)
        return name, kernel, (matrix, matrix, INT, INT, INT, types.Tuple(extra))

    def total(name, term, *extra):
        return name, CUDA["reduction"]._sum_kernel(term), (INT, types.Tuple(extra), DOUBLE, doubles, INT)

    for a, b in itertools.product((False, True), repeat=2):
        yield product(f"matmul {a} {b}", CUDA["matmul"].store, (matrix,), a, b)
    for name in ACTIVATIONS:
        epilogue = forward.bias_and_activation(name, dtype, True)
        yield product(f"linear_forward {name}", epilogue, (vector, matrix, matrix))
        yield product(f"input_gradient {name}", backward._times_derivative(name, dtype), (matrix, matrix), False, True)
        yield f"differentiate {name}", backward._differentiate(name, dtype), (vector, vector, vector)
    for name, decays in itertools.product(OPTIMIZERS, (False, True)):
        extra = matrix, vector, matrix, INT, INT, vector
        yield product(f"update {name} {decays}", backward._update(name, dtype, decays), extra, True, False, True)
    extra = matrix, vector, matrix, INT, INT, types.UniTuple(DOUBLE, 9)
    yield product("update apart", backward._update("adam", dtype, True), extra, True, False, True)
    yield product("parameter_gradients", backward._keep, (matrix, vector), True, False, True)
    yield "bias_add", CUDA["bias_add"]._bias_add, (vector, vector, vector, INT)
    yield "gather", CUDA["batches"]._gather, (vector, integers, INT, vector)
    yield "begin a step", CUDA["steps"]._begin, (integers, INT, INT, integers, matrix, integers, vector)
    yield "end a step", CUDA["steps"]._end, (INT, doubles, DOUBLE[:, ::1], integers)
    for gradient in (False, True):
        term = CUDA["losses"].squared_error(dtype, gradient)
        yield total(f"sum squared_error {gradient}", term, vector, vector, vector, DOUBLE)
        for clips in (False, True):
            term = CUDA["losses"].binary_cross_entropy(dtype, gradient, clips)
            yield total(f"sum binary_cross_entropy {gradient} {clips}", term, vector, vector, vector, DOUBLE)
            for labels, target in ((False, matrix), (True, integers)):
                term = CUDA["losses"].cross_entropy(dtype, gradient, labels, clips)
                yield total(f"sum cross_entropy {gradient} {labels} {clips}", term, matrix, target, matrix, DOUBLE)
    yield total("sum", CUDA["reduction"]._partial, doubles)
    yield total("sum squares", CUDA["reduction"]._scaled_square, vector, DOUBLE)


def describe(kernel, arguments):
    ptx = cuda.compile(kernel.py_func, arguments, cc=ARCHITECTURE, device=False, abi="numba")[0]
    return {
        "local": len(re.findall(r"\.local\b", ptx)),
        "double": len(re.findall(r"\b(?:add|sub|mul|fma|div|sqrt)\.(?:rn\.)?f64", ptx)),
        "atomic": len(re.findall(r"\b(?:atom|red)\.", ptx)),
        "entries": ptx.count(".visible .entry"),
    }


if __name__ == "__main__":
    print(json.dumps({name: describe(*rest) for name, *rest in kernels(np.dtype(sys.argv[1]))}))
