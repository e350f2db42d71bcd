"""Programs that import scikit-learn's MLPs run unedited: patch, `fastmlp run`, `%load_ext`, scikit-learn's tests."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastmlp

sklearn = pytest.importorskip("sklearn")

from sklearn import neural_network  # noqa: E402
from sklearn.utils.estimator_checks import parametrize_with_checks  # noqa: E402

import fastmlp.sklearn  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]

PROGRAM = """
import sys
import numpy as np
import scipy.sparse
from sklearn.neural_network import MLPClassifier, MLPRegressor
x = np.random.default_rng(0).normal(size=(60, 3))
MLPClassifier((4,), max_iter=200, tol=10).fit(x, x[:, 0] > 0)
MLPRegressor(hidden_layer_sizes=2, max_iter=200, tol=10).fit(scipy.sparse.csr_array((60, 600)), x[:, 0])
print(__name__, sys.argv[1:], MLPClassifier.__module__, open("beside.txt").read() if "read" in sys.argv else "")
"""

EXPECTED_FAILURES: dict[str, str] = {}
"""Tests of scikit-learn's test_mlp.py that our classes fail, each with its reason."""

OWN_TESTS = """
import sys
import pytest
import fastmlp.sklearn
fastmlp.sklearn.patch()
status = pytest.main(["--pyargs", "sklearn.neural_network.tests.test_mlp", "-q", "-rf", "-p", "no:cacheprovider"])
assert sys.modules["sklearn.neural_network.tests.test_mlp"].MLPClassifier is fastmlp.sklearn.MLPClassifier
sys.exit(status)
"""


@pytest.fixture
def start(tmp_path):
    """Runs `python -m fastmlp run ...` in a folder with program.py: (exit status, stdout, stderr)."""
    (tmp_path / "program.py").write_text(PROGRAM)

    def run(*arguments):
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-m", "fastmlp", "run", *arguments],
            cwd=tmp_path, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    return run


def test_patch_and_unpatch():
    own = neural_network.MLPClassifier, neural_network.MLPRegressor
    fastmlp.sklearn.patch()
    fastmlp.sklearn.patch()
    try:
        assert neural_network.MLPClassifier is fastmlp.sklearn.MLPClassifier
        assert neural_network.MLPRegressor is fastmlp.sklearn.MLPRegressor
        assert isinstance(neural_network.MLPClassifier(), own[0])
    finally:
        fastmlp.sklearn.unpatch()
    assert (neural_network.MLPClassifier, neural_network.MLPRegressor) == own


def test_the_extension_of_ipython():
    own = neural_network.MLPClassifier
    fastmlp.load_ipython_extension(None)
    try:
        assert neural_network.MLPClassifier is fastmlp.sklearn.MLPClassifier
    finally:
        fastmlp.unload_ipython_extension(None)
    assert neural_network.MLPClassifier is own


@pytest.mark.parametrize("way", [["program.py"], ["-m", "program"]], ids=["script", "module"])
def test_run_runs_a_program_as_it_is(start, way):
    status, output, errors = start(*way, "-v", "--flag", "x y")
    assert (status, errors) == (0, "")
    assert output == "__main__ ['-v', '--flag', 'x y'] fastmlp.sklearn.estimators \n"


def test_run_verbose_says_of_each_fit_what_became_of_it(start):
    status, _, errors = start("-v", "program.py")
    assert status == 0
    accelerated, theirs = errors.splitlines()
    assert re.fullmatch(r"fastmlp: MLPClassifier\.fit was accelerated: \d+ epochs in [\d.]+ s", accelerated)
    assert (
        theirs
        == "fastmlp: MLPRegressor.fit runs scikit-learn's code: X is sparse, with 600 features of which 0 are stored"
    )


def test_run_reports_what_is_missing(start):
    assert start("absent.py") == (
        2, "", "fastmlp: run takes the path of a Python script; there is nothing at 'absent.py'\n"
    )  # fmt: skip
    assert start() == (2, "", "fastmlp: run takes the path of a Python script, or -m and the name of a module\n")


def test_an_error_of_the_program_is_shown_as_python_shows_it(start, tmp_path):
    (tmp_path / "fails.py").write_text("import sys\nsys.exit(7)\n")
    assert start("fails.py") == (7, "", "")
    (tmp_path / "raises.py").write_text("raise RuntimeError('mine')\n")
    status, _, errors = start("raises.py")
    assert status == 1
    assert errors.endswith("RuntimeError: mine\n")
    (tmp_path / "ours.py").write_text("import fastmlp\nfastmlp.MLP((4, 2)).predict([1])\n")
    status, _, errors = start("ours.py")
    assert status == 1
    assert 'ours.py", line 2' in errors
    assert "ShapeError: x must have shape" in errors


def test_a_program_is_the_main_module_to_its_end(start, tmp_path):
    (tmp_path / "leaves.py").write_text(
        "import atexit, os, pickle\n"
        "class Result: pass\n"
        "os.chdir('/')\n"
        "assert os.path.exists(__file__)\n"
        "atexit.register(lambda: print(len(pickle.dumps(Result())) > 0))\n"
    )
    assert start("leaves.py") == (0, "True\n", "")


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks([fastmlp.sklearn.MLPClassifier(max_iter=30), fastmlp.sklearn.MLPRegressor(max_iter=30)])
def test_our_classes_are_estimators_in_their_own_right(estimator, check):
    check(estimator)


def test_scikit_learns_own_tests_pass_with_the_patch_on(tmp_path):
    # One BLAS thread: those of several libraries would wait for one another on few cores.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", OWN_TESTS], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    failed = set(re.findall(r"^FAILED \S+::(\S+)", done.stdout, re.MULTILINE))
    assert failed == set(EXPECTED_FAILURES), done.stdout
    assert done.returncode == (1 if EXPECTED_FAILURES else 0), done.stdout + done.stderr
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) > 40
