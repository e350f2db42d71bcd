"""The main job: for each workload of each suite, are the numbers right, then how fast are they: one row a workload."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .contest import Setting
from .inference import infer_row
from .processes import cold_start_row, memory_row
from .products import product_row
from .training import size_row, train_row

ROWS: dict[str, Callable[[Any, Setting], dict[str, Any]]] = {
    "train": train_row,
    "infer": infer_row,
    "kernels": product_row,
    "sizes": size_row,
    "cold-start": cold_start_row,
    "memory": memory_row,
}
"""What makes a row of each suite of `workloads.SUITES`."""

BFLOAT16_SUITES = ("train", "sizes")
"""The suites that can run in bfloat16: those of whole training steps."""


def rows(chosen: Iterable[tuple[str, Any]], setting: Setting) -> Iterator[dict[str, Any]]:
    """One row of the report (bench/README.md) for each (suite, workload)."""
    for suite, workload in chosen:
        yield ROWS[suite](workload, setting)


def right(row: dict[str, Any]) -> bool:
    """Whether every side's numbers agree and no figure is beyond the machine."""
    return row["error"] is None and all(
        side["agreement"] is None or side["agreement"]["agree"] for side in row["sides"]
    )
