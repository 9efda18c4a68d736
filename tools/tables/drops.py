"""What contracts on the metric find, and what the files lose on the test part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.kept import ONNXOPT
from common.pages import markdown
from common.runs import Run, optimize, original, training_images
from onnxopt import Contract
from tables import Scope, Table

DROPPING = (
    ("resnet20", 0.3),
    ("resnet32", 0.3),
    ("resnet56", 0.5),
    ("lenet5", 0.1),
    ("resnet50v2_imagenette", 0.5),
    ("squeezenet1.1", 1.0),
    ("mobilenet_v2", 1.0),
    ("mobilenet_v1_0.25", 1.0),
)
"""Models, and the points that their top-1 is allowed to drop."""
LABELLED = 12_000
"""Labelled training images, at most: a quarter is held back to search with."""


@dataclass(frozen=True, slots=True)
class Row:
    """One run."""

    model: str
    asked: float
    before: float
    run: Run


def measure(scope: Scope) -> list[Row]:
    """A row for each model."""
    return [
        Row(
            model,
            drop,
            original(model, scope.limit),
            ONNXOPT.once(optimize, model, Contract(max_drop=drop), LABELLED, scope.limit),
        )
        for model, drop in DROPPING
        if model in scope.models
    ]


def render(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = []
    for row in rows:
        run = row.run
        validation = "" if run.validation is None else f"{run.validation:.2f}"
        figures = [f"{row.asked:.1f}", validation, f"{row.before - run.metric:.2f}", f"{run.ratio:.2f}x"]
        end = [f"{run.seconds:.0f}", "3" if run.refused else "0"]
        lines.append([row.model, training_images(row.model, LABELLED), *figures, *end])
    columns = ["model", "labelled images", "may drop", "drops on those held back", "on the test part", "ratio", "s"]
    return markdown([*columns, "exit code"], "llrrrrrr", lines)


TABLES = (Table("drops", "docs/engine.md", 15, measure, render, tuple(model for model, _ in DROPPING)),)
