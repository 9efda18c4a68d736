"""Integers at run time, trained: `--for speed` with and without `--tune`, beside ONNX Runtime's own quantizer.

Asked for and calibrated as in `common.int8_files`; what trains has no labels. Accuracy is that of the whole test part.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxopt
from common import realdata
from common.int8_files import File, inspect, runtimes, training
from common.pages import machine, markdown
from common.tuned import TUNING
from onnxopt import Contract
from tables import Scope, Table

MODELS = ("mobilenet_v2",)
TUNE, AUGMENT = "6epochs", "flip,crop,blend"


@dataclass(frozen=True, slots=True)
class Row:
    """A model's files."""

    model: str
    method: str
    """Of calibration, by which the runtime's quantizer does best on the test part."""
    before: float
    """The original's metric."""
    theirs: File
    untuned: File
    tuned: File
    cpu_seconds: float
    """Of the run with training."""

    def lost(self, file: File) -> float:
        """Points of the metric; rounded, because subtraction leaves an error in the last digits."""
        return round(self.before - file.metric, 6)


def run(model: str, size: int, tune: str, augment: str) -> tuple[File, float]:
    """The file of at most `size` bytes, and the CPU seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        small, started = Path(folder) / "small.onnx", time.process_time()
        onnxopt.optimize(realdata.path_of(model), small, Contract(target_size=size), training(model), max_ram=2**31,
                         goal="speed", tune=tune or None, augment=augment or ())  # fmt: skip
        return inspect(model, small), time.process_time() - started


def measure(scope: Scope) -> list[Row]:
    """A row for each model; sizes are half of the other file's."""
    rows = []
    for model in scope.models:
        known, _ = runtimes(model)
        half = known.baseline.size // 2
        untuned, _ = TUNING.once(run, model, half, "", "")
        tuned, seconds = TUNING.once(run, model, half, TUNE, AUGMENT)
        rows.append(Row(model, known.method, known.source.metric, known.baseline, untuned, tuned, seconds))
    return rows


def render(rows: Sequence[Row]) -> str:
    """A line for each file."""
    lines = []
    for row in rows:
        half = row.lost(row.theirs) / 2
        files = ((f"`quantize_static`, {row.method}", row.theirs, ""), ("`--for speed`", row.untuned, ""),
                 ("`--for speed --tune`", row.tuned, f"{row.cpu_seconds:.0f}"))  # fmt: skip
        for name, file, seconds in files:
            lost = row.lost(file)
            kept = "" if file is row.theirs else "yes" if lost <= half else "**no**"
            layers = f"{file.kernels.integer} of {file.kernels.layers}"
            lines.append([row.model, name, f"{file.size / 1e3:,.0f}", layers, f"{row.before:.2f}",
                          f"{file.metric:.2f}", f"{lost:.2f}", kept, seconds])  # fmt: skip
    columns = ["model", "variant", "kB", "INT8 layers", "before %", "after %", "lost", "at most half", "CPU s"]
    return f"{markdown(columns, 'llrrrrrlr', lines)}\n\nOn {machine()}."


TABLES = (Table("tuning-speed", "docs/tuning.md", 15, measure, render, MODELS),)
