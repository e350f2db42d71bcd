"""What is left out of Numba's pipeline, and that Numba itself stays as it is."""

import re
from collections import Counter

import numba
import numpy as np
import pytest
from numba.core import base
from numba.core.postproc import PostProcessor
from numba.core.types.functions import BaseFunction
from vectors import compiled

from fastmlp.kernels.cpu import compile as compilation
from fastmlp.kernels.cpu.compile import jit
from fastmlp.kernels.cpu.elementary import sigmoid, tanh
from fastmlp.kernels.cpu.pipeline import lean
from fastmlp.kernels.cpu.simd import lanes, load, pointer, store


@jit
def _sums(a, b):
    return (a + b) + (a + b) + (b + a)


def test_every_call_is_resolved_once_for_each_kind_of_arguments(monkeypatch):
    asked = Counter()
    resolve = BaseFunction.get_call_type

    def counted(function, context, args, kws):
        asked[function, args] += 1
        return resolve(function, context, args, kws)

    monkeypatch.setattr(BaseFunction, "get_call_type", counted)

    @compiled
    def call(a, b):
        return _sums(a, b) + _sums(b, a) + a + b

    with lean():
        assert call(3, 4) == 49
    assert set(asked.values()) == {1}
    assert BaseFunction.get_call_type is counted


def test_what_python_calls_as_c_is_compiled_so(monkeypatch):
    seen, resolve = [], BaseFunction.get_call_type
    monkeypatch.setattr(compilation.CFunc, "compile", lambda self: seen.append(BaseFunction.get_call_type))
    compilation.c_function(lambda: None, _sums.py_func, numba.void())
    assert seen != [resolve]
    assert BaseFunction.get_call_type is resolve


def test_numba_is_as_before_where_compiling_fails():
    def parts():
        return BaseFunction.get_call_type, PostProcessor.run, base._has_loc

    before = parts()
    with pytest.raises(numba.TypingError):
        compilation.c_function(lambda a: a + "text", _sums.py_func, numba.int64(numba.int64))
    with lean():
        assert not set(parts()) & set(before)
    assert parts() == before
    with pytest.raises(KeyboardInterrupt), lean():
        raise KeyboardInterrupt
    assert parts() == before


def test_what_python_calls_is_compiled_so_too():
    seen = []

    def call(a):
        return a

    function = compilation.called(call)
    function._cache.save_overload = lambda *_: seen.append(PostProcessor.run)
    run = PostProcessor.run
    assert function(7) == 7
    assert seen != [run]
    assert PostProcessor.run is run


@jit
def _thirds(p, vectors):
    for _ in range(vectors):
        store(p, load(p) / 3.0)
        p += lanes(p)


def test_a_loop_of_unknown_length_is_not_repeated():
    @compiled
    def call(x):
        _thirds(pointer(x), x.size // lanes(pointer(x)))

    x = np.arange(256, dtype=np.float32)
    call(x)
    np.testing.assert_array_equal(x, np.arange(256, dtype=np.float32) / np.float32(3))
    (assembly,) = call.inspect_asm().values()
    assert len(re.findall(r"\t(?:v?div[ps]s|fdiv)\t", assembly)) == 1, assembly


def test_a_piece_keeps_none_of_its_expressions():
    @compiled
    def call(a):
        return _sums(a, a)

    assert call(2) == 12
    (overload,) = [each for each in _sums.dispatcher.overloads.values() if each.signature.args == (numba.int64,) * 2]
    assert overload.fndesc.typemap is None
    assert overload.fndesc.calltypes is None


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_function_of_vectors_is_part_of_its_callers_however_large(dtype):
    @compiled
    def call(x):
        y = sigmoid(tanh(load(pointer(x))))
        store(pointer(x), sigmoid(tanh(sigmoid(tanh(y)))))

    call(np.zeros(64, dtype))
    (assembly,) = call.inspect_asm().values()
    assert "sigmoid" not in assembly
    assert "tanh" not in assembly
