"""What second moments of a layer's inputs are worth to its low-rank factors, on real layers and images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.kept import ONNXOPT
from common.layer_error import errors
from common.pages import markdown
from onnxopt.passes import STRUCTURAL
from onnxopt.spec.plan import Step
from tables import Scope, Table

MEASURED = (
    ("lenet5", (50, 20, 5, 5), ("svd{rank=8}", "svd{rank=20}", "tucker{in=6,out=15}", "tucker{in=10,out=25}",
                                "spatial{rank=8}", "spatial{rank=20}")),
    ("lenet5", (500, 800), ("svd{rank=8}", "svd{rank=32}", "svd{rank=100}", "tucker{in=20,out=60}")),
    ("resnet32", (64, 64, 3, 3), ("svd{rank=16}", "svd{rank=32}", "tucker{in=20,out=20}", "tucker{in=40,out=40}",
                                  "spatial{rank=24}", "spatial{rank=48}")),
    ("mobilefacenet", (512, 128, 1, 1), ("svd{rank=16}", "svd{rank=32}", "svd{rank=64}")),
    ("mobilefacenet", (128, 512), ("svd{rank=8}", "svd{rank=24}", "svd{rank=64}")),
)  # fmt: skip
"""Model, shape of the weight, decisions."""


@dataclass(frozen=True, slots=True)
class Row:
    """One decision on one layer."""

    model: str
    shape: tuple[int, ...]
    step: str
    errors: tuple[float, ...]
    """Plain, with means, with second moments."""


def errors_of(model: str, shape: tuple[int, ...], steps: tuple[str, ...]) -> list[Row]:
    """All decisions on one layer."""
    parsed = [Step.parse(text) for text in steps]
    found = errors(model, shape, [STRUCTURAL[step.name].from_step(step) for step in parsed])
    return [Row(model, shape, str(step), three) for step, three in zip(parsed, found, strict=True)]


def measure(scope: Scope) -> list[Row]:
    """Every layer of the models."""
    return [row for layer in MEASURED if layer[0] in scope.models for row in ONNXOPT.once(errors_of, *layer)]


def render(rows: Sequence[Row]) -> str:
    """One row a decision."""
    lines = [
        [row.model, "x".join(map(str, row.shape)), f"`{row.step}`", *(f"{error:.3f}" for error in row.errors)]
        for row in rows
    ]
    return markdown(["model", "weight", "step", "plain", "with means", "with second moments"], "lllrrr", lines)


TABLES = (
    Table("moments", "docs/lowrank.md", 2, measure, render, tuple(dict.fromkeys(layer[0] for layer in MEASURED))),
)
