"""Encoders of sentences, trained: at one size, with and without `--tune`.

Each file is measured on sentences that no tool was given.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnxopt
from common.deployed import given, path_of
from common.pages import machine, markdown
from common.tuned import TUNING
from onnxopt import Contract
from onnxopt.spec.effort import Effort
from tables import Scope, Table
from tables.transformers import Cell, measured

MODELS, RATIO, PASSES = ("paraphrase-MiniLM-L3-v2", "all-MiniLM-L6-v2"), 8.0, 10


@dataclass(frozen=True, slots=True)
class Row:
    """A model's two files."""

    name: str
    untuned: Cell
    tuned: Cell


def run(name: str, tune: str) -> Cell:
    """The file of a model at `RATIO`; not tuned where that is empty."""
    with tempfile.TemporaryDirectory() as folder:
        file, started = Path(folder) / "small.onnx", time.process_time()
        done = onnxopt.optimize(path_of(name), file, Contract(target_ratio=RATIO), given(name, Path(folder)),
                                effort=Effort.FAST, tune=tune or None)  # fmt: skip
        seconds = time.process_time() - started
        return replace(measured(name, file), seconds=seconds, memory=done.peak_memory or 0)


def measure(scope: Scope) -> list[Row]:
    """A row for each model."""
    return [Row(name, *(TUNING.once(run, name, tune) for tune in ("", f"{PASSES}epochs"))) for name in MODELS]


def render(rows: Sequence[Row]) -> str:
    """A line for each file."""
    lines = [
        [row.name, what, f"{one.ratio:.2f}x", f"{one.noise:.4f}", f"{one.same:.1f} %", f"{one.seconds:.0f}",
         f"{one.memory / 1e6:.0f}"]
        for row in rows for what, one in (("no", row.untuned), (f"{PASSES} passes", row.tuned))
    ]  # fmt: skip
    columns = ["model", "tuned", "ratio", "noise", "nearest neighbours that stay", "CPU s", "peak MB"]
    return markdown(columns, "llrrrrr", lines) + f"\n\nOn {machine()}."


TABLES = (Table("tuning-deployed", "docs/tuning.md", 5, measure, render),)
