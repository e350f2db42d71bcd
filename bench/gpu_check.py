"""Proof and figures of the CUDA backend on a machine with a GPU, in under nine minutes.

    python3 -m fastmlp.bench.gpu_check --json gpu.json       # in a checkout; nothing need be installed but its packages

It needs NumPy, Numba, numba-cuda and CuPy; PyTorch, compute-sanitizer, pytest and NVML take part where they are there.
Every stage has its budget of seconds, what it leaves over is the next one's. The work is done by child processes: one
that hangs is ended, one that dies is followed by another, and the document, written anew after each item, keeps all
that was found. `--rehearse` goes through all of it in Numba's simulator on tiny sizes, without a GPU.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .. import __version__
from .gpu import worker
from .gpu.summary import summary

SCHEMA = 1


@dataclass(frozen=True)
class Stage:
    """Part of the run: its budget, and the most seconds that one item of it may take."""

    name: str
    budget_s: float
    item_s: float


STAGES = (
    Stage("machine", 20, 20),
    Stage("checks", 130, 60),
    Stage("ceilings", 25, 15),
    Stage("times", 190, 60),
    Stage("energy", 80, 60),
    Stage("sanitizer", 75, 75),
)
"""In this order: where time runs out, what matters most has been made."""

START_S = 30
"""Before its first item a process imports its packages and starts the driver."""

SANITIZER_TOOLS = ("memcheck", "racecheck")


class Run:
    """The document of a run, and how its stages are made."""

    def __init__(
        self,
        path: Path,
        rehearsal: bool,
        scale: float = 1.0,
        stages: Sequence[Stage] = STAGES,
        chosen: Sequence[str] = (),
    ) -> None:
        self.path, self.rehearsal, self.scale, self.stages = path, rehearsal, scale, stages
        self.chosen = chosen
        self.document: dict[str, Any] = {
            "schema": SCHEMA,
            "fastmlp": __version__,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "rehearsal": rehearsal,
            "complete": False,
            "seconds": 0.0,
            "stages": {},
        }
        self._started = time.monotonic()

    def make(self) -> None:
        """All stages. Each may use what those before it left over."""
        deadline = self._started
        for stage in self.stages:
            deadline += stage.budget_s * self.scale
            results: dict[str, Any] = {"budget_s": stage.budget_s * self.scale, "items": {}}
            self.document["stages"][stage.name] = results
            began = time.monotonic()
            wrappers = self._wrappers(stage)
            for i, (prefix, wrapper) in enumerate(wrappers):
                now = time.monotonic()
                its_deadline = now + (deadline - now) / (len(wrappers) - i)
                self._make(stage, its_deadline, results["items"], prefix, wrapper)
            results["took_s"] = time.monotonic() - began
            self.save()
            if stage.name == "machine" and any(item["status"] != "passed" for item in results["items"].values()):
                return
        self.document["complete"] = True
        self.save()

    def save(self) -> None:
        """Write the document: completely, or not at all."""
        self.document["seconds"] = time.monotonic() - self._started
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text(json.dumps(self.document, indent=1) + "\n")
        os.replace(temporary, self.path)

    def _wrappers(self, stage: Stage) -> list[tuple[str, list[str]]]:
        """(what items' names begin with, the command that their process runs under)."""
        if stage.name != "sanitizer":
            return [("", [])]
        tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
        if tool is None and not self.rehearsal:
            reason = {"status": "skipped", "reason": "compute-sanitizer is not installed"}
            self.document["stages"][stage.name]["items"]["compute-sanitizer"] = reason
            return []
        start = [] if tool is None else [tool, "--error-exitcode", "9", "--print-limit", "5", "--tool"]
        return [(f"{name}: ", [*start, name] if start else []) for name in SANITIZER_TOOLS]

    def _make(self, stage: Stage, deadline: float, items: dict[str, Any], prefix: str, wrapper: list[str]) -> None:
        left = self._names(stage)
        while left and time.monotonic() < deadline:
            made, trouble = self._attempt(stage, left, deadline, items, prefix, wrapper)
            left = left[made:]
            if trouble and left:
                items[prefix + left.pop(0)] = {"status": "failed", "reason": trouble}
            self.save()
        for name in left:
            items[prefix + name] = {"status": "not run", "reason": "the stage's seconds were spent"}

    def _names(self, stage: Stage) -> list[str]:
        command = self._command(stage, ["--list"])
        listed = subprocess.run(command, capture_output=True, text=True, env=self._environment(), timeout=120)
        if listed.returncode != 0:
            self.document["stages"][stage.name]["items"]["list"] = {"status": "failed", "reason": listed.stderr[-2000:]}
            return []
        names: list[str] = json.loads(listed.stdout.splitlines()[-1])
        return [name for name in names if not self.chosen or any(part in name for part in self.chosen)]

    def _attempt(
        self,
        stage: Stage,
        names: Sequence[str],
        deadline: float,
        items: dict[str, Any],
        prefix: str,
        wrapper: list[str],
    ) -> tuple[int, str | None]:
        """One process; how many of the items it ended, and what befell the next one if it ended too soon.

        Results are in the document as soon as they are made.
        """
        with tempfile.TemporaryDirectory() as folder:
            lines, log, asked = (Path(folder) / name for name in ("lines", "log", "names"))
            lines.touch()
            asked.write_text(json.dumps(list(names)))
            command = [*wrapper, *self._command(stage, ["--lines", str(lines), "--names", str(asked)])]
            trouble, size, since = None, -1, time.monotonic()
            with log.open("w") as output:
                process = subprocess.Popen(
                    command, stdout=output, stderr=output, env=self._environment(), start_new_session=True
                )
                try:
                    while process.poll() is None and trouble is None:
                        time.sleep(0.05)
                        now, written = time.monotonic(), lines.stat().st_size
                        if written != size:
                            size, since = written, now
                            items |= {prefix + name: result for name, result in _read(lines).items()}
                            self.save()
                        limit = stage.item_s * self.scale + START_S * (size == 0)
                        if now > deadline:
                            trouble = "the stage's seconds were spent"
                        elif now - since > limit:
                            trouble = f"it took more than {limit:g} s"
                finally:
                    _end(process)
            made = _read(lines)
            if wrapper and process.returncode == 9:  # the sanitizer's word on all of them
                for result in made.values():
                    result |= {"status": "failed", "reason": log.read_text()[-2000:]}
            items |= {prefix + name: result for name, result in made.items()}
            if trouble is None and len(made) < len(names):
                trouble = f"its process died with status {process.returncode}"
            return len(made), trouble and f"{trouble}: {log.read_text()[-1500:]}"

    def _command(self, stage: Stage, more: Sequence[str]) -> list[str]:
        rehearse = ["--rehearse"] if self.rehearsal else []
        return [sys.executable, "-m", "fastmlp.bench.gpu_check", "--stage", stage.name, *rehearse, *more]

    def _environment(self) -> dict[str, str]:
        root = str(Path(__file__).resolve().parents[1])
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        simulated = {"NUMBA_ENABLE_CUDASIM": "1"} if self.rehearsal else {}
        return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"} | simulated


def _read(lines: Path) -> dict[str, Any]:
    """The results by item."""
    made: dict[str, Any] = {}
    for line in lines.read_text().splitlines():
        with contextlib.suppress(ValueError):  # the last one may be cut off
            entry = json.loads(line)
            if entry["state"] == "ended":
                made[entry["item"]] = entry["result"]
    return made


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its children, if they still run."""
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; 0 if all that could run passed, 1 if not, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m fastmlp.bench.gpu_check", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the document goes")
    parser.add_argument("--seconds", type=float, default=520.0, help="for all stages together (default 520)")
    parser.add_argument("--rehearse", action="store_true", help="in the simulator on tiny sizes, without a GPU")
    parser.add_argument("--only", metavar="STAGE", action="append", help="this stage alone; may be given again")
    parser.add_argument("--item", metavar="PART", action="append", help="only items whose names hold this; repeatable")
    for hidden in ("--stage", "--lines", "--names"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    parser.add_argument("--list", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.list:
        print(json.dumps(list(worker.items(options.stage, options.rehearse))))
        return 0
    if options.stage:
        names = json.loads(Path(options.names).read_text())
        worker.work(options.stage, names, Path(options.lines), options.rehearse)
        return 0
    if options.json is None or not options.json.parent.is_dir():
        parser.error("--json must name a file in a folder that exists")
    stages = [stage for stage in STAGES if not options.only or stage.name in options.only]
    scale = options.seconds / sum(stage.budget_s for stage in STAGES)
    run = Run(options.json, options.rehearse, scale, stages, options.item or ())
    status = 0
    ends = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run.make()
    except KeyboardInterrupt:
        status = 130
    finally:
        signal.signal(signal.SIGTERM, ends)
    run.save()
    text, right = summary(run.document)
    print(text)
    return status or (0 if right else 1)


if __name__ == "__main__":
    sys.exit(main())
