"""The command line: `fastmlp info` tells what is here, `bench` how fast it is, `profile` why."""

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
        "--suite",
        type=_names,
        metavar="A,B",
        help="of train (default, with energy where it is counted), infer, kernels, sizes, energy, crossover, "
        "cold-start, memory",
    )
    bench.add_argument(
        "--peers",
        type=_names,
        metavar="A,B",
        help="too: torch, torch-compile, torch-bf16, jax, sklearn, tensorflow, onnxruntime",
    )
    bench.add_argument("--dtype", default="float32", metavar="NAME", help="float32 (default), float64 or bfloat16")
    bench.add_argument("--precision", default="highest", metavar="NAME", help="of float32: highest (default) or high")
    bench.add_argument(
        "--all", action="store_true", help="large workloads too, and every suite unless --suite is given"
    )
    bench.add_argument("--json", type=Path, metavar="PATH", help="write the whole report there too")
    bench.add_argument("--baseline", type=Path, metavar="PATH", help="compare with an older run's --json")
    bench.add_argument("--plot", type=Path, metavar="PATH", help="draw speed-up against width there, as SVG")
    bench.add_argument("--map", type=Path, metavar="PATH", help="draw the crossover map there, as SVG")
    bench.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    bench.add_argument("--quick", action="store_true", help="fewer workloads, less time for each: under 30 seconds")
    bench.add_argument("--threads", type=_positive, metavar="N", help="threads for every side (default: every core)")
    bench.add_argument("--backend", default="auto", metavar="NAME", help="what is held against NumPy (default: auto)")
    bench.add_argument("--remeasure", action="store_true", help="measure the machine's ceilings anew first")
    bench.add_argument(
        "--watts-per-core", type=float, metavar="W", help="estimate joules so where no counter can be read"
    )
    bench.add_argument("--workload", action="append", metavar="NAME", help="only this one; may be given again")
    bench.set_defaults(command=_bench)

    profile = commands.add_parser(
        "profile",
        help="take a training step apart: time, work and roofs of every part",
        usage="fastmlp profile [OPTION ...] (WIDTHS | --script SCRIPT [ARGUMENT ...])",
    )
    profile.add_argument("layers", nargs="?", metavar="WIDTHS", help="such as 784-256-128-10, input first")
    profile.add_argument("--batch", type=_positive, default=128, metavar="N", help="rows a step (default: 128)")
    for name, default in (
        ("activation", "relu"),
        ("output-activation", "identity"),
        ("loss", "mse"),
        ("optimizer", "sgd"),
        ("dtype", "float32"),
        ("backend", "auto"),
    ):
        profile.add_argument(f"--{name}", default=default, metavar="NAME", help=f"as of MLP (default: {default})")
    profile.add_argument("--threads", type=_positive, metavar="N", help="threads at most (default: every core)")
    profile.add_argument(
        "--html", type=Path, metavar="PATH", help="write a page there: roofline plot, timeline, tables"
    )
    profile.add_argument("--json", type=Path, metavar="PATH", help="write the whole document there")
    profile.add_argument("--trace", type=Path, metavar="PATH", help="write a trace there, for ui.perfetto.dev")
    profile.add_argument("--quick", action="store_true", help="less time for each: a first look")
    profile.add_argument("--remeasure", action="store_true", help="measure the machine's ceilings anew first")
    profile.add_argument(
        "--watts-per-core", type=float, metavar="W", help="estimate joules so where no counter can be read"
    )
    profile.add_argument(
        "--script", nargs=argparse.REMAINDER, help="run this program and profile every network that it trains"
    )
    profile.set_defaults(command=_profile)

    warm = commands.add_parser("warmup", help="compile all kernels now and keep them for later processes")
    warm.add_argument(
        "--dtype", action="append", metavar="NAME", help="float32 (default), float64 or bfloat16; may be given again"
    )
    warm.add_argument("--precision", default="highest", metavar="NAME", help="of float32: highest (default) or high")
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


def _limit_threads(options: argparse.Namespace) -> None:
    if options.threads:
        if "numpy" in sys.modules:
            raise ArgumentError("--threads must come before NumPy is loaded; run `fastmlp` in its own process")
        os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(options.threads)))


def _profile(options: argparse.Namespace) -> int:
    _limit_threads(options)
    from .profile.command import run

    return run(options)


def _bench(options: argparse.Namespace) -> int:
    _limit_threads(options)
    from .bench.command import bench

    return bench(options)


def _warmup(options: argparse.Namespace) -> int:
    from rich.console import Console

    from .kernels.contract import NETWORK_DTYPES
    from .warming import warmup

    dtypes = [require_name("--dtype", name, NETWORK_DTYPES) for name in options.dtype or ["float32"]]
    started = time.perf_counter()
    with Console(stderr=True).status("starting") as status:
        for dtype in dtypes:
            warmup(dtype, lambda name: status.update(f"compiling {name}"), precision=options.precision)

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
    from .energy import Meter
    from .kernels import backend as backends

    meter = Meter()
    facts = info.collect()
    facts["backends"] = backends.status()
    chosen, module = backends.resolve("auto")
    facts["bfloat16"] = module.BFLOAT16
    facts["precision_high"], facts["precision_highest"] = module.HIGH, module.HIGHEST
    layer = "fastmlp's own threads, no OpenMP" if chosen == "cpu" else "those of NumPy's BLAS"
    facts["threads"] = {"count": backends.threads(chosen), "layer": layer}
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
        ("precision high", facts["precision_high"]),
        ("precision highest", facts["precision_highest"]),
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
