"""What fine-tuning without labels buys: the accuracy of files of a given size.

The size is the contract, so nothing is tuned on test images. Training sees training images without labels; accuracy is
that of the whole test part, measured once, on the finished file. A row is kept until the model, `onnxopt/tuning`
or the tools change, so that the table can be completed row by row: `python tools tuning --only lenet5` measures one
model's.
"""

from __future__ import annotations

import hashlib
import tempfile
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
)


def _version() -> str:
    """Of what trains."""
    files = sorted(Path(tuning).parent.glob("*.py"))
    return f"{machine()}, {hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()}"


TUNING = Kept(_version)


def run(model: str, ratio: float, tune: str, augment: str, limit: int | None) -> Run:
    """Compresses a model to a ratio; tuned for a time, or not where that is empty. Then evaluates it."""
    task = realdata.TASKS[model]
    with tempfile.TemporaryDirectory() as folder:
        small, data = Path(folder) / "small.onnx", Path(folder) / "train.npy"
        images = task.read("train").images
        np.save(data, task.prepare(images[np.random.default_rng(0).permutation(len(images))]))
        del images
        done = onnxopt.optimize(
            realdata.path_of(model), small, Contract(target_ratio=ratio), data, tune=tune or None, augment=augment or ()
        )
        found = Run(done.bytes_before, done.bytes_after, done.seconds, float("nan"), done.peak_memory or 0, None,
                    float("nan"))  # fmt: skip
        metric = realdata.evaluate(model, realdata.registered_session(small), limit=limit).metric
        return replace(found, metric=metric)


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
        lines.append([ask.model, *sizes, *scores, training, f"{tuned.seconds:.0f}", f"{tuned.peak_memory / 1e6:.0f}"])
    columns = ["model", "asked", "bytes", "ratio", "before %", "untuned %", "tuned %", "lost", "may lose", "kept"]
    return markdown([*columns, "passes", "s", "peak MB"], "lrrrrrrrrrlrr", lines) + f"\n\nOn {machine()}."


TABLES = (Table("tuning", "docs/tuning.md", 5, measure, render, tuple(dict.fromkeys(ask.model for ask in ASKS))),)
