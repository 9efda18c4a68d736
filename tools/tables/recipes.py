"""Every recipe beside the engine, on real models, and the engine at several sizes; no fine-tuning.

Searches see labelled training images only. Accuracy is that of the whole test part, in stock ONNX Runtime with the
registered library. Recipes stop at different losses, so each is compared with the smallest of the engine's files that
loses no more.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxopt
from common import realdata
from common.kept import ONNXOPT
from common.pages import machine, markdown
from common.runs import original
from onnxopt import Contract
from onnxopt.spec import recipes
from onnxopt.spec.recipes import Recipe
from onnxopt.studies.compare import ENGINE
from tables import Scope, Table


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for on one model."""

    drop: float
    """Points of top-1."""
    images: int
    """Training images, at most: three quarters to calibrate with, a quarter to search with."""
    ratios: tuple[float, ...]
    """That the engine is asked for."""


ASKS = {
    "lenet5": Ask(0.5, 16_000, (20, 30, 40, 50, 60, 70)),
    "lenet_300_100": Ask(0.5, 16_000, (10, 15, 20, 25, 30, 40)),
    "resnet32": Ask(0.5, 2_400, (6, 8, 10, 12, 14, 16)),
    "squeezenet1.1": Ask(1.0, 300, (5, 6, 7, 8)),
}
SYSTEMS = [f"{model} {system}" for model in ASKS for system in (ENGINE, *recipes.names())]
"""Rows of the table, by model and system."""


@dataclass(frozen=True, slots=True)
class Found:
    """One file."""

    size: int
    metric: float
    """Percent, on the test part."""
    zeros: float
    """Share of the elements of weights, biases aside."""
    seconds: float
    """CPU seconds of compression, of all threads."""


@dataclass(frozen=True, slots=True)
class Row:
    """One file, and what was asked for."""

    model: str
    what: str
    """The system, or the ratio."""
    size: int
    """Of the source, bytes."""
    before: float
    """The original's metric."""
    found: Found

    @property
    def lost(self) -> float:
        """Points of the metric; rounded, because subtraction leaves an error in the last digits."""
        return round(self.before - self.found.metric, 6)

    def cells(self) -> list[str]:
        """What both tables show of a file."""
        found = self.found
        return [f"{found.size:,}", f"{self.size / found.size:.2f}x", f"{found.metric:.2f}", f"{self.lost:.2f}"]


def compress(model: str, contract: Contract, system: str) -> Found:
    """One file of a model, by the engine or by a recipe."""
    task, recipe = realdata.TASKS[model], None if system == ENGINE else Recipe.open(system)
    data, few = task.batches("train", ASKS[model].images, True), task.batches("train", 32, True)
    with tempfile.TemporaryDirectory() as folder:
        small, started = Path(folder) / "small.onnx", time.process_time()
        # The final check takes a few training images: the test part is seen once, below.
        source = realdata.path_of(model)
        done = onnxopt.optimize(source, small, contract, data, evaluation=few, allow_miss=True, recipe=recipe)
        seconds = time.process_time() - started
        metric = realdata.evaluate(model, realdata.registered_session(small)).metric
    matrices = [event for event in done.events if len(event.shape) > 1 and event.elements]
    zeros = sum(event.zeros * event.elements for event in matrices) / max(1, sum(e.elements for e in matrices))
    return Found(done.bytes_after, metric, zeros, seconds)


def measure_drops(scope: Scope) -> list[Row]:
    """Every system on every model."""
    rows = []
    for name in SYSTEMS:
        model, system = name.split()
        if model in scope.models:
            found = ONNXOPT.once(compress, model, Contract(max_drop=ASKS[model].drop), system)
            rows.append(Row(model, system, realdata.path_of(model).stat().st_size, original(model), found))
    return rows


def measure_sizes(scope: Scope) -> list[Row]:
    """The engine at every size of every model."""
    rows = []
    for model in scope.models:
        for ratio in ASKS[model].ratios:
            found = ONNXOPT.once(compress, model, Contract(target_ratio=float(ratio)), ENGINE)
            rows.append(Row(model, f"{ratio:g}x", realdata.path_of(model).stat().st_size, original(model), found))
    return rows


def drops_table(rows: tuple[Sequence[Row], Sequence[Row]]) -> str:
    """Systems under one bound, with the engine at equal accuracy."""
    drops, sizes = rows
    lines = []
    for row in drops:
        allowed = ASKS[row.model].drop
        kept = "yes" if row.lost <= allowed + 1e-9 else "no"
        line = [row.model, f"{allowed}", row.what, *row.cells(), kept]
        line += [f"{100 * row.found.zeros:.0f} %", f"{row.found.seconds:.0f}", *beside(row, [*drops, *sizes])]
        lines.append(line)
    columns = ["model", "may lose", "system", "bytes", "ratio", "after %", "lost", "kept", "zeros", "CPU s"]
    columns += ["engine at that", "times smaller"]
    return f"{markdown(columns, 'lrlrrrrlrrrr', lines)}\n\nOn {machine()}."


def beside(row: Row, every: Iterable[Row]) -> tuple[str, str]:
    """The smallest file of the engine that loses no more than the row's, and how many times smaller it is.

    A file that is right more often than the original counts as one that loses nothing.
    """
    if row.what == ENGINE:
        return "", ""
    engine = [one for one in every if one.model == row.model and (one.what == ENGINE or one.what.endswith("x"))]
    best = min((one.found.size for one in engine if one.lost <= max(0.0, row.lost)), default=0)
    return (f"{best:,}", f"{row.found.size / best:.2f}") if best else ("none", "")


def sizes_table(rows: Sequence[Row]) -> str:
    """The engine, asked for sizes."""
    columns = ["model", "asked", "bytes", "ratio", "after %", "lost"]
    return markdown(columns, "lrrrrr", [[row.model, row.what, *row.cells()] for row in rows])


TABLES = (
    Table(
        "recipes",
        "docs/classical.md",
        60,
        lambda scope: (measure_drops(scope), measure_sizes(scope)),
        drops_table,
        tuple(ASKS),
    ),
    Table("engine-sizes", "docs/classical.md", 20, measure_sizes, sizes_table, tuple(ASKS)),
)
