"""`fastmlp profile`: a network by its widths, or every network that a script trains."""

import argparse
import re
import shutil
import sys
import traceback

import numpy as np
from rich.console import Console

from ..commands import remeasure, require_folders
from ..energy import WINDOW_S
from ..errors import ArgumentError
from ..kernels.contract import LOSSES
from ..network import MLP
from ..running import execute, require_program
from . import SECONDS, Profile, profile
from .document import network_profile, new_document
from .watching import Watch

BATCHES, MOST_DATA_BYTES = 8, 1 << 28
"""Batches of random data that a network is trained on, fewer where these would be more bytes."""

QUICK_S, QUICK_WINDOW_S = 0.2, 1.0
"""Seconds of steps, and of counted energy, for a first look."""


def run(options: argparse.Namespace) -> int:
    """Run it; returns the exit status: 0, or 1 where a figure was refused. A script's own status is its own."""
    require_folders(json=options.json, html=options.html, trace=options.trace)
    if options.script is not None:
        return _script(options)
    if options.layers is None:
        raise ArgumentError("profile takes widths such as 784-256-128-10, or --script and the path of a program")
    widths = _widths(options.layers)
    net = MLP(
        widths, options.activation, options.output_activation, options.loss, options.optimizer,
        dtype=options.dtype, backend=options.backend,
    )  # fmt: skip
    x, y = _data(net, options.batch)
    with Console(stderr=True).status("starting") as status:
        if options.remeasure:
            remeasure(net.backend, status.update)
        found = profile(
            net, x, y, options.batch, seconds=QUICK_S if options.quick else SECONDS,
            watts_per_core=options.watts_per_core, energy_window_s=QUICK_WINDOW_S if options.quick else WINDOW_S,
            tell=status.update,
        )  # fmt: skip
    _show(found, options, Console(width=None if sys.stdout.isatty() else max(150, shutil.get_terminal_size().columns)))
    return 1 if found.errors else 0


def _script(options: argparse.Namespace) -> int:
    """Run the program, then tell what was seen on stderr, for stdout is the program's; its end is its own."""
    if options.layers is not None or not options.script:
        raise ArgumentError("--script takes the path of a program and its arguments, and no widths before it")
    require_program(options.script, False)
    watch, status = Watch(), 0
    with watch.watching():
        try:
            execute(options.script, False)
        except SystemExit as exit_:
            if isinstance(exit_.code, str):
                print(exit_.code, file=sys.stderr)
            status = exit_.code if isinstance(exit_.code, int) else 1 if exit_.code else 0
        except KeyboardInterrupt:
            status = 130
        except BaseException:
            traceback.print_exc()
            status = 1
    found = Profile(new_document([network_profile(measured) for measured in watch.measured()]))
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 150)
    _show(found, options, console)
    return status or (1 if found.errors else 0)


def _show(found: Profile, options: argparse.Namespace, console: Console) -> None:
    """Print the table and write the files."""
    console.print(found)
    for path, kind in ((options.json, ".json"), (options.html, ".html"), (options.trace, ".trace.json")):
        if path is not None:
            found.save(path, kind)


def _widths(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"\d+(-\d+)+", text):
        raise ArgumentError(f"the network's widths must look like 784-256-128-10, input first; got {text!r}")
    return tuple(map(int, text.split("-")))


def _data(net: MLP, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Random samples and targets that the network's loss takes, whole batches."""
    random, inputs, outputs = np.random.default_rng(0), net.layers[0], net.layers[-1]
    rows = batch * max(1, min(BATCHES, MOST_DATA_BYTES // (batch * inputs * net.dtype.itemsize)))
    x = random.standard_normal((rows, inputs), np.float32).astype(net.dtype, copy=False)
    target = LOSSES[net.structure.loss].target
    if target == "classes":
        return x, random.integers(0, outputs, rows)
    y = random.standard_normal((rows, outputs), np.float32)
    return x, (y > 0 if target == "probabilities" else y).astype(net.dtype)
