"""A process that takes its processor for one with AMX, whose instructions tile_host.cpp does.

With the library of `compiled` preloaded: as a program, given a module and a function of it to call, or as a pytest
plugin (`-p tile_host -p no:faulthandler`, which would handle the signal first).
"""

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm

COMPILER = shutil.which("g++") or shutil.which("clang++")

_found = llvm.get_host_cpu_features


def compiled(folder: Path) -> Path:
    """The library, compiled into a folder."""
    library = folder / "tile_host.so"
    flags = ["-std=c++17", "-O2", "-march=native", "-fPIC", "-shared", "-ffp-contract=off", "-w"]
    source = Path(__file__).with_suffix(".cpp")
    done = subprocess.run([COMPILER, *flags, source, "-o", library, "-ldl"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
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
