"""The command line: `fastmlp info` tells what is here, `bench` how fast it is, `run` runs scikit-learn programs."""

import argparse
import json
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__, info
from .errors import ArgumentError, FastMLPError, require_name

BUDGET_S, QUICK_BUDGET_S = 1.0, 0.3
"""Seconds of timing for each side of a workload of `bench`."""

THREAD_VARIABLES = (
    "FASTMLP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)
"""What fastmlp and the BLAS libraries under NumPy read when they are loaded."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit status: 0, 1 (wrong numbers), 2 (bad arguments), 130 (interrupted)."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options))
    except FastMLPError as error:
        print(f"fastmlp: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fastmlp", description="Multilayer perceptrons on hand-tuned CPU kernels.")
    parser.add_argument("--version", action="version", version=f"fastmlp {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    bench = commands.add_parser("bench", help="check a backend against NumPy, then time both")
    bench.add_argument(
        "--suite", type=_names, metavar="A,B", help="of train (default), infer, kernels, sizes, cold-start, memory"
    )
    bench.add_argument("--peers", type=_names, metavar="A,B", help="too: torch, torch-compile, jax, onnxruntime")
    bench.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (default), float64 or bfloat16")
    bench.add_argument(
        "--all", action="store_true", help="large workloads too, and every suite unless --suite is given"
    )
    bench.add_argument("--json", type=Path, metavar="PATH", help="write the whole report there too")
    bench.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    bench.add_argument("--quick", action="store_true", help="fewer workloads, less time for each: under 30 seconds")
    bench.add_argument("--threads", type=_positive, metavar="N", help="threads for every side (default: every core)")
    bench.add_argument("--backend", default="auto", metavar="NAME", help="what is held against NumPy (default: auto)")
    bench.add_argument("--workload", action="append", metavar="NAME", help="only this one; may be given again")
    bench.set_defaults(command=_bench)

    warm = commands.add_parser("warmup", help="compile all kernels now and keep them for later processes")
    warm.add_argument(
        "--dtype", action="append", metavar="NAME", help="float32 (default), float64 or bfloat16; may be given again"
    )
    warm.set_defaults(command=_warmup)

    program = commands.add_parser(
        "run",
        help="run a Python program with scikit-learn's MLPs on fastmlp's kernels",
        usage="fastmlp run [-v] (SCRIPT | -m MODULE) [ARGUMENT ...]",
    )
    program.add_argument("-v", "--verbose", action="store_true", help="say for each fit whether it was accelerated")
    program.add_argument("-m", dest="module", nargs=argparse.REMAINDER, help="a module's name and its arguments")
    program.add_argument("script", nargs=argparse.REMAINDER, help="a script's path and its arguments")
    program.set_defaults(command=_run)

    tell = commands.add_parser("info", help="show versions, processor, backends, GPU and energy counters")
    tell.add_argument("--json", action="store_true", help="print it as JSON")
    tell.set_defaults(command=_info)
    return parser


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _positive(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1; got {text!r}")
    return int(text)


def _bench(options: argparse.Namespace) -> int:
    if options.threads:
        if "numpy" in sys.modules:
            raise ArgumentError("--threads must come before NumPy is loaded; run `fastmlp bench` in its own process")
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(options.threads)))
    if options.json and not options.json.parent.is_dir():
        raise ArgumentError(f"--json must name a file in a folder that exists; got {str(options.json)!r}")

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from .bench import peers, report, run, workloads
    from .bench.contest import Setting
    from .kernels import backend as backends
    from .kernels.contract import NETWORK_DTYPES

    suites = options.suite or (list(workloads.SUITES) if options.all or options.workload else ["train"])
    tiers = [workloads.QUICK, workloads.STANDARD, workloads.LARGE][: 1 if options.quick else 3 if options.all else 2]
    chosen = workloads.choose(suites, options.workload or [], tiers)
    require_name("--dtype", options.dtype, NETWORK_DTYPES)
    asked = list(dict.fromkeys(suite for suite, _ in chosen))
    if options.dtype == "bfloat16" and (options.peers or not {*asked} <= {*run.BFLOAT16_SUITES}):
        raise ArgumentError(
            f"--dtype bfloat16 goes with --suite {','.join(run.BFLOAT16_SUITES)} and no --peers; "
            f"got {', '.join(asked)}, peers {', '.join(options.peers or ['none'])}"
        )
    backend, _ = backends.resolve(options.backend)
    threads = _threads(backend, options.threads)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    task = bar.add_task("starting", total=len(chosen))
    setting = Setting(
        backend,
        threads,
        options.dtype,
        peers.load(options.peers or [], threads),
        QUICK_BUDGET_S if options.quick else BUDGET_S,
        tell=lambda stage: bar.update(task, description=stage),
    )
    document = report.new_document(setting, asked, options.quick)
    status = 0
    with bar:
        try:
            for row in run.rows(chosen, setting):
                document["rows"].append(row)
                bar.advance(task)
            document["complete"] = True
        except KeyboardInterrupt:
            status = 130
    report.finish(document, setting)
    if status == 0 and not all(map(run.right, document["rows"])):
        status = 1
    if options.markdown:
        print(report.markdown(document), end="")
    else:
        console = Console(width=None if sys.stdout.isatty() else max(120, shutil.get_terminal_size().columns))
        console.print(report.table(document, console.width))
    if options.json:
        report.save(document, options.json)
    return status


def _threads(backend: str, asked: int | None = None) -> int:
    """How many threads the backend may use; for NumPy what was `asked` for, else every core."""
    if backend == "cpu":
        from .kernels.cores import get_num_threads

        return get_num_threads()
    from .kernels.cores import usable_cores

    return asked or usable_cores()


def _warmup(options: argparse.Namespace) -> int:
    from rich.console import Console

    from .kernels.arrays import as_network_dtype
    from .warming import warmup

    dtypes = [as_network_dtype("--dtype", name) for name in options.dtype or ["float32"]]
    started = time.perf_counter()
    with Console(stderr=True).status("starting") as status:
        for dtype in dtypes:
            warmup(dtype, lambda name: status.update(f"compiling {name}"))

    from .kernels.cpu.compile import cache_folder

    folder = cache_folder()
    where = f"kept in {folder}" if folder else "not kept: there is no folder for them"
    print(f"kernels for {' and '.join(dtypes)}: ready after {time.perf_counter() - started:.1f} s, {where}")
    return 0


def _run(options: argparse.Namespace) -> int:
    from .running import run

    arguments = options.module or options.script
    if not arguments:
        raise ArgumentError("run takes the path of a Python script, or -m and the name of a module")
    run(arguments, bool(options.module), options.verbose)
    return 0


def _info(options: argparse.Namespace) -> int:
    from .bench.energy import Meter
    from .kernels import backend as backends

    meter = Meter()
    facts = info.collect()
    facts["backends"] = backends.status()
    facts["bfloat16"] = backends.BFLOAT16
    chosen, _ = backends.resolve("auto")
    layer = "fastmlp's own threads, no OpenMP" if chosen == "cpu" else "those of NumPy's BLAS"
    facts["threads"] = {"count": _threads(chosen), "layer": layer}
    facts["energy"] = {"source": meter.source, "detail": meter.detail}
    print(json.dumps(facts, indent=1) if options.json else _as_text(facts))
    return 0


def _as_text(facts: dict[str, Any]) -> str:
    """The facts for people: one subject a line, long ones folded to the terminal."""
    software, machine, threads = facts["software"], facts["machine"], facts["threads"]
    gpu, energy = facts["gpu"], facts["energy"]
    packages = [f"{name} {software[name]}" for name in info.PACKAGES if software[name]]
    caches = [f"{name} {size} KiB" for name, size in machine["caches_kib"].items()]
    lines = [
        ("fastmlp", facts["fastmlp"]),
        ("system", f"{software['os']}, Python {software['python']}"),
        ("packages", ", ".join(packages)),
        ("processor", f"{machine['cpu'] or 'unknown'} ({machine['architecture']})"),
        ("cores", f"{machine['usable_cores']} usable of {machine['cores']}"),
        ("caches", ", ".join(caches) or "unknown"),
        ("instructions", ", ".join(machine["instruction_sets"] or ["unknown"])),
        *((f"backend {name}", reason or "ready") for name, reason in facts["backends"].items()),
        ("bfloat16", facts["bfloat16"]),
        ("threads", f"{threads['count']} ({threads['layer']})"),
        ("GPU", ", ".join(gpu["devices"]) or f"none ({gpu['reason']})"),
        ("energy", f"{energy['source']} ({energy['detail']})"),
    ]
    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    margin = max(len(name) for name, _ in lines) + 2
    return "\n".join(
        textwrap.fill(str(text), width, initial_indent=name.ljust(margin), subsequent_indent=" " * margin)
        for name, text in lines
    )
