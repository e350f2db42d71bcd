"""The wheel holds the whole package and nothing else, and works away from the checkout."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("fastmlp", "kernels", "bench")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that nothing is left in the checkout and nothing left there is packed."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / file, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = target.glob("*.whl")
    return built


def test_the_wheel_holds_every_module_under_fastmlp(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder in SOURCES:
        for path in (ROOT / folder).rglob("*.py"):
            place = path.relative_to(ROOT) if folder == "fastmlp" else Path("fastmlp") / path.relative_to(ROOT)
            shipped = (ROOT / "bench" / "suites") not in path.parents
            assert (place.as_posix() in names) == shipped, place


def test_the_wheel_holds_the_data_the_type_marker_and_nothing_foreign(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"fastmlp/py.typed", "fastmlp/data/digits.npz", "fastmlp/data/README.md"} <= names
    assert {f"fastmlp/kernels/{folder}README.md" for folder in ("", "cpu/", "cuda/")} <= names
    tops = {name.split("/")[0] for name in names}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert tops == {"fastmlp", f"fastmlp-{version}.dist-info"}
    assert not [name for name in names if "/tests/" in name or "/results/" in name or "__pycache__" in name]


def test_the_wheel_works_away_from_the_checkout(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    code = """
import fastmlp, fastmlp.kernels, fastmlp.bench.workloads
from fastmlp.data import load_digits
x, t, *_ = load_digits()
net = fastmlp.MLP((64, 16, 10), loss="cross_entropy")
net.fit(x[:64], t[:64], epochs=1)
print(fastmlp.__file__, fastmlp.kernels.__file__, fastmlp.bench.workloads.__file__, sep="\\n")
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(site) for line in done.stdout.splitlines())


def test_the_version_is_the_same_everywhere():
    import fastmlp

    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"] == fastmlp.__version__


def test_the_wheel_names_its_command(wheel):
    archive = zipfile.ZipFile(wheel)
    (entry_points,) = (name for name in archive.namelist() if name.endswith("entry_points.txt"))
    assert "fastmlp = fastmlp.cli:main" in archive.read(entry_points).decode()
