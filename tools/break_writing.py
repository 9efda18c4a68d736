"""Stops `onnxopt optimize` while it writes, and counts what it leaves: whole files, or those that were there before.

    python tools/break_writing.py --times 200

Every run writes a model and its plan over older ones. Runs with equal arguments give equal bytes, so what is whole is
known from runs that nobody disturbs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxopt import cli

OLD = b"older"
"""What the outputs hold before a run."""
OUTPUTS = ("small.onnx", "plan.json")
SETTINGS = ("smallest", "fastest")
"""What the two runs favour that write the same files. Without loss, a run is short, and most of it is writing."""
_fork = multiprocessing.get_context("fork")

Wholes = Mapping[str, set[bytes]]


@dataclass(slots=True)
class Count:
    """What a kind of disturbance left."""

    what: str
    runs: int = 0
    new: int = 0
    """Runs after which every output was new."""
    old: int = 0
    """Runs after which every output was as before."""
    mixed: int = 0
    """Runs after which each output was whole, but not all of the same run."""
    half: int = 0
    """Runs after which an output was anything else."""
    litter: int = 0
    """Runs that left a hidden folder behind."""

    def add(self, folder: Path, wholes: Wholes) -> None:
        """Counts what is left in the folder."""
        contents = {name: (folder / name).read_bytes() for name in OUTPUTS}
        self.runs += 1
        self.litter += any(path.name not in OUTPUTS for path in folder.iterdir())
        if all(content == OLD for content in contents.values()):
            self.old += 1
        elif all(content in wholes[name] for name, content in contents.items()):
            self.new += 1
        elif all(content == OLD or content in wholes[name] for name, content in contents.items()):
            self.mixed += 1
        else:
            self.half += 1


def model(path: Path) -> None:
    """Writes a model of two layers, of 400 kB."""
    rng = np.random.default_rng(0)
    shapes = {"a": (64, 1024), "b": (1024, 32)}
    weights = [numpy_helper.from_array(rng.laplace(size=s).astype(np.float32) / 8, n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["y"]),
    ]  # fmt: skip
    ends = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, ["n", s]) for n, s in (("x", 64), ("y", 32))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def optimize(source: Path, folder: Path, favoured: str = SETTINGS[0]) -> None:
    """One run of the command, in a process that ends with its exit code."""
    small, plan = (str(folder / name) for name in OUTPUTS)
    words = ["onnxopt", "optimize", str(source), "-o", small, "--plan-out", plan, "--lossless"]
    words += ["--decode", favoured]
    quiet = io.StringIO()
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        cli.main()


def started(source: Path, folder: Path, favoured: str = SETTINGS[0]) -> multiprocessing.process.BaseProcess:
    """A run in a process of its own, which need not import anything."""
    process = _fork.Process(target=optimize, args=(source, folder, favoured))
    process.start()
    return process


def fresh(folder: Path) -> Path:
    """The folder with older outputs and nothing else."""
    for path in folder.iterdir() if folder.exists() else ():
        subprocess.run(["rm", "-rf", str(path)], check=True)
    folder.mkdir(exist_ok=True)
    for name in OUTPUTS:
        (folder / name).write_bytes(OLD)
    return folder


def undisturbed(source: Path, folder: Path) -> tuple[Wholes, float]:
    """What whole outputs hold, and the seconds of a run."""
    wholes: dict[str, set[bytes]] = {name: set() for name in OUTPUTS}
    for favoured in SETTINGS:
        begun = time.monotonic()
        process = started(source, fresh(folder), favoured)
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a run that nobody disturbed ended with code {process.exitcode}")
        for name in OUTPUTS:
            wholes[name].add((folder / name).read_bytes())
    return wholes, time.monotonic() - begun


def stopped(number: signal.Signals, times: int, source: Path, folder: Path, seed: int = 0) -> Count:
    """Runs that a signal ends: one in two anywhere, the others soon after it begins to write."""
    found, rng = Count(f"{number.name} at a random moment"), random.Random(seed)
    wholes, seconds = undisturbed(source, folder)
    for index in range(times):
        process = started(source, fresh(folder))
        wait = rng.uniform(0, 1.1 * seconds)
        if index % 2:
            wait = rng.uniform(0, 0.5 * seconds)
            while process.is_alive() and not _writes(folder):
                time.sleep(0.001)
        process.join(wait)
        if process.pid and process.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)
        process.join()
        found.add(folder, wholes)
    return found


def _writes(folder: Path) -> bool:
    """Whether a hidden folder holds a file that has begun."""
    with contextlib.suppress(FileNotFoundError):  # the run removes it meanwhile
        return any(path.stat().st_size for path in folder.glob(".*/*"))
    return False


def raced(times: int, source: Path, folder: Path) -> Count:
    """Pairs of runs that write the same files at the same time, each of which favours something else."""
    found = Count("two runs on the same outputs")
    wholes, seconds = undisturbed(source, folder)
    rng = random.Random(0)
    for _ in range(times):
        fresh(folder)
        first = started(source, folder, SETTINGS[0])
        time.sleep(rng.uniform(0, 0.3 * seconds))
        second = started(source, folder, SETTINGS[1])
        first.join()
        second.join()
        found.add(folder, wholes)
    return found


@contextmanager
def disk(folder: Path, options: str) -> Iterator[bool]:
    """A small disk in memory; False where mounting is not allowed."""
    folder.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    mounted = os.name == "posix" and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def filled(times: int, source: Path, folder: Path) -> Count:
    """Runs on disks of different sizes, most of which are too small. None are counted where mounting is not allowed."""
    found = Count("a full disk")
    with tempfile.TemporaryDirectory() as other:
        wholes, _ = undisturbed(source, Path(other))
    needed = sum(len(max(contents, key=len)) for contents in wholes.values())
    for size in np.linspace(0.05 * needed, 1.5 * needed, times):
        with disk(folder, f"size={int(size) + 8192}") as mounted:
            if mounted:
                started(source, fresh(folder)).join()
                found.add(folder, wholes)
    return found


def read_only(times: int, source: Path, folder: Path) -> Count:
    """Runs on a disk that cannot be written. None are counted where mounting is not allowed."""
    found = Count("a read-only folder")
    with disk(folder, "size=1m") as mounted:
        if mounted:
            fresh(folder)
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
            for _ in range(times):
                started(source, folder).join()
                found.add(folder, {name: set() for name in OUTPUTS})
    return found


def disturbed(times: int) -> list[Count]:
    """Every kind of disturbance; `times` kills, and a tenth as many of what is slower or has fewer cases."""
    few = max(1, times // 10)
    kinds: Sequence[tuple[Callable[[Path, Path], Count], str]] = (
        (lambda source, folder: stopped(signal.SIGKILL, times, source, folder), "killed"),
        (lambda source, folder: stopped(signal.SIGTERM, few, source, folder), "terminated"),
        (lambda source, folder: raced(few, source, folder), "raced"),
        (lambda source, folder: filled(few, source, folder), "full"),
        (lambda source, folder: read_only(max(1, few // 10), source, folder), "read-only"),
    )
    with tempfile.TemporaryDirectory() as top:
        source = Path(top) / "model.onnx"
        model(source)
        os.environ["XDG_CACHE_HOME"] = str(Path(top) / "cache")
        return [run(source, Path(top) / name) for run, name in kinds]


def main() -> int:
    """The command line; ends with 1 if a half-written file was found."""
    parser = argparse.ArgumentParser(description="Stops `onnxopt optimize` while it writes, and counts what it leaves.")
    parser.add_argument("--times", type=int, default=200, help="kills; a tenth as many of other disturbances")
    found = disturbed(parser.parse_args().times)
    for count in found:
        print(count)
    return int(any(count.half for count in found))


if __name__ == "__main__":
    sys.exit(main())
