"""Compiled kernels on disk: kept privately, found by the next process, and never trusted when damaged or stale."""

import gc
import hashlib
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import numba
import pytest
from damage import DAMAGE

from fastmlp.kernels import disk
from fastmlp.kernels.cpu import compile as compilation

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import numpy as np
from fastmlp.kernels.cpu import bias_add
from fastmlp.kernels.cpu.bias_add import _bias_add
x, b, out = np.arange(6.0).reshape(2, 3), np.arange(3.0), np.empty((2, 3))
bias_add(x, b, out)
assert (out == x + b).all()
hits = _bias_add._compiled["d"].cache_hits
print(hits, 1 - hits)
"""
FOUND, COMPILED = "1 0", "0 1"

posix = pytest.mark.skipif(os.name == "nt", reason="who may write a folder is told by its mode on POSIX alone")


def start(cache, root=ROOT, **variables):
    """A fresh process that adds a bias; FASTMLP_CACHE_DIR is `cache`, or unset where that is None."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FASTMLP_", "XDG_"))}
    environment |= {"PYTHONPATH": str(root), **variables} | ({} if cache is None else {"FASTMLP_CACHE_DIR": str(cache)})
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, cwd=root, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process):
    """FOUND or COMPILED, and what it said on stderr."""
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert stdout.strip() in (FOUND, COMPILED)
    return stdout.strip(), stderr


def run(cache, **variables):
    return finish(start(cache, **variables))


def entries(cache):
    """Every file but those of what calls entries and reads addresses."""
    aside = "team._conduct-", "direct._address-"
    return sorted(path for path in cache.rglob("*") if path.is_file() and not any(name in path.name for name in aside))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A cache that holds one entry, to be copied."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    assert run(cache) == (COMPILED, "")
    return cache


@pytest.fixture
def cache(filled, tmp_path):
    return shutil.copytree(filled, tmp_path / "cache")


def test_an_entry_is_kept_privately_and_found_by_the_next_process(cache):
    (entry,) = entries(cache)
    assert entry.name.startswith("fastmlp.kernels.cpu.bias_add._bias_add-")
    assert entry.parent.parent == cache
    if os.name != "nt":
        assert stat.S_IMODE(entry.parent.stat().st_mode) == 0o700
    before = entry.stat().st_mtime_ns
    assert run(cache) == (FOUND, "")
    assert entries(cache) == [entry]
    assert entry.stat().st_mtime_ns == before


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_compiled_again_and_replaced(damage, cache):
    (entry,) = entries(cache)
    whole = entry.read_bytes()
    entry.write_bytes(DAMAGE[damage](whole))
    assert run(cache) == (COMPILED, "")
    assert entries(cache) == [entry]
    content = entry.read_bytes()
    assert hashlib.sha256(content[32:]).digest() == content[:32]


def test_an_entry_that_cannot_be_read_or_replaced_does_not_matter(cache):
    (entry,) = entries(cache)
    entry.unlink()
    entry.mkdir()
    assert run(cache) == (COMPILED, "")
    assert entries(cache) == [], "the temporary file has been left"


def assert_one_warning(stderr, *words):
    assert stderr.count("RuntimeWarning") == 1, stderr
    assert "compiled kernels are not kept between processes" in stderr
    assert "set FASTMLP_CACHE_DIR to a private folder" in stderr
    for word in words:
        assert word in stderr


@posix
@pytest.mark.parametrize("mode", [0o720, 0o702])
def test_a_folder_that_others_can_write_is_refused_with_one_warning(mode, cache):
    """Its entries are code: not one is read, and none is written there."""
    (entry,) = entries(cache)
    entry.parent.chmod(mode)
    status, said = run(cache)
    assert status == COMPILED
    assert_one_warning(said, "can be written by others", str(entry.parent))
    assert entries(cache) == [entry]


def test_a_cache_that_cannot_be_made_says_so(tmp_path):
    (tmp_path / "file").write_text("no folder")
    status, said = run(tmp_path / "file")
    assert status == COMPILED
    assert_one_warning(said, str(tmp_path / "file"))


@pytest.mark.skipif(sys.platform == "win32", reason="there the cache lies in LOCALAPPDATA, not at home")
def test_without_a_choice_the_cache_lies_in_the_users_own(tmp_path):
    assert run(None, HOME=str(tmp_path)) == (COMPILED, "")
    (entry,) = entries(tmp_path)
    assert entry.parents[1] == tmp_path / ".cache" / "fastmlp"
    assert run(None, HOME=str(tmp_path), XDG_CACHE_HOME=str(tmp_path / ".cache")) == (FOUND, "")
    (tmp_path / "file").write_text("no folder")
    status, said = run(None, HOME=str(tmp_path / "file"))
    assert status == COMPILED
    assert_one_warning(said, str(tmp_path / "file"))


@pytest.fixture
def fresh_choice():
    """The folder is chosen once a process; here it is chosen anew, before and after."""
    compilation.cache_folder.cache_clear()
    yield
    compilation.cache_folder.cache_clear()


def test_no_home_at_all_is_one_warning_a_process(fresh_choice, monkeypatch):
    monkeypatch.setattr(disk, "cache_root", lambda: None)
    with pytest.warns(RuntimeWarning, match="there is no home folder"):
        assert compilation.cache_folder() is None
    assert compilation.cache_folder() is None  # a second warning would be an error


@posix
def test_a_folder_of_someone_else_is_refused(fresh_choice, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(disk.os, "getuid", lambda: os.stat(tmp_path).st_uid + 1)
    with pytest.warns(RuntimeWarning, match="can be written by others"):
        assert compilation.cache_folder() is None


def test_a_read_only_folder_is_refused(fresh_choice, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(disk.os, "access", lambda path, mode: mode != os.W_OK)  # the superuser may write anyway
    with pytest.warns(RuntimeWarning, match="is read-only"):
        assert compilation.cache_folder() is None


def test_two_processes_may_write_at_once(tmp_path):
    processes = [start(tmp_path / "cache") for _ in range(2)]
    for process in processes:
        assert finish(process)[1] == ""
    assert len(entries(tmp_path / "cache")) == 1
    assert run(tmp_path / "cache") == (FOUND, "")


def test_a_new_state_makes_the_longest_unused_ones_go(fresh_choice, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    states = [tmp_path / f"{number:020x}" for number in range(disk.STATES_KEPT + 3)]
    strangers = [tmp_path / "notes", tmp_path / f"{1:021x}"]
    for age, folder in enumerate([*states, *strangers]):
        folder.mkdir()
        (folder / "entry").write_text("code")
        os.utime(folder, (10**9 - age, 10**9 - age))
    own = compilation.cache_folder()
    assert set(tmp_path.iterdir()) == {own, *states[: disk.STATES_KEPT], *strangers}

    compilation.cache_folder.cache_clear()
    states[-1].mkdir()
    assert compilation.cache_folder() == own
    assert states[-1].exists(), "a state that is not new has others deleted"


def test_a_state_that_is_used_is_not_the_longest_unused(fresh_choice, monkeypatch, tmp_path):
    monkeypatch.setenv("FASTMLP_CACHE_DIR", str(tmp_path))
    own = compilation.cache_folder()
    os.utime(own, (10**9, 10**9))
    compilation.cache_folder.cache_clear()
    compilation.cache_folder()
    assert own.stat().st_mtime > 10**9 + 1


def copied_sources(tmp_path):
    for folder in ("fastmlp", "kernels"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_code_of_changed_sources_is_not_used(filled, tmp_path):
    """A change far from the operation counts too: a piece is compiled into whatever calls it."""
    cache, root = shutil.copytree(filled, tmp_path / "cache"), copied_sources(tmp_path)
    assert run(cache, root=root) == (FOUND, "")
    source = root / "kernels" / "cpu" / "simd" / "vectors.py"
    source.write_text(source.read_text() + "\n")
    assert run(cache, root=root) == (COMPILED, "")
    assert run(cache, root=root) == (FOUND, "")
    assert len(list(cache.iterdir())) == 2


def test_the_state_is_another_when_any_source_is(tmp_path, monkeypatch):
    kernels = copied_sources(tmp_path) / "kernels"
    monkeypatch.setattr(compilation, "__file__", str(kernels / "cpu" / "compile.py"))
    sources = [*kernels.glob("*.py"), *kernels.glob("cpu/**/*.py")]
    names = {source.relative_to(kernels).as_posix() for source in sources}
    assert names > {"contract.py", "cpu/product.py", "cpu/simd/__init__.py", "cpu/simd/vectors.py"}
    before = compilation._state_digest()
    assert compilation._state_digest() == before
    for source in sources:
        content = source.read_bytes()
        source.write_bytes(content + b"\n")
        assert compilation._state_digest() != before, source
        source.write_bytes(content)
    assert compilation._state_digest() == before


@pytest.mark.parametrize("name", ["VECTOR_BYTES", "numba", "llvmlite", "np"])
def test_the_state_is_another_on_other_versions_and_widths(name, monkeypatch):
    before = compilation._state_digest()

    class Other:
        __version__ = "0.0"

    monkeypatch.setattr(compilation, name, 8 if name == "VECTOR_BYTES" else Other)
    assert compilation._state_digest() != before


PRODUCTS = """
import sys
import numpy as np
from numba.core.bytecode import FunctionIdentity
import fastmlp
from fastmlp import kernels

SHAPES = (1, 40, 300), (2, 9, 17), (5, 30, 70), (13, 70, 33), (27, 9, 1), (150, 64, 128)
rng = np.random.default_rng(0)


def integers(*shape):
    return rng.integers(-3, 4, shape).astype(np.float32)


def product(x, w):
    return kernels.matmul(x, w)


def layer(x, w):
    return kernels.linear_forward(x, w, np.zeros(w.shape[1], np.float32))


def network(x, w):
    net = fastmlp.MLP(w.shape)
    net.weights[0][...] = w
    return net.predict(x)


shift, *jobs = sys.argv[1:]
for _ in range(int(shift)):
    next(FunctionIdentity._unique_ids)
for job in jobs:
    for n, k, m in SHAPES:
        x, w = integers(n, k), integers(k, m)
        assert (globals()[job](x, w) == x @ w).all(), (job, n, k, m)
"""


@pytest.mark.parametrize("shift", [1, 2])
def test_kernels_of_several_processes_do_not_call_one_anothers_pieces(shift, tmp_path):
    """Numba tells pieces of one name apart by a number, which in two processes may stand for two different pieces."""

    def run_products(*arguments):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "FASTMLP_CACHE_DIR": str(tmp_path)}
        command = [sys.executable, "-c", PRODUCTS, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    jobs = ("product", "layer", "network")
    for number, job in enumerate(jobs):
        run_products(number * shift, job)
    run_products(0, *jobs)
    run_products(0, *reversed(jobs))


@pytest.mark.parametrize("collects", [True, False])
def test_the_collector_of_garbage_rests_while_numba_compiles_and_is_left_as_it_was(monkeypatch, collects):
    seen = []
    monkeypatch.setattr(compilation.CFunc, "compile", lambda self: seen.append(gc.isenabled()))
    was = gc.isenabled()
    try:
        (gc.enable if collects else gc.disable)()
        compilation.c_function(lambda: None, start, numba.void())
        assert seen == [False]
        assert gc.isenabled() is collects
    finally:
        (gc.enable if was else gc.disable)()
