"""Integers that a model came with: coded as they are, and moved to coarser ones on data.

Each file is measured on inputs that it was not made with.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnxopt
from common import deployed, realdata
from common.kept import ONNXOPT
from common.pages import markdown
from onnxopt import Contract
from onnxopt.data import Spec
from tables import Scope, Table
from tables.transformers import noise_over_signal

BOUNDS = (0.05, 0.15)
"""On the noise: the default one, and one that fits what such models lose to their integers anyway."""
SPEAKERS = "voicefilter-embedder"


@dataclass(frozen=True, slots=True)
class Cell:
    """A file."""

    ratio: float
    noise: float
    """Noise over signal."""
    answers: str


@dataclass(frozen=True, slots=True)
class Row:
    """A model."""

    name: str
    size: int
    answers: str
    """The original's, or what stays of them."""
    lossless: Cell
    moved: tuple[Cell, ...]
    """By bound."""


def source_of(name: str) -> Path:
    """The model's file."""
    return deployed.path_of(name) if name == SPEAKERS else realdata.path_of(name)


def given(name: str, folder: Path) -> Spec:
    """What it is compressed on, a sample at a time: the models take no batches."""
    if name == SPEAKERS:
        return deployed.given(name, folder)
    batches = realdata.TASKS[name].batches("train")

    def samples() -> Iterator[realdata.Array]:
        for batch in batches():
            yield from (batch[i : i + 1] for i in range(len(batch)))

    return samples


@cache
def outcome(name: str, file: Path) -> tuple[list[realdata.Array], str]:
    """Outputs on other inputs, and what counts of them."""
    if name == SPEAKERS:
        return deployed.answers(name, file, "kept"), ""
    found = realdata.evaluate(name, realdata.registered_session(file))
    return list(found.outputs), f"{found.metric:.1f} %"


def measured(name: str, bound: float | None) -> Cell:
    """The file of a bound on the noise; without one, the lossless file."""
    source = source_of(name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.onnx"
        if bound is None:
            done = onnxopt.optimize(source, file, lossless=True)
        else:
            done = onnxopt.optimize(source, file, Contract(error=bound), given(name, Path(folder)))
        (wanted, _), (got, answers) = outcome(name, source), outcome(name, file)
    same = answers or f"{deployed.DEPLOYED[name].same(wanted, got):.1f} %"
    return Cell(done.bytes_before / done.bytes_after, noise_over_signal(wanted, got), same)


def row(name: str) -> Row:
    """Measures a model, or takes up what was measured before."""
    lossless, *moved = (ONNXOPT.once(measured, name, bound) for bound in (None, *BOUNDS))
    what = f"{deployed.DEPLOYED[name].agreement} that stay" if name == SPEAKERS else "top-1"
    return Row(name, source_of(name).stat().st_size, what, lossless, tuple(moved))


def measure(scope: Scope) -> list[Row]:
    """A row for each model."""
    return [row(name) for name in scope.models]


def render(rows: Sequence[Row]) -> str:
    """Ratio, noise and answers, by model and bound."""
    lines = [
        [one.name, f"{one.size / 1e6:.1f} MB", one.answers, f"{one.lossless.ratio:.2f}x", one.lossless.answers,
         *(text for cell in one.moved for text in (f"{cell.ratio:.2f}x", f"{cell.noise:.3f}", cell.answers))]
        for one in rows
    ]  # fmt: skip
    columns = ["model", "source", "answers", "lossless", "answers"]
    columns += [text for bound in BOUNDS for text in (f"`--data --error {bound:g}`", "noise", "answers")]
    return markdown(columns, "lrlrrrrrrrr", lines)


MODELS = ("mobilenet_v1_0.5_int8_tflite", "mobilenet_v2_int8_tflite")
TABLES = (Table("moved", "docs/weights.md", 15, measure, render, MODELS, (SPEAKERS,)),)
