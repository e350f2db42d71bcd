"""The C++ compiler of this machine, for programs that tests run on its processor."""

import shutil
import subprocess
from pathlib import Path

import pytest

COMPILER = shutil.which("g++") or shutil.which("clang++")

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="needs a C++ compiler, g++ or clang++")


def compile_library(source: Path, target: Path, *flags: str | Path) -> None:
    """Make a shared library of a program."""
    command = [COMPILER, "-std=c++17", "-fPIC", "-shared", "-w", *flags, source, "-o", target]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
