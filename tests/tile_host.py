"""A process that takes its processor for one with AMX, whose instructions tile_host.cpp does.

With the library of `compiled` preloaded: as a program, given a module and a function of it to call, or as a pytest
plugin (`-p tile_host -p no:faulthandler`, which would handle the signal first).
"""

import importlib
import sys
from pathlib import Path

import llvmlite.binding as llvm
from host_compiler import compile_library

_found = llvm.get_host_cpu_features


def compiled(folder: Path) -> Path:
    """The library, compiled into a folder."""
    library = folder / "tile_host.so"
    compile_library(Path(__file__).with_suffix(".cpp"), library, "-O2", "-march=native", "-ffp-contract=off")
    return library


def _with_tiles():
    features = _found()
    features["amx-tile"] = features["amx-bf16"] = True
    return features


def pytest_load_initial_conftests() -> None:
    """Before fastmlp's kernels are imported, which ask what the processor has."""
    llvm.get_host_cpu_features = _with_tiles


if __name__ == "__main__":
    pytest_load_initial_conftests()
    getattr(importlib.import_module(sys.argv[1]), sys.argv[2])()
