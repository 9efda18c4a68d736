"""What fine-tuning without labels buys: the accuracy of files of a given size.

The size is the contract, so nothing is tuned on test images. Training sees training images without labels; accuracy is
that of the whole test part, measured once, on the finished file. A row is kept until the model, `onnxopt/tuning`
or the tools change, so that the table can be completed row by row: `python tools tuning --only lenet5` measures one
model's.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import onnxopt
from common import realdata
from common.kept import Kept
from common.pages import machine, markdown
from common.runs import Run, original
from onnxopt import Contract
from onnxopt.report import classical
from onnxopt.report.classical import PaperTable
from onnxopt.results.result import Result
from onnxopt.spec.recipes import Recipe
from onnxopt.tuning import __file__ as tuning
from tables import Scope, Table


@dataclass(frozen=True, slots=True)
class Ask:
    """One run."""

    model: str
    ratio: float
    """What is asked for."""
    allowed: float
    """Points that it may lose."""
    tune: str
    augment: str


ASKS = (
    Ask("lenet_300_100", 80, 0.2, "20epochs", "noise"),
    Ask("lenet_300_100", 130, 0.2, "20epochs", "noise"),
    Ask("lenet5", 150, 0.1, "20epochs", "noise"),
    Ask("lenet5", 250, 0.5, "20epochs", "noise"),
    Ask("resnet20", 14, 0.3, "8epochs", "flip,crop,blend"),
    Ask("resnet32", 20, 0.3, "8epochs", "flip,crop,blend"),
    Ask("resnet32", 28, 1.0, "14epochs", "flip,crop,blend"),
    Ask("resnet56", 25, 0.3, "4epochs", "flip,crop,blend"),
)


def _version() -> str:
    """Of what trains."""
    files = sorted(Path(tuning).parent.glob("*.py"))
    return f"{machine()}, {hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()}"


TUNING = Kept(_version)


def run(model: str, ratio: float, tune: str, augment: str, limit: int | None) -> Run:
    """Compresses a model to a ratio; tuned for a time, or not where that is empty. Then evaluates it."""
    return _compressed(model, ratio, tune, augment, limit)[0]


def _compressed(
    model: str, ratio: float, tune: str, augment: str, limit: int | None, recipe: Recipe | None = None
) -> tuple[Run, Result]:
    task, started = realdata.TASKS[model], time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        small, data = Path(folder) / "small.onnx", Path(folder) / "train.npy"
        images = task.read("train").images
        np.save(data, task.prepare(images[np.random.default_rng(0).permutation(len(images))]))
        del images
        done = onnxopt.optimize(
            realdata.path_of(model), small, Contract(target_ratio=ratio), data, tune=tune or None,
            augment=augment or (), recipe=recipe,
        )  # fmt: skip
        cpu_seconds = time.process_time() - started
        found = Run(done.bytes_before, done.bytes_after, done.seconds, cpu_seconds, done.peak_memory or 0, None,
                    float("nan"))  # fmt: skip
        metric = realdata.evaluate(model, realdata.registered_session(small), limit=limit).metric
        return replace(found, metric=metric), done


def measure(scope: Scope) -> list[tuple[Ask, Run, Run, float]]:
    """Every ask of the models, untuned and tuned, with the original's metric."""
    return [
        (
            ask,
            TUNING.once(run, ask.model, ask.ratio, "", "", scope.limit),
            TUNING.once(run, ask.model, ask.ratio, ask.tune, ask.augment, scope.limit),
            original(ask.model, scope.limit),
        )
        for ask in ASKS
        if ask.model in scope.models
    ]


def render(rows: Sequence[tuple[Ask, Run, Run, float]]) -> str:
    """One row an ask."""
    lines = []
    for ask, untuned, tuned, before in rows:
        lost = round(before - tuned.metric, 4)
        kept = "yes" if lost <= ask.allowed and tuned.ratio >= ask.ratio else "**no**"
        sizes = [f"{ask.ratio:g}x", f"{tuned.bytes_after:,}", f"{tuned.ratio:.1f}x"]
        scores = [
            f"{before:.2f}",
            f"{untuned.metric:.2f}",
            f"{tuned.metric:.2f}",
            f"{lost:.2f}",
            f"{ask.allowed:g}",
            kept,
        ]
        training = f"{ask.tune.removesuffix('epochs')}, {ask.augment}"
        spent = [f"{number:.0f}" for number in (tuned.seconds, tuned.cpu_seconds, tuned.peak_memory / 1e6)]
        lines.append([ask.model, *sizes, *scores, training, *spent])
    columns = ["model", "asked", "bytes", "ratio", "before %", "untuned %", "tuned %", "lost", "may lose", "kept"]
    return markdown([*columns, "passes", "s", "CPU s", "peak MB"], "lrrrrrrrrrlrrr", lines) + f"\n\nOn {machine()}."


@dataclass(frozen=True, slots=True)
class System:
    """A recipe on one model, and what its paper reports."""

    model: str
    recipe: str
    ratio: float
    """That the paper reports, and that is asked for."""
    tune: str
    augment: str


SYSTEMS = (
    System("lenet_300_100", "deep-compression", 40, "60epochs", "noise"),
    System("lenet5", "deep-compression", 39, "20epochs", "noise"),
)


def run_system(system: System, tune: bool, limit: int | None) -> tuple[Run, PaperTable | None]:
    """Compresses a model by a recipe, with or without training. Then evaluates it."""
    recipe, how = Recipe.open(system.recipe), (system.tune, system.augment) if tune else ("", "")
    found, done = _compressed(system.model, system.ratio, *how, limit, recipe)
    return found, classical.of(recipe.table, done.events) if recipe.table else None


Measured = Sequence[tuple[System, Run, Run, PaperTable | None, float]]


def measure_systems(scope: Scope) -> Measured:
    """Every recipe of the models, untuned and tuned, with the tuned file's layers and the original's metric."""
    rows = []
    for one in SYSTEMS:
        if one.model in scope.models:
            untuned, _ = TUNING.once(run_system, one, False, scope.limit)
            tuned, layers = TUNING.once(run_system, one, True, scope.limit)
            rows.append((one, untuned, tuned, layers, original(one.model, scope.limit)))
    return rows


def render_systems(rows: Measured) -> str:
    """One row a system."""
    lines = []
    for one, untuned, tuned, _, before in rows:
        lost = round(before - tuned.metric, 4)
        kept = "yes" if lost <= 0 and tuned.ratio >= one.ratio else "**no**"
        training = f"{one.tune.removesuffix('epochs')}, {one.augment}"
        sizes = [f"{one.ratio:g}x", f"{tuned.bytes_after:,}", f"{tuned.ratio:.1f}x"]
        scores = [f"{before:.2f}", f"{untuned.metric:.2f}", f"{tuned.metric:.2f}", f"{lost:.2f}", kept]
        spent = [f"{number:.0f}" for number in (tuned.seconds, tuned.cpu_seconds, tuned.peak_memory / 1e6)]
        lines.append([one.model, one.recipe, *sizes, *scores, training, *spent])
    columns = ["model", "recipe", "paper, no loss", "bytes", "ratio", "before %", "untuned %", "tuned %", "lost",
               "as the paper", "passes", "s", "CPU s", "peak MB"]  # fmt: skip
    return markdown(columns, "llrrrrrrrllrrr", lines) + f"\n\nOn {machine()}."


def render_layers(rows: Measured) -> str:
    """The table of the paper, for every tuned file."""
    parts = []
    for one, _, tuned, layers, _ in rows:
        if layers is not None:
            lines = [[row.layer, *(classical.text(value, column.unit)
                                   for value, column in zip(row.values, layers.columns, strict=True))]
                     for row in (*layers.rows, layers.total)]  # fmt: skip
            table = markdown(
                ["layer", *(one.heading for one in layers.columns)], "l" + "r" * len(layers.columns), lines
            )
            parts.append(f"{one.model}, {one.recipe}, {tuned.ratio:.1f}x:\n\n{table}")
    return "\n\n".join(parts)


_MODELS = tuple(dict.fromkeys(one.model for one in SYSTEMS))
TABLES = (
    Table("tuning", "docs/tuning.md", 5, measure, render, tuple(dict.fromkeys(ask.model for ask in ASKS))),
    Table("tuning-recipes", "docs/tuning.md", 25, measure_systems, render_systems, _MODELS),
    Table("tuning-layers", "docs/tuning.md", 0, measure_systems, render_layers, _MODELS),
)
