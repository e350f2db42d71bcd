"""The main job: for each workload of each suite, are the numbers right, then how fast are they: one row a workload."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import require_name
from . import workloads
from .contest import Setting
from .crossover import crossover_row
from .inference import infer_row
from .joules import energy_row
from .processes import cold_start_row, memory_row
from .products import product_row
from .training import size_row, train_row


@dataclass(frozen=True)
class Suite:
    """What `--suite` may name: workloads, each with a `name` of its own and a `tier`, and what makes the row of one.

    `bfloat16` tells whether it can run in that dtype: those of calls in this process.
    """

    workloads: Sequence[Any]
    row: Callable[[Any, Setting], dict[str, Any]]
    bfloat16: bool = False


SUITES: Mapping[str, Suite] = {
    "train": Suite(workloads.TRAINING, train_row, bfloat16=True),
    "infer": Suite(workloads.INFERENCE, infer_row, bfloat16=True),
    "kernels": Suite(workloads.PRODUCTS, product_row, bfloat16=True),
    "sizes": Suite(workloads.SIZES, size_row, bfloat16=True),
    "energy": Suite(workloads.ENERGY, energy_row, bfloat16=True),
    "crossover": Suite(workloads.CROSSOVER, crossover_row, bfloat16=True),
    "cold-start": Suite(workloads.COLD_START, cold_start_row),
    "memory": Suite(workloads.MEMORY, memory_row),
}
"""Every suite, in the order of the report. A new one is a line here."""


def choose(suites: Sequence[str], names: Sequence[str], tiers: Sequence[str]) -> list[tuple[str, Any]]:
    """(suite, workload) in the order of the report: those of these names, or where there are none those of `tiers`.

    Raises ArgumentError for a suite that does not exist and for a name that is in none of the suites.
    """
    for suite in suites:
        require_name("--suite", suite, SUITES)
    known = [(suite, workload) for suite in SUITES if suite in suites for workload in SUITES[suite].workloads]
    for name in names:
        require_name("--workload", name, [workload.name for _, workload in known])
    if names:
        return [(suite, workload) for suite, workload in known if workload.name in names]
    return [(suite, workload) for suite, workload in known if workload.tier in tiers]


def rows(chosen: Iterable[tuple[str, Any]], setting: Setting) -> Iterator[dict[str, Any]]:
    """One row of the report (bench/README.md) for each (suite, workload)."""
    for suite, workload in chosen:
        yield SUITES[suite].row(workload, setting)


def right(row: dict[str, Any]) -> bool:
    """Whether every side's numbers agree and no figure is beyond the machine."""
    return row["error"] is None and all(
        side["agreement"] is None or side["agreement"]["agree"] for side in row["sides"]
    )
