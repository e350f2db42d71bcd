"""`fastmlp run` and `profile --script`: a Python program as it is, its MLPs on our kernels or watched."""

import os
import runpy
import sys
from collections.abc import Sequence

from .errors import ArgumentError


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
    execute(arguments, module)


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
    else:
        sys.path.insert(0, os.path.dirname(os.path.realpath(program)))
        runpy.run_path(program, run_name="__main__")
