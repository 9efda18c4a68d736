"""Many models by one command, which is killed twice and run again: the summary, and whether all files are the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import realdata
from common.pages import markdown
from onnxopt.report.text import size
from tables import CannotMeasureError, Scope, Table

MORE = ("resnet8_keras", "kws_dscnn", "silero_half", "gtcrn", "logreg_zipmap", "mobilenet_v1_0.5_int8_tflite")
"""Models of the shared folder besides `realdata.SHARED`."""
KILLED = (0.25, 0.6)
"""Shares of the outputs that are there when the command is killed."""
OPTIONS = ("--effort", "fast", "--jobs", "2")


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything in the page."""

    rows: list[dict[str, Any]]
    """A line of ``--json`` for each model, of a run that nothing disturbed."""
    there: list[int]
    """Outputs that were there when each of the next runs was killed."""
    kept: int
    """Outputs that the last run kept."""


def measure(scope: Scope) -> Measured:
    """Runs the command undisturbed, then into another folder until it is killed, again, and to its end.

    Raises CannotMeasureError if the files of both folders differ.
    """
    models = [realdata.path_of(model) for model in scope.models]
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first"), Path(folder, "second")
        for path in (first, second):
            path.mkdir()
        rows = _ended(_started(models, first))
        there = [_killed(models, second, round(share * len(models))) for share in KILLED]
        last = _ended(_started(models, second))
        if _contents(first) != _contents(second):
            raise CannotMeasureError("a run that was killed and resumed made other files")
    return Measured(rows, there, sum(row["status"] == "kept" for row in last))


def _started(models: Sequence[Path], output: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "onnxopt.cli", "optimize", *map(str, models), "-o", str(output), *OPTIONS, "--json"]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def _ended(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    said, _ = process.communicate()
    rows = [json.loads(line) for line in said.splitlines()]
    return sorted(rows, key=lambda row: Path(row["model"]).stem)


def _killed(models: Sequence[Path], output: Path, count: int) -> int:
    """Kills the command as soon as `count` outputs are there; returns how many there are."""
    process = _started(models, output)
    while len(_contents(output)) < count and process.poll() is None:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    return len(_contents(output))


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def render(found: Measured) -> str:
    """The summary, and a sentence about the runs that were killed."""
    rows = [
        [Path(row["model"]).stem, size(row["bytes_before"]), size(row["bytes_after"]),
         f"{row['bytes_before'] / row['bytes_after']:.2f}x", size(row["peak_memory"]), row["status"]]
        for row in found.rows
    ]  # fmt: skip
    first, second = found.there
    return "\n\n".join((
        f"**`onnxopt optimize models/*.onnx -o out/ {' '.join(OPTIONS)}`**",
        markdown(["model", "before", "after", "ratio", "peak memory", "status"], "lrrrrl", rows),
        f"Killed with {first} outputs, run again and killed with {second}, and run once more, the command kept "
        f"{found.kept} and made the others. All {len(rows)} files were the same as without interruption.",
    ))  # fmt: skip


TABLES = (Table("batch", "docs/pipelines.md", 8, measure, render, models=realdata.SHARED + MORE),)
