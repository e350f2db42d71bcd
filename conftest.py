"""Lets `pytest bench --benchmark-only` walk to bench/suites/ without importing bench/ under a second name."""

from pathlib import Path

import pytest


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir | None:
    """Take bench/ for a plain folder of test files, not for a package."""
    return pytest.Dir.from_parent(parent, path=path) if path == Path(__file__).parent / "bench" else None
