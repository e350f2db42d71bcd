"""Machine code of CUDA C++ on disk: found by the next process, never used when damaged, and written by many at once.

It shares its folders and its way of writing with the CPU's kernels, whose tests are in test_kernel_cache.py.
"""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numba
import pytest
from damage import DAMAGE

from fastmlp.errors import BackendUnavailable
from fastmlp.kernels import disk
from fastmlp.kernels.cuda_cpp import compile as compilation
from fastmlp.kernels.cuda_cpp import layers
from fastmlp.kernels.cuda_cpp.compile import Compiled, Program

ROOT = Path(__file__).resolve().parents[1]
IMAGE = bytes(range(256)) * 8
PROGRAMS = [layers.to_elements(layers.BFLOAT16), Program("matmul", ("matmul",), (("PARTS", 1),))]


@pytest.fixture
def compiler(monkeypatch):
    """In NVRTC's place one that makes IMAGE of everything; lists the programs that it was given."""
    given = []

    def compiled(program, architecture):
        given.append(program)
        return Compiled(IMAGE + program.name.encode(), "")

    monkeypatch.setattr(compilation, "compiled", compiled)
    monkeypatch.setattr(compilation, "_version", lambda: (13, 0))
    compilation._folder.cache_clear()
    yield given
    compilation._folder.cache_clear()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """FASTMLP_CACHE_DIR."""
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def content(program):
    return IMAGE + program.name.encode()


def test_a_cubin_is_kept_and_found(cache, compiler):
    paths = [compilation.cubin(program, "sm_80") for program in PROGRAMS]
    assert [path.read_bytes() for path in paths] == [content(program) for program in PROGRAMS]
    assert sorted(files(cache)) == sorted(paths)
    assert {path.parent.parent for path in paths} == {cache}
    assert [compilation.cubin(program, "sm_80") for program in PROGRAMS] == paths
    assert compiler == PROGRAMS, "compiled once each"
    assert compilation.cubin(PROGRAMS[0], "sm_90a") not in paths
    assert compiler == [*PROGRAMS, PROGRAMS[0]]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cubin_is_compiled_again_and_replaced(damage, cache, compiler):
    path = compilation.cubin(PROGRAMS[0], "sm_80")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    assert compilation.cubin(PROGRAMS[0], "sm_80") == path
    assert path.read_bytes() == content(PROGRAMS[0])
    assert len(compiler) == 2
    assert files(cache) == [path]


def test_a_cubin_that_cannot_be_read_or_replaced_does_not_matter(cache, compiler):
    path = compilation.cubin(PROGRAMS[0], "sm_80")
    path.unlink()
    path.mkdir()
    elsewhere = compilation.cubin(PROGRAMS[0], "sm_80")
    assert elsewhere.read_bytes() == content(PROGRAMS[0])
    assert files(cache) == [], "the temporary file has been left"


@pytest.mark.parametrize("trouble", ["the folder vanished", "the disk is full"])
def test_what_cannot_be_kept_is_compiled_all_the_same(trouble, cache, compiler, monkeypatch):
    path = compilation.cubin(PROGRAMS[0], "sm_80")
    if trouble == "the folder vanished":
        path.unlink()
        path.parent.rmdir()
    else:
        whole = compilation.replace

        def replace(target, *pieces):
            if cache in target.parents:
                raise OSError(28, "No space left on device")
            whole(target, *pieces)

        monkeypatch.setattr(compilation, "replace", replace)
    elsewhere = compilation.cubin(PROGRAMS[1], "sm_80")
    assert elsewhere.read_bytes() == content(PROGRAMS[1])
    assert cache not in elsewhere.parents


def test_nowhere_to_write_at_all_is_an_error_with_a_cure(cache, compiler, monkeypatch):
    def full(target, *pieces):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compilation, "replace", full)
    with pytest.raises(BackendUnavailable, match=r"nowhere to write .*No space left on device.*TMPDIR"):
        compilation.cubin(PROGRAMS[0], "sm_80")


def test_a_cache_that_cannot_be_made_is_one_warning(tmp_path, compiler, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="compiled kernels are not kept between processes") as warned:
        paths = [compilation.cubin(program, "sm_80") for program in PROGRAMS]
    assert len(warned) == 1
    assert "set FASTMLP_CACHE_DIR to a private folder" in str(warned[0].message)
    assert [path.read_bytes() for path in paths] == [content(program) for program in PROGRAMS]


@pytest.mark.skipif(os.name == "nt", reason="there the cache lies in LOCALAPPDATA, not at home")
def test_no_home_at_all_is_one_warning(compiler, monkeypatch):
    import pwd

    def nobody(number):
        raise KeyError(number)

    for name in ("FASTMLP_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.warns(RuntimeWarning, match="there is no home folder") as warned:
        paths = [compilation.cubin(program, "sm_80") for program in PROGRAMS]
    assert len(warned) == 1
    assert [path.read_bytes() for path in paths] == [content(program) for program in PROGRAMS]


PROCESS = """
import sys, time, warnings
from fastmlp.kernels.cuda_cpp import compile as compilation
from fastmlp.kernels.cuda_cpp import layers

made = []
real = compilation.compiled
def compiled(program, architecture):
    made.append(program)
    return real(program, architecture)
compilation.compiled = compiled

program = layers.to_elements(layers.BFLOAT16)
sys.stdin.readline()
for architecture in ("sm_80", "sm_90a"):
    path = compilation.cubin(program, architecture)
    assert path.name.endswith(f"-{compilation._digest(path.read_bytes())}.cubin"), path
print(len(made), path.parent)
"""


def processes(count, *arguments, **variables):
    """What `count` processes say that compile the same programs at the same moment: (programs compiled, folder)."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FASTMLP_", "XDG_"))}
    environment |= {"PYTHONPATH": str(ROOT), **variables}
    started = [
        subprocess.Popen(
            [sys.executable, *arguments, "-c", PROCESS], env=environment, cwd=ROOT, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for _ in range(count)
    ]  # fmt: skip
    for process in started:
        process.stdin.write("\n")
        process.stdin.flush()
    said = []
    for process in started:
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        compiled, folder = stdout.split(maxsplit=1)
        said.append((int(compiled), Path(folder.strip()), stderr))
    return said


needs_nvrtc = pytest.mark.skipif(
    compilation.why_not() is not None, reason=f"{compilation.why_not()} `pip install 'fastmlp[ptx]'` does for tests"
)


@needs_nvrtc
def test_processes_that_write_at_once_leave_whole_files(tmp_path):
    said = processes(4, FASTMLP_CACHE_DIR=str(tmp_path))
    assert [stderr for _, _, stderr in said] == [""] * 4
    kept = files(tmp_path)
    assert len(kept) == 2
    for path in kept:
        assert path.name.endswith(f"-{compilation._digest(path.read_bytes())}.cubin")
    assert processes(1, FASTMLP_CACHE_DIR=str(tmp_path))[0] == (0, kept[0].parent, "")


@needs_nvrtc
def test_folders_of_one_process_go_with_it(tmp_path):
    (tmp_path / "file").write_text("no folder")
    ((compiled, folder, stderr),) = processes(1, FASTMLP_CACHE_DIR=str(tmp_path / "file"), TMPDIR=str(tmp_path))
    assert compiled == 2
    assert folder.parent == tmp_path
    assert not folder.exists()
    assert stderr.count("RuntimeWarning") == 1


def test_a_forked_childs_end_leaves_the_folder(tmp_path, compiler, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path / "file"))
    with pytest.warns(RuntimeWarning, match="not kept"):
        path = compilation.cubin(PROGRAMS[0], "sm_80")
    compilation._remove(path.parent, os.getpid() + 1)
    assert path.exists()
    compilation._remove(path.parent, os.getpid())
    assert not path.parent.exists()


@pytest.mark.parametrize("fails", ["fdopen", "replace"])
def test_a_write_that_is_cut_short_leaves_the_file_as_it_was(tmp_path, monkeypatch, fails):
    path = tmp_path / "entry"
    disk.replace(path, b"old ", b"content")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk.os, fails, fail)
    with pytest.raises(OSError, match="No space left"):
        disk.replace(path, b"new")
    assert path.read_bytes() == b"old content"
    assert files(tmp_path) == [path]


@pytest.mark.skipif(not numba.config.ENABLE_CUDASIM, reason="needs Numba's simulator, or a GPU")
def test_each_device_has_the_file_made_anew_where_it_is_gone(cache, compiler, monkeypatch):
    """CuPy reads it once a device; in its place one that says what it would load."""
    cubins = importlib.import_module("fastmlp.kernels.cuda.cubins")
    current, loaded = [0], []

    class Module:
        def __init__(self, path):
            loaded.append(Path(path).read_bytes())

        def get_function(self, name):
            return SimpleNamespace(name=name)

    runtime = SimpleNamespace(getDevice=lambda: current[0], getDeviceProperties=lambda device: {"major": 8, "minor": 0})
    cupy = SimpleNamespace(RawModule=Module, cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setattr(cubins, "cupy", cupy, raising=False)
    monkeypatch.setattr(cubins.gpu, "require_same_process", lambda: None)
    for function in (cubins._capability, cubins._kernel, cubins._module):
        function.cache_clear()
    try:
        for device in (0, 1, 0):
            current[0] = device
            assert cubins.kernel(PROGRAMS[0], "to_elements").name == "to_elements"
            for path in files(cache):
                path.unlink()
    finally:
        for function in (cubins._capability, cubins._kernel, cubins._module):
            function.cache_clear()
    assert loaded == [content(PROGRAMS[0])] * 2
    assert len(compiler) == 2


def test_without_a_compiler_it_is_looked_for_once_and_every_device_is_told_why(monkeypatch):
    looked = []

    class NoCuda:
        def find_spec(self, name, path=None, target=None):
            if name == "cuda.bindings" or name == "cuda":
                looked.append(name)
                raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(sys, "meta_path", [NoCuda(), *sys.meta_path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "cuda"]:
        monkeypatch.delitem(sys.modules, name)
    compilation._found.cache_clear()
    try:
        reasons = {compilation.why_not() for _ in range(5)}
        assert len(looked) == 1
        assert "NVRTC is missing" in reasons.pop()
        assert not reasons
    finally:
        compilation._found.cache_clear()


@needs_nvrtc
def test_what_the_compiler_says_leaves_pythons_own_bytes_alone():
    compilation.compiled(PROGRAMS[0], "compute_90")
    assert bytes([32]) == b"\x20"
    assert bytes([0]) == b"\x00"
