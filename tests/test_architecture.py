"""The walls of the house: who imports whom, what an import loads, and one copy of every module."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STANDARD_LIBRARY = set(sys.stdlib_module_names)

OPERATIONS = {"matmul", "bias_add", "mse", "linear_forward", "linear_backward_update", "train"}
BACKEND_FOLDERS = [ROOT / "kernels" / name for name in ("reference", "cpu", "cuda")]


def package_of(path):
    """The name under which the file is imported."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    if parts[0] != "fastmlp":
        parts = ("fastmlp", *parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def imports(path):
    """Every module the file imports anywhere, as a full dotted name; `from a import b` gives a.b."""
    own = package_of(path)
    package = own if path.name == "__init__.py" else own[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            found |= {f"{source}.{alias.name}" for alias in node.names}
    return found


def files(*folders):
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert found
    return found


def within(name, package):
    return name == package or name.startswith(package + ".")


def run(code, cwd):
    """`code` in a fresh interpreter that finds the checkout: (exit status, stdout, stderr)."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def test_the_reader_of_imports_sees_every_form():
    source = ROOT / "kernels" / "reference" / "__init__.py"
    found = imports(source)
    assert "numpy" in found
    assert "fastmlp.kernels.reference.workspace.Workspace" in found
    assert "fastmlp.kernels.reference.matmul" in found


def test_kernels_import_nothing_of_fastmlp_but_its_errors():
    for path in files("kernels"):
        for name in imports(path):
            allowed = within(name, "fastmlp.kernels") or within(name, "fastmlp.errors")
            assert allowed or not within(name, "fastmlp"), f"{path}: {name}"


def test_the_reference_imports_numpy_alone():
    known = ("reference", "contract", "network", "timeline")
    for path in files("kernels/reference"):
        for name in imports(path):
            inside = any(within(name, f"fastmlp.kernels.{module}") for module in known)
            assert inside or name.partition(".")[0] in STANDARD_LIBRARY | {"numpy"}, f"{path}: {name}"


def test_the_contract_is_data_alone():
    for name in imports(ROOT / "kernels" / "contract.py"):
        assert name.partition(".")[0] in STANDARD_LIBRARY, name


def test_the_cpu_backend_needs_numba_and_nothing_of_a_gpu():
    for path in files("kernels/cpu"):
        for name in imports(path):
            known = STANDARD_LIBRARY | {"numpy", "numba", "llvmlite", "fastmlp"}
            assert name.partition(".")[0] in known, f"{path}: {name}"
            assert not within(name, "numba.cuda"), f"{path}: {name}"
            assert not within(name, "fastmlp.kernels.reference"), f"{path}: {name}"


def test_the_cuda_backend_needs_numba_and_cupy_and_nothing_of_another_backend():
    for path in files("kernels/cuda"):
        for name in imports(path):
            known = STANDARD_LIBRARY | {"numpy", "numba", "cupy", "fastmlp"}
            assert name.partition(".")[0] in known, f"{path}: {name}"
            for other in ("reference", "cpu"):
                assert not within(name, f"fastmlp.kernels.{other}"), f"{path}: {name}"


def test_cuda_cpp_needs_nothing_of_a_gpu():
    for path in files("kernels/cuda_cpp"):
        for name in imports(path):
            assert name.partition(".")[0] in STANDARD_LIBRARY | {"numpy", "cuda", "fastmlp"}, f"{path}: {name}"
            for backend in ("reference", "cpu", "cuda"):
                assert not within(name, f"fastmlp.kernels.{backend}"), f"{path}: {name}"


def test_only_the_command_line_imports_bench():
    for path in files("fastmlp"):
        if path.name != "cli.py":
            assert not any(within(name, "fastmlp.bench") for name in imports(path)), path


def test_only_the_backend_desk_loads_a_backend():
    """Outside kernels/ a backend is reached through fastmlp.kernels.backend, or asked for its threads by the cli."""
    for path in files("fastmlp", "bench"):
        for name in imports(path):
            assert not within(name, "fastmlp.kernels.reference"), f"{path}: {name}"
            assert not within(name, "fastmlp.kernels.cpu") or path.name == "cli.py", f"{path}: {name}"
            assert not within(name, "fastmlp.kernels.cuda"), f"{path}: {name}"


def test_import_fastmlp_loads_no_numerical_library(tmp_path):
    status, output, errors = run("import fastmlp, sys; print(*sys.modules)", tmp_path)
    assert status == 0, errors
    loaded = {name.partition(".")[0] for name in output.split()}
    assert "fastmlp" in loaded
    assert not loaded & {"numpy", "numba", "llvmlite", "cupy", "rich", "safetensors", "sklearn", "torch"}


def test_import_fastmlp_kernels_loads_no_compiler(tmp_path):
    status, output, errors = run("import fastmlp.kernels, sys; print(*sys.modules)", tmp_path)
    assert status == 0, errors
    loaded = {name.partition(".")[0] for name in output.split()}
    assert "numpy" in loaded
    assert not loaded & {"numba", "llvmlite", "cupy", "rich"}


def test_the_reference_runs_without_numba(tmp_path):
    code = """
import sys
sys.modules["numba"] = sys.modules["llvmlite"] = None
import numpy as np
import fastmlp
net = fastmlp.MLP((3, 4, 2), backend="numpy")
net.fit(np.ones((5, 3), "float32"), np.ones((5, 2), "float32"), epochs=2)
print(fastmlp.MLP((3, 4, 2)).backend)
"""
    status, output, errors = run(code, tmp_path)
    assert status == 0, errors
    assert output == "numpy"


@pytest.mark.parametrize("folder", ["kernels", "bench"])
def test_a_second_copy_from_the_root_is_refused(folder):
    status, _, errors = run(f"import {folder}", ROOT)
    assert status == 1
    assert f"this folder is the package fastmlp.{folder}" in errors
    assert f"Write `import fastmlp.{folder}`" in errors


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
def test_one_copy_of_every_module(inside, tmp_path):
    """After real use, no file of ours is loaded under two names, and every name is the expected one."""
    code = """
import sys
import numpy as np
import fastmlp
from fastmlp.kernels import matmul
from fastmlp import bench
import fastmlp.bench.run
x = np.ones((4, 3), "float32")
matmul(x, x.T)
fastmlp.MLP((3, 4, 2)).fit(x, x[:, :2], epochs=1)
for name, module in sorted(sys.modules.items()):
    if getattr(module, "__file__", None):
        print(name, module.__file__)
"""
    status, output, errors = run(code, ROOT if inside else tmp_path)
    assert status == 0, errors
    names = {}
    for line in output.splitlines():
        name, _, file = line.partition(" ")
        if Path(file).is_relative_to(ROOT) and "site-packages" not in file:
            names.setdefault(Path(file), []).append(name)
    assert len(names) > 10
    for file, loaded in names.items():
        assert loaded == [".".join(package_of(file))]


def test_every_package_on_disk_is_shipped_and_none_else():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    on_disk = {
        ".".join(package_of(path)) for path in files("fastmlp", "kernels", "bench") if path.name == "__init__.py"
    }
    assert set(settings["packages"]) == on_disk


def test_no_module_lies_in_a_folder_without_init():
    for path in files("fastmlp", "kernels", "bench"):
        if path.parent != ROOT / "bench" / "suites":
            assert (path.parent / "__init__.py").exists(), path


@pytest.mark.parametrize("folder", BACKEND_FOLDERS, ids=lambda folder: folder.name)
def test_one_operation_is_one_file_name(folder):
    present = {path.stem for path in folder.glob("*.py")}
    assert present >= OPERATIONS


def test_the_operations_are_those_of_the_contract():
    from fastmlp.kernels.contract import OPERATIONS as CONTRACT

    assert set(CONTRACT) | {"train"} == OPERATIONS


def calls_of_backends():
    table = (ROOT / "kernels" / "README.md").read_text().split("## What a backend module offers")[1].split("## ")[0]
    return re.findall(r"^\| `(\w+)\(", table, re.MULTILINE)


@pytest.mark.parametrize("folder", ["kernels", "kernels/cpu", "kernels/cuda"])
def test_a_folder_of_kernels_has_a_readme_that_names_every_file(folder):
    folder = ROOT / folder
    readme = (folder / "README.md").read_text()
    for path in folder.glob("[!_]*.py"):
        assert path.stem in calls_of_backends() or re.search(rf"\b{path.name}\b", readme), path
