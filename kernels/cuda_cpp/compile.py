"""CUDA C++ to machine code by NVRTC, which needs neither nvcc nor a GPU; kept on disk for the next process.

An entry's name holds a digest of what it was made from and one of what it holds: stale, torn and damaged files are
compiled again.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from fastmlp.errors import BackendUnavailable

from ..disk import replace, state_folder

SOURCES = Path(__file__).parent

ARCHITECTURES = ("sm_80", "sm_90a")
"""What every program is compiled for in CI: the oldest devices that take it, and Hopper with its own instructions."""

SHARED_LIMITS = {"sm_80": 163 << 10, "sm_90a": 227 << 10}
"""Bytes of shared memory that a block may have on the largest device of each."""

_OPTIONS = ("--std=c++17", "--device-as-default-execution-space", "--ptxas-options=-v")

_CURE = "`pip install 'fastmlp[cuda13]'` brings it, or 'fastmlp[cuda12]' for a driver of CUDA 12"


@dataclass(frozen=True)
class Program:
    """One source of this folder, without its ".cu", the kernels it exports, and the macros that settle its sizes.

    shared_bytes: of dynamic shared memory that a block is started with.

    What CI holds it to: `threads` of a block at most; `instructions`, (architecture, opcode) pairs that its machine
    code must show; no stack frame, unless `stack_because` tells why one does no harm.
    """

    source: str
    kernels: tuple[str, ...]
    defines: tuple[tuple[str, int | str], ...] = ()
    architectures: tuple[str, ...] = ARCHITECTURES
    threads: int = 256
    shared_bytes: int = field(default=0, compare=False)
    instructions: tuple[tuple[str, str], ...] = ()
    stack_because: str = ""

    @property
    def name(self) -> str:
        """Source and macros, for people."""
        return " ".join([self.source, *(f"{name}={value}" for name, value in self.defines)])


class Compiled(NamedTuple):
    """What NVRTC makes of a program: a cubin, or PTX where asked for a compute_XY; and what the assembler said."""

    image: bytes
    log: str


def has_clusters(architecture: str) -> bool:
    """Whether blocks can form clusters there."""
    return int("".join(filter(str.isdigit, architecture))) >= 90


def why_stack(activations: Iterable[str]) -> str:
    """For `Program.stack_because`: why kernels with these activations may have a stack frame; "" if they may not."""
    return "CUDA's sine reduces its largest arguments by a table" if "sine" in activations else ""


def architecture(capability: tuple[int, int]) -> str | None:
    """What to compile for on a device of this compute capability; None where it is too old for these kernels.

    Cubins of sm_80 run on all of 8.x. What this NVRTC does not know yet is given PTX, which the driver compiles.
    """
    if capability < (8, 0):
        return None
    if capability[0] == 8:
        return "sm_80"
    if capability == (9, 0):
        return "sm_90a"
    number, known = 10 * capability[0] + capability[1], _supported()
    return f"sm_{number}" if number in known else f"compute_{max(each for each in known if each < number)}"


def cubin(program: Program, architecture: str) -> Path:
    """The file with the program's machine code, found or made; a process that keeps it for later may find it gone.

    Raises BackendUnavailable where there is no NVRTC, or one that cannot compile this, or nowhere to write a file.
    """
    folder = _folder()
    made_from = repr((program.source, program.defines, architecture, _OPTIONS))
    key = f"{program.source}-{hashlib.sha256(made_from.encode()).hexdigest()[:16]}"
    for path in () if folder is None else folder.glob(f"{key}-*.cubin"):
        try:
            if path.name == f"{key}-{_digest(path.read_bytes())}.cubin":
                return path
        except OSError:
            continue
    image = compiled(program, architecture).image
    name = f"{key}-{_digest(image)}.cubin"
    if folder is not None:
        with contextlib.suppress(OSError):  # a full or vanished disk
            replace(folder / name, image)
            return folder / name
    return _for_this_process(name, image)


def compiled(program: Program, architecture: str) -> Compiled:
    """Compile now, whatever is kept. Raises BackendUnavailable as `cubin`."""
    nvrtc = _nvrtc()
    headers = sorted(SOURCES.glob("*.cuh"))
    source = (SOURCES / f"{program.source}.cu").read_bytes()
    _, handle = nvrtc.nvrtcCreateProgram(
        source,
        f"{program.source}.cu".encode(),
        len(headers),
        [header.read_bytes() for header in headers],
        [header.name.encode() for header in headers],
    )
    try:
        options = [f"--gpu-architecture={architecture}", *_OPTIONS]
        options += [f"--define-macro={name}={value}" for name, value in program.defines]
        (status,) = nvrtc.nvrtcCompileProgram(handle, len(options), [option.encode() for option in options])
        log = _text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog, handle).decode(errors="replace").strip("\0")
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise BackendUnavailable(
                f"NVRTC {'.'.join(map(str, _version()))} cannot compile {program.name} for {architecture}; a newer one "
                f"may, and {_CURE}. It says: {log[:2000]}"
            )
        if architecture.startswith("compute"):
            return Compiled(_text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX, handle), log)
        return Compiled(_text(nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN, handle), log)
    finally:
        nvrtc.nvrtcDestroyProgram(handle)


def why_not() -> str | None:
    """None if programs can be compiled here; else the reason, and the cure."""
    return _found()[1]


def _text(size_of: Callable[[Any], Any], read: Callable[[Any, bytes], Any], handle: Any) -> bytes:
    _, size = size_of(handle)
    content = bytes(size)  # new memory, which it writes to; of one byte, Python's only such object, its own NUL
    read(handle, content)
    return content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:32]


def _nvrtc() -> ModuleType:
    """NVRTC's functions, its library loaded. Raises BackendUnavailable where either is missing."""
    module, reason = _found()
    if module is None:
        raise BackendUnavailable(reason)
    return module


@functools.cache
def _found() -> tuple[ModuleType | None, str | None]:
    """The same, or why there is none: looked for once."""
    try:
        from cuda.bindings import nvrtc

        nvrtc.nvrtcVersion()  # which loads the library
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        return None, (
            f"CUDA C++ kernels cannot be compiled here: NVRTC is missing ({type(error).__name__}: {reason}); {_CURE}."
        )
    return nvrtc, None


@functools.cache
def _version() -> tuple[int, int]:
    _, major, minor = _nvrtc().nvrtcVersion()
    return major, minor


@functools.cache
def _supported() -> tuple[int, ...]:
    """The compute capabilities, as 10 major + minor, that this NVRTC compiles for."""
    return tuple(_nvrtc().nvrtcGetSupportedArchs()[-1])


@functools.cache
def _folder() -> Path | None:
    """The folder for these sources and this NVRTC; None, with one warning, where there can be none."""
    digest = hashlib.sha256(repr(_version()).encode())
    for path in [Path(__file__), *sorted(SOURCES.glob("*.cu")), *sorted(SOURCES.glob("*.cuh"))]:
        content = path.read_bytes()
        digest.update(repr((path.name, len(content))).encode() + content)
    return state_folder(digest.hexdigest()[:20])


def _for_this_process(name: str, image: bytes) -> Path:
    """A file in a new folder, which goes when this process ends: for where nothing can be kept."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="fastmlp-"))
        atexit.register(_remove, folder, os.getpid())
        replace(folder / name, image)
    except OSError as error:
        raise BackendUnavailable(
            f"backend 'cuda' has nowhere to write its kernels for the driver to load ({error}); set FASTMLP_CACHE_DIR "
            "or TMPDIR to a private folder on a disk with room."
        ) from error
    return folder / name


def _remove(folder: Path, process: int) -> None:
    """Delete the folder, if this is the process that made it and no forked child."""
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
