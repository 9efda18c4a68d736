"""Whole networks factorised by ranks that onnxopt chooses: weights, multiply-accumulates, accuracy; no fine-tuning."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

import onnxopt
from common import realdata
from common.kept import ONNXOPT
from common.pages import markdown
from common.runs import original
from onnxopt.graph import macs, parameters
from onnxopt.spec.recipes import Recipe
from tables import Scope, Table

IMAGES = 1400
"""Of the training part; a quarter of them is held back to check on."""
RULES = ("tucker-vbmf", "microbrain-lowrank")
"""Recipes."""


def size(model: onnx.ModelProto) -> tuple[int, int]:
    """Weights and biases; multiply-accumulates of one image."""
    entry = model.graph.input[0]
    shape = [1, *(dim.dim_value for dim in entry.type.tensor_type.shape.dim[1:])]
    return parameters(model), sum(macs(model, {entry.name: np.zeros(shape, np.float32)}).values())


def row(model: str, recipe: str) -> list[str]:
    """One network by one recipe."""
    source = realdata.path_of(model)
    data = realdata.TASKS[model].batches("train", IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        output, plain = Path(folder) / "small.onnx", Path(folder) / "plain.onnx"
        found = onnxopt.optimize(source, output, data=data, recipe=Recipe.open(recipe))
        weights, work = size(onnx.load(source))
        fewer, less = size(onnxopt.decompress(output, plain))
        after = realdata.evaluate(model, realdata.plain_session(plain)).metric
    assert found.check is not None
    matrices = sum(event.elements > 0 and len(event.shape) > 1 and not event.ranks for event in found.events)
    layers = f"{len(found.chains)} of {len(found.chains) + matrices}"
    numbers = weights / fewer, work / less, found.check.found.error, original(model), after
    texts = (f"{number:.{digits}f}" for number, digits in zip(numbers, (2, 2, 3, 2, 2), strict=True))
    return [model, recipe, layers, *texts]


def measure(scope: Scope) -> list[list[str]]:
    """A row for each network and recipe."""
    return [ONNXOPT.once(row, model, recipe) for model in scope.models for recipe in RULES]


def render(rows: Sequence[list[str]]) -> str:
    """The rows in Markdown."""
    columns = ["model", "ranks by", "layers", "weights", "MACs", "noise/signal", "top-1 before", "after"]
    return markdown(columns, "lllrrrrr", rows)


TABLES = (Table("ranks", "docs/lowrank.md", 1, measure, render, ("lenet5",)),)
