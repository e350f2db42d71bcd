"""What the README says is so: its program runs, its table is the committed figures', its commands are those CI runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastmlp.bench import document, publish

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.M | re.S)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.splitlines()[0])
def test_every_program_runs(block, tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_first_program_is_ten_lines_and_says_what_it_prints(tmp_path):
    block = blocks("python")[0]
    assert len(block.splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    claimed = float(re.search(r"accuracy.*# about (\S+)", block)[1])
    printed = float(re.search(r"accuracy (\S+)", done.stdout)[1])
    assert abs(printed - claimed) <= 0.01


def test_the_two_commands_are_those_ci_runs():
    commands = [line for block in blocks("sh") for line in block.splitlines() if "venv" in line]
    ci = (ROOT / ".ci" / "run").read_text()
    assert len(commands) == 2
    assert f'main_command="{commands[0]}"' in ci
    assert f'test_command="{commands[1]}"' in ci
    assert 'bash -c "$main_command --quick' in ci
    assert 'bash -c "$test_command"' in ci


def test_table_and_plot_are_made_from_the_committed_results(capsys):
    paths = re.findall(r"<!-- figures: (\S+) -->", README)
    assert paths
    for path in paths:
        results = document.load(ROOT / path)
        assert results["complete"]
        assert not results["quick"]
    assert publish.main([str(ROOT / "README.md"), "--check"]) == 0, capsys.readouterr().out


def test_every_path_it_names_exists():
    paths = re.findall(r"\]\(([^)#]+)\)", README) + re.findall(r"^(\S+/)  ", README, re.M)
    assert paths
    for path in paths:
        assert path.startswith("http") or (ROOT / path).exists(), path
