"""What `--effort fast` saves and `--effort best` gains, and what each costs, under one contract."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import onnxopt
from common import realdata
from common.kept import ONNXOPT
from common.pages import machine, markdown
from onnxopt.metrics.output_error import output_error
from onnxopt.spec.effort import Effort
from tables import Scope, Table

IMAGES = {"resnet20": 2000, "lenet5": 2000, "squeezenet1.1": 300, "mobilenet_v1_0.25": 300}
"""Training images for calibration; other models get none."""
OTHERS = ("kws_dscnn", "dtln2_lstm")
_TEST, _BATCH = 256, 32
"""Test images that noise is measured on, and how many run at a time."""


@dataclass(frozen=True, slots=True)
class Row:
    """One model at one effort."""

    cpu_seconds: float
    """Of all threads of `optimize`."""
    ratio: float
    noise: float
    """Noise over signal of the outputs on test images; where there are none, on the samples of the check."""
    trials: int


def run(model: str, effort: str) -> Row:
    """Compresses a model to the default contract."""
    source, images = realdata.path_of(model), IMAGES.get(model)
    with tempfile.TemporaryDirectory() as folder:
        data, small = None, Path(folder) / "small.onnx"
        if images:
            name = realdata.plain_session(source).get_inputs()[0].name
            data = Path(folder) / "train.npz"
            images_by_name = {name: np.concatenate(list(realdata.TASKS[model].batches("train", images)()))}
            np.savez(data, **images_by_name)  # type: ignore[arg-type]
        onnxopt.optimize(source, small, None, data, effort=Effort.FAST)  # modules are loaded, files are read
        started = time.process_time()
        done = onnxopt.optimize(source, small, None, data, effort=effort)
        seconds = time.process_time() - started
        assert done.check is not None
        noise = (_noise(model, small) if images else done.check.found.error) or 0.0
        return Row(seconds, done.bytes_before / done.bytes_after, noise, len(done.trials))


def _noise(model: str, small: Path) -> float | None:
    """Noise over signal in a file's outputs on test images."""
    sessions = (realdata.plain_session(realdata.path_of(model)), realdata.registered_session(small))
    wanted, got = (realdata.evaluate(model, session, limit=_TEST, batch=_BATCH).outputs for session in sessions)
    return output_error([wanted], [got])


def measure(scope: Scope) -> list[tuple[str, list[Row | None]]]:
    """Each model at the default effort, at the fast one and, with images, at the best one."""
    found = []
    for model in scope.models:
        efforts = [Effort.DEFAULT, Effort.FAST, *([Effort.BEST] if model in IMAGES else [])]
        rows: list[Row | None] = [ONNXOPT.once(run, model, effort.value) for effort in efforts]
        found.append((model, [*rows, *[None] * (3 - len(rows))]))
    return found


def render(rows: Sequence[tuple[str, list[Row | None]]]) -> str:
    """One row a model."""
    lines = []
    for model, efforts in rows:
        usual, line = efforts[0], [model]
        assert usual is not None
        line += [f"{row.cpu_seconds:.1f}" if row else "" for row in efforts]
        line += [f"{row.cpu_seconds / usual.cpu_seconds:.2f}" if row else "" for row in efforts[1:]]
        line += [str(row.trials) if row else "" for row in efforts]
        line += [f"{row.ratio:.2f}x" if row else "" for row in efforts]
        lines.append([*line, *(f"{row.noise:.4f}" if row else "" for row in efforts)])
    every = ["fast", "best"]
    columns = ["model", "CPU s", *every, "share: fast", "best", "trials", *every, "ratio", *every, "noise", *every]
    return markdown(columns, "l" + "r" * (len(columns) - 1), lines) + f"\n\nOn {machine()}."


TABLES = (Table("effort", "docs/engine.md", 3, measure, render, (*IMAGES, *OTHERS)),)
