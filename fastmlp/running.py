"""`fastmlp run` and `profile --script`: a Python program as it is, its MLPs on our kernels or watched."""

import builtins
import io
import os
import runpy
import sys
import traceback
import zipfile
from collections.abc import Sequence
from types import ModuleType

from .errors import ArgumentError, FastMLPError


def run(arguments: Sequence[str], module: bool, verbose: bool) -> None:
    """Run a program with its arguments as `python` would, after `fastmlp.sklearn.patch(verbose)`.

    arguments: the path of a script, or with `module` the name of a module, and then what the program sees behind
        sys.argv[0].

    Raises ArgumentError where there is no such script or no scikit-learn, and whatever the program raises.
    """
    require_program(arguments, module)
    try:
        from . import sklearn
    except ImportError as error:
        raise ArgumentError(str(error)) from error
    sklearn.patch(verbose)
    try:
        execute(arguments, module)
    except FastMLPError as error:  # the program's, not ours to put in a line
        traceback.print_exception(error)
        raise SystemExit(1) from error


def require_program(arguments: Sequence[str], module: bool) -> None:
    """Raise ArgumentError where there is no such script."""
    if not module and not os.path.exists(arguments[0]):
        raise ArgumentError(f"run takes the path of a Python script; there is nothing at {arguments[0]!r}")


def execute(arguments: Sequence[str], module: bool) -> None:
    """Run a program with its arguments as `python` would; raises whatever it raises."""
    program = arguments[0]
    sys.argv[:] = arguments
    if module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    elif os.path.isdir(program) or program.endswith(".pyc") or zipfile.is_zipfile(program):
        runpy.run_path(program, run_name="__main__")
    else:
        sys.path.insert(0, os.path.dirname(os.path.realpath(program)))
        _run_file(os.path.abspath(program))


def _run_file(path: str) -> None:
    """Run a file as `__main__`, which it stays: what it leaves to be called at exit finds its names there."""
    main = ModuleType("__main__")
    main.__dict__.update(__file__=path, __builtins__=builtins, __cached__=None)
    sys.modules["__main__"] = main
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec")
    exec(code, main.__dict__)
