"""What `--effort best` gains at the same steps: noise on training images that calibration did not see."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from onnxruntime import InferenceSession

import onnxopt
from common import realdata
from common.kept import ONNXOPT
from common.pages import markdown
from onnxopt.metrics.output_error import output_error
from onnxopt.spec.effort import Effort
from tables import Scope, Table

IMAGES = {"resnet20": (1400, 600), "resnet32": (1400, 600), "lenet5": (1400, 600), "squeezenet1.1": (240, 60)}
"""Training images for calibration, and for noise."""
_BATCH = 50
Images = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One plan at both efforts."""

    bytes_usual: int
    bytes_best: int
    noise_usual: float
    noise_best: float


def run(model: str) -> Row:
    """Carries out one plan twice."""
    source, (images, others) = realdata.path_of(model), IMAGES[model]
    session = realdata.plain_session(source)
    name = session.get_inputs()[0].name
    every = np.concatenate(list(realdata.TASKS[model].batches("train", images + others)()))
    with tempfile.TemporaryDirectory() as folder:
        data, small = Path(folder) / "train.npz", Path(folder) / "small.onnx"
        np.savez(data, **{name: every[:images]})  # type: ignore[arg-type]
        plan = onnxopt.plan(source, onnxopt.Contract(error=0.05), data)
        found = []
        for effort in (Effort.DEFAULT, Effort.BEST):
            done = onnxopt.apply(source, replace(plan, effort=effort), small, data)
            compressed = realdata.registered_session(small)
            wanted, got = (_outputs(one, name, every[images:]) for one in (session, compressed))
            error = output_error([wanted], [got])
            found.append((done.bytes_after, error or 0.0))
    (usual, noise), (best, less) = found
    return Row(usual, best, noise, less)


def _outputs(session: InferenceSession, name: str, images: Images) -> Images:
    parts = (images[start : start + _BATCH] for start in range(0, len(images), _BATCH))
    return np.concatenate([session.run(None, {name: part})[0] for part in parts])


def measure(scope: Scope) -> list[tuple[str, Row]]:
    """Each model."""
    return [(model, ONNXOPT.once(run, model)) for model in scope.models]


def render(rows: Sequence[tuple[str, Row]]) -> str:
    """One row a model."""
    lines = [
        [model, f"{row.bytes_usual:,}", f"{row.bytes_best:,}", f"{row.noise_usual:.4f}", f"{row.noise_best:.4f}",
         f"{100 * (row.noise_best / row.noise_usual - 1):+.1f} %"]
        for model, row in rows
    ]  # fmt: skip
    return markdown(["model", "bytes", "best", "noise", "best", "noise"], "lrrrrr", lines)


TABLES = (Table("targets", "docs/quantizer.md", 4, measure, render, tuple(IMAGES)),)
