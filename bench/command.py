"""`fastmlp bench`: what was asked for is checked, rows are made with a bar, and shown and kept even if interrupted."""

import argparse
import shutil
import sys
from functools import partial
from typing import Any

from rich.console import Console

from ..commands import remeasure, require_folders
from ..energy import Meter
from ..errors import ArgumentError, require_name
from ..kernels import backend as backends
from ..kernels.contract import NETWORK_DTYPES, PRECISIONS
from . import baseline, document, heatmap, peers, plot, report, run, workloads
from .contest import Setting
from .noise import Noise
from .progress import Bar

BUDGET_S, QUICK_BUDGET_S = 1.0, 0.3
"""Seconds of timing for each side of a workload."""


def bench(options: argparse.Namespace) -> int:
    """Run it; returns the exit status of the command line."""
    older = _files(options)
    meter = Meter(watts_per_core=options.watts_per_core)
    chosen = _chosen(options, meter)
    backend, _ = backends.resolve(options.backend)
    threads = backends.threads(backend, options.threads)
    bar = Bar(len(chosen))
    setting = Setting(
        backend,
        threads,
        options.dtype if options.precision == "highest" else options.precision,
        peers.load(options.peers or [], threads),
        QUICK_BUDGET_S if options.quick else BUDGET_S,
        options.quick,
        meter,
        tell=bar.tell,
    )
    results = document.new_document(setting, list(dict.fromkeys(suite for suite, _ in chosen)))
    ceilings = setting.peaks.ceilings
    noise, status = Noise() if ceilings is None else Noise(meeting=partial(ceilings.meeting, threads)), 0
    with bar:
        try:
            if options.remeasure:
                remeasure(setting.backend, setting.tell)
            for row in run.rows(chosen, setting):
                results["rows"].append(row)
                noise.meet()
                bar.advance()
            results["complete"] = True
        except KeyboardInterrupt:
            status = 130
    document.finish(results, setting, noise)
    if older is not None:
        baseline.compare(results, older)
    _show(results, options)
    if status == 0 and not all(map(run.right, results["rows"])):
        status = 1
    return status


def _files(options: argparse.Namespace) -> dict[str, Any] | None:
    """The baseline, once every file that is asked for can be read or written: before minutes of work, not after."""
    require_folders(json=options.json, plot=options.plot, map=options.map)
    return None if options.baseline is None else baseline.load(options.baseline)


def _chosen(options: argparse.Namespace, meter: Meter) -> list[tuple[str, Any]]:
    """(suite, workload) of the run; raises ArgumentError where the options do not go together."""
    usual = ["train"] if meter.source == "unavailable" else ["train", "energy"]
    suites = options.suite or (list(run.SUITES) if options.all or options.workload else usual)
    tiers = [workloads.QUICK, workloads.STANDARD, workloads.LARGE][: 1 if options.quick else 3 if options.all else 2]
    chosen = run.choose(suites, options.workload or [], tiers)
    require_name("--dtype", options.dtype, NETWORK_DTYPES)
    require_name("--precision", options.precision, PRECISIONS)
    if options.precision != "highest" and options.dtype != "float32":
        raise ArgumentError(f"--precision {options.precision} goes with --dtype float32; got {options.dtype}")
    asked = list(dict.fromkeys(suite for suite, _ in chosen))
    if options.map is not None and "crossover" not in asked:
        raise ArgumentError(f"--map goes with --suite crossover; got {', '.join(asked)}")
    able = [name for name, suite in run.SUITES.items() if suite.bfloat16]
    rounding = ["numpy", *(name for name, peer in peers.PEERS.items() if peer.bfloat16)]
    if options.dtype == "bfloat16" and not ({*asked} <= {*able} and {*(options.peers or [])} <= {*rounding}):
        raise ArgumentError(
            f"--dtype bfloat16 goes with --suite {','.join(able)} and --peers {','.join(rounding)}; "
            f"got {', '.join(asked)}, peers {', '.join(options.peers or ['none'])}"
        )
    able.remove("crossover")  # which keeps its measurements by dtype
    if options.precision != "highest" and not {*asked} <= {*able}:
        raise ArgumentError(
            f"--precision {options.precision} goes with --suite {','.join(able)}; got {', '.join(asked)}"
        )
    return chosen


def _show(results: dict[str, Any], options: argparse.Namespace) -> None:
    """Print the results and write the files."""
    if options.json:
        document.save(results, options.json)
    if options.markdown:
        print(report.markdown(results), end="")
    else:
        console = Console(width=None if sys.stdout.isatty() else max(120, shutil.get_terminal_size().columns))
        console.print(report.table(results, console.width))
    for draw, path in ((plot.save, options.plot), (heatmap.save, options.map)):
        if path:
            draw(results, path)
