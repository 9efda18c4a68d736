"""Kim et al.'s whole scheme: a network factored by `tucker-vbmf`, its accuracy untuned, after one pass and after ten.

All training images train, without labels. Accuracy is that of the whole test part, on the finished file; nothing is
chosen on it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import onnxopt
from common import realdata
from common.pages import machine, markdown
from common.runs import original
from onnxopt.spec.recipes import Recipe
from tables import Scope, Table
from tables.ranks import size
from tables.tuning import TUNING

PASSES = (0, 1, 10)
"""Over the training images."""
MODELS = {"resnet56": 0.5, "resnet50v2_imagenette": 0.5, "squeezenet1.0": None}
"""Points that each may lose after the most passes; None where nothing is promised."""
AUGMENT = "flip,crop,blend"


@dataclass(frozen=True, slots=True)
class Factored:
    """A factored network, as it is after some passes."""

    images: int
    """That trained."""
    weights: float
    """M: how many times fewer weights and biases it has."""
    macs: float
    """E: how many times fewer multiply-accumulates one image takes."""
    ratio: float
    """How many times smaller the file is."""
    metric: float
    """Percent, on the test part."""
    cpu_seconds: float
    """Of compression, of all threads."""
    peak_memory: int
    """Bytes."""


def run(model: str, passes: int, limit: int | None) -> Factored:
    """Factors a network and trains it. Then evaluates it."""
    task, source, started = realdata.TASKS[model], realdata.path_of(model), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        small, data = Path(folder) / "small.onnx", Path(folder) / "train.npy"
        images = task.read("train").images
        count = len(images)
        np.save(data, task.prepare(images[np.random.default_rng(0).permutation(count)]))
        del images
        tune, augment = (f"{passes}epochs", AUGMENT) if passes else (None, ())
        recipe = Recipe.open("tucker-vbmf")
        done = onnxopt.optimize(source, small, data=data, recipe=recipe, tune=tune, augment=augment)
        seconds = time.process_time() - started
        before, after = size(onnx.load(source)), size(onnxopt.decompress(small))
        metric = realdata.evaluate(model, realdata.registered_session(small), limit=limit).metric
    return Factored(count, before[0] / after[0], before[1] / after[1], done.bytes_before / done.bytes_after, metric,
                    seconds, done.peak_memory or 0)  # fmt: skip


Row = tuple[str, list[Factored], float]
"""A model, its network after each of `PASSES`, and the original's metric."""


def measure(scope: Scope) -> list[Row]:
    """Every model after every number of passes."""
    return [
        (model, [TUNING.once(run, model, passes, scope.limit) for passes in PASSES], original(model, scope.limit))
        for model in MODELS
        if model in scope.models
    ]


def render(rows: Sequence[Row]) -> str:
    """One row a model."""
    lines = []
    for model, found, before in rows:
        last, allowed = found[-1], MODELS[model]
        lost = round(before - last.metric, 4)
        kept = ["", ""] if allowed is None else [f"{allowed:g}", "yes" if lost <= allowed else "**no**"]
        numbers = [f"{last.images:,}", f"{last.weights:.2f}", f"{last.macs:.2f}", f"{last.ratio:.2f}x"]
        scores = [f"{metric:.2f}" for metric in (before, *(one.metric for one in found), lost)]
        spent = [f"{last.cpu_seconds:.0f}", f"{last.peak_memory / 1e6:.0f}"]
        lines.append([model, *numbers, *scores, *kept, *spent])
    after = ["untuned %" if not passes else f"after {passes} %" for passes in PASSES]
    columns = ["model", "images", "M", "E", "ratio", "before %", *after, "lost", "may lose", "kept", "CPU s", "peak MB"]
    return markdown(columns, "lrrrrrrrrrrlrr", lines) + f"\n\nOn {machine()}."


TABLES = (Table("tuning-factors", "docs/tuning.md", 60, measure, render, tuple(MODELS)),)
