"""Many contracts on the metric: how large the files are, and how often the promise holds on the whole test part.

Each contract has its own draw of labelled images from the training part, and no other data. The test part counts only.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import onnxopt
from common import realdata
from common.control import as_good
from common.kept import ONNXOPT, RUNTIME
from common.pages import markdown
from onnxopt import Contract
from tables import Scope, Table

MODELS = ("digits", "lenet5", "resnet8_keras", "resnet20")
ALLOWED = (0.1, 0.3, 1.0)
SAMPLES = (250, 500, 2000, 10_000)


@dataclass(frozen=True, slots=True)
class Row:
    """One contract."""

    model: str
    allowed: float
    samples: int
    """Images that were given: as many as asked for, or all."""
    ratio: float
    expected: float
    """Drop on new samples that was expected, and how much it was said to be at most."""
    high: float
    drop: float
    """On the test part, and its standard error there."""
    error: float
    refused: bool
    simple: float
    """Ratio of int8 with zstd, with the fewest bits that keep as much on the test part."""

    @property
    def held(self) -> bool:
        """Whether the test part drops by no more than is allowed and its standard error."""
        return self.drop <= self.allowed + self.error


def contract(model: str, allowed: float, samples: int, seed: int) -> Row:
    """One contract, with a draw of training images."""
    path = realdata.path_of(model)
    data = drawn(model, samples, seed)
    with tempfile.TemporaryDirectory() as folder:
        small, refused = Path(folder) / "small.onnx", False
        try:
            done = onnxopt.optimize(path, small, Contract(max_drop=allowed), data)
        except onnxopt.Missed:
            refused = True
            done = onnxopt.optimize(path, small, Contract(max_drop=allowed), data, allow_miss=True)
        assert done.promised is not None
        hits = right(model, small)
    lost = RUNTIME.once(original_hits, model) - hits
    given = min(samples, len(realdata.TASKS[model].read("train").images))
    return Row(model, allowed, given, done.bytes_before / done.bytes_after, done.promised.expected, done.promised.high,
               100 * float(lost.mean()), 100 * float(lost.std()) / len(lost) ** 0.5, refused, 0.0)  # fmt: skip


def drawn(model: str, samples: int, seed: int) -> Callable[[], Iterator[Any]]:
    """Labelled training images, drawn at random, as a function that yields batches."""
    task = realdata.TASKS[model]
    part = task.read("train")
    chosen = np.random.default_rng(seed).permutation(len(part.images))[:samples]

    def batches() -> Iterator[Any]:
        for i in range(0, len(chosen), 25):
            one = chosen[i : i + 25]
            yield task.prepare(part.images[one]), part.labels[one] + task.first_class

    return batches


def right(model: str, file: Path) -> Any:
    """For each image of the test part, whether a file's model is right."""
    found = realdata.evaluate(model, realdata.registered_session(file), batch=100).predictions
    return (found == realdata.TASKS[model].read("test").labels).astype(np.float64)


def original_hits(model: str) -> Any:
    """The same of the model as it is."""
    return right(model, realdata.path_of(model))


def measure(scope: Scope) -> list[Row]:
    """Every contract, the small models first."""
    rows = []
    for model in MODELS:
        if model not in scope.models:
            continue
        before = 100 * float(RUNTIME.once(original_hits, model).mean())
        for i, (allowed, samples) in enumerate((a, n) for a in ALLOWED for n in SAMPLES):
            row = ONNXOPT.once(contract, model, allowed, samples, i)
            simple = as_good(model, before - row.drop)
            rows.append(replace(row, simple=simple.ratio if simple else 0.0))
    return rows


def render(rows: Sequence[Row]) -> str:
    """A row for each contract, and what they come to."""
    lines = [
        [row.model, f"{row.allowed:g}", f"{row.samples:,}", f"{row.ratio:.2f}x",
         f"{row.simple:.2f}x" if row.simple else "never",
         f"{row.expected:.2f}, at most {row.high:.2f}", f"{row.drop:.2f} +- {row.error:.2f}",
         "refused" if row.refused else "yes" if row.held else "no"]
        for row in rows
    ]  # fmt: skip
    names = ["model", "may drop", "images", "ratio", "int8 + zstd, as accurate", "expected", "on the test part", "held"]
    return f"{markdown(names, 'lrrrrrrl', lines)}\n\n{summary(rows)}"


def summary(rows: Sequence[Row]) -> str:
    """The aims: promises that hold, and what few images cost."""
    held = sum(row.held and not row.refused for row in rows)
    said = [f"{held} of {len(rows)} contracts held."]
    most = {(row.model, row.allowed): row.ratio for row in rows}  # the last one has the most images
    for samples in SAMPLES[:-1]:
        shares = [row.ratio / most[row.model, row.allowed] for row in rows if row.samples == samples]
        if shares:
            said.append(
                f"With {samples:,} images the ratio is {median(shares):.0%} of that with the most, in the median."
            )
    larger = sum(row.ratio < row.simple for row in rows)
    return " ".join([*said, f"{larger} files are larger than int8 with zstd at the same accuracy."])


TABLES = (Table("contracts", "docs/contracts.md", 25, measure, render, MODELS),)
