"""Models compressed to a ratio with training, and evaluated.

Training sees training images without labels; accuracy is that of the whole test part, measured once, on the finished
file. A run is kept until the model, `onnxopt/tuning` or the modules beside this one change, so that tables can be
completed row by row.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

import onnxopt
from common import realdata
from common.kept import Kept
from common.pages import machine
from common.runs import Run
from onnxopt import Contract
from onnxopt.report import classical
from onnxopt.report.classical import PaperTable
from onnxopt.results.result import Result
from onnxopt.spec.recipes import Recipe
from onnxopt.tuning import __file__ as tuning


def _version() -> str:
    """Of what trains."""
    files = sorted(Path(tuning).parent.glob("*.py"))
    return f"{machine()}, {hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()}"


TUNING = Kept(_version)


@contextmanager
def training_images(model: str) -> Iterator[Path]:
    """A file of all training images of a model, prepared and shuffled."""
    task = realdata.TASKS[model]
    with tempfile.TemporaryDirectory() as folder:
        file, images = Path(folder) / "train.npy", task.read("train").images
        np.save(file, task.prepare(images[np.random.default_rng(0).permutation(len(images))]))
        del images
        yield file


def run(model: str, ratio: float, tune: str, augment: str, limit: int | None) -> Run:
    """Compresses a model to a ratio; tuned for a time, or not where that is empty. Then evaluates it."""
    return _compressed(model, ratio, tune, augment, limit)[0]


def run_recipe(
    model: str, ratio: float, tune: str, augment: str, limit: int | None, recipe: str
) -> tuple[Run, PaperTable | None]:  # fmt: skip
    """The same by a recipe, with the paper's table of layers where it has one."""
    one = Recipe.open(recipe)
    found, done = _compressed(model, ratio, tune, augment, limit, one)
    return found, classical.of(one.table, done.events) if one.table else None


def _compressed(
    model: str, ratio: float, tune: str, augment: str, limit: int | None, recipe: Recipe | None = None
) -> tuple[Run, Result]:
    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder, training_images(model) as data:
        small = Path(folder) / "small.onnx"
        done = onnxopt.optimize(
            realdata.path_of(model), small, Contract(target_ratio=ratio), data, tune=tune or None,
            augment=augment or (), recipe=recipe,
        )  # fmt: skip
        cpu_seconds = time.process_time() - started
        found = Run(done.bytes_before, done.bytes_after, done.seconds, cpu_seconds, done.peak_memory or 0, None,
                    float("nan"))  # fmt: skip
        metric = realdata.evaluate(model, realdata.registered_session(small), limit=limit).metric
        return replace(found, metric=metric), done
