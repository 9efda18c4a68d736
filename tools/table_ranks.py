"""Whole networks in factors, by ranks that onnxopt chooses: weights, work and accuracy; rewrites docs/lowrank.md.

    python tools/table_ranks.py            # a minute
    python tools/table_ranks.py --print resnet20

Nothing is quantized, and nothing is trained.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import realdata
from generated import markdown, rewrite

import onnxopt
from onnxopt.graph import macs, parameters
from onnxopt.spec.recipes import Recipe

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "lowrank.md"
MARKER = "<!-- table:ranks -->"
MODELS = ("lenet5",)
IMAGES = 1400
"""Of the training part; the engine takes a quarter of them to check on."""
RULES = ("tucker-vbmf", "microbrain-lowrank")
"""Recipes; a step for all layers would do, too."""


def recipe(name: str, folder: Path) -> Recipe:
    """One that comes along, or that of a step for all layers."""
    if "{" not in name:
        return Recipe.open(name)
    file = folder / "mine.toml"
    file.write_text(f'[[rule]]\nop = ["Conv", "Gemm", "MatMul"]\naxes = 2\nstep = "{name}"\n', encoding="utf-8")
    return Recipe.open(str(file))


def size(model: onnx.ModelProto) -> tuple[int, int]:
    """Weights and biases; multiply-accumulates of one image."""
    entry = model.graph.input[0]
    shape = [1, *(dim.dim_value for dim in entry.type.tensor_type.shape.dim[1:])]
    return parameters(model), sum(macs(model, {entry.name: np.zeros(shape, np.float32)}).values())


def row(model: str, name: str, folder: Path, accuracy: float) -> list[str]:
    """One network by one rule; `accuracy` is the network's own."""
    source, output, plain = realdata.MODELS / f"{model}.onnx", folder / "small.onnx", folder / "plain.onnx"
    data = realdata.TASKS[model].batches("train", IMAGES)
    found = onnxopt.optimize(source, output, data=data, recipe=recipe(name, folder))
    weights, work = size(onnx.load(source))
    fewer, less = size(onnxopt.decompress(output, plain))
    after = realdata.evaluate(model, realdata.plain_session(plain)).metric
    assert found.check is not None
    matrices = sum(event.elements > 0 and len(event.shape) > 1 and not event.ranks for event in found.events)
    layers = f"{len(found.chains)} of {len(found.chains) + matrices}"
    numbers = weights / fewer, work / less, found.check.found.error, accuracy, after
    decimals = 2, 2, 3, 2, 2
    texts = (f"{number:.{digits}f}" for number, digits in zip(numbers, decimals, strict=True))
    return [model, name if "{" not in name else f"`{name}`", layers, *texts]


def table(models: tuple[str, ...]) -> str:
    """A row for each network and rule."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in models:
            accuracy = realdata.evaluate(model, realdata.plain_session(realdata.MODELS / f"{model}.onnx")).metric
            for name in RULES:
                rows.append(row(model, name, Path(folder), accuracy))
                print(*rows[-1], sep="\t", file=sys.stderr)
    columns = ["model", "ranks by", "layers", "weights", "MACs", "noise/signal", "top-1 before", "after"]
    return markdown(columns, "lllrrrrr", rows)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Whole networks in factors, by ranks that onnxopt chooses.")
    parser.add_argument("models", nargs="*", default=MODELS, help="of the shared folder")
    parser.add_argument("--print", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    text = table(tuple(arguments.models))
    print(text)
    if not arguments.print:
        rewrite(DOCUMENT, text, MARKER)
    return 0


if __name__ == "__main__":
    sys.exit(main())
